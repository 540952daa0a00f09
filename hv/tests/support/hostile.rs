//! Long runs (`cargo xtask hostile`): as many random operations as one asks for, everything counted again as they go, a
//! line of progress every half minute and a report at the end.

use super::dice::Dice;
use std::time::{Duration, Instant};

/// Operations after which a world is ended, looked at, and begun anew.
const LIFE: u64 = 10_000_000;
const PROGRESS_EVERY: Duration = Duration::from_secs(30);

/// A machine with guests on which operations are drawn.
pub(crate) trait Suite {
    /// Its name, and the laws that its audits look at.
    const WHAT: (&'static str, &'static str);
    /// Operations from one count of everything to the next.
    const COUNT_EVERY: u64;
    fn begin(seed: u64) -> Self;
    /// Does something, and judges what came of it.
    fn step(&mut self);
    /// Counts everything again.
    fn count(&mut self);
    /// Ends, and looks whether all came back.
    fn end(self);
}

/// A model of some guests, whose operations are drawn by dice that are not its own.
pub(crate) trait Model {
    /// As [`Suite::WHAT`].
    const WHAT: (&'static str, &'static str);
    /// As [`Suite::COUNT_EVERY`].
    const COUNT_EVERY: u64;
    fn begin() -> Self;
    /// As [`Suite::step`].
    fn step(&mut self, dice: &mut Dice);
    /// As [`Suite::count`].
    fn count(&mut self);
}

/// A model, and what draws.
pub(crate) struct Drawn<W>(W, Dice);

impl<W: Model> Suite for Drawn<W> {
    const WHAT: (&'static str, &'static str) = W::WHAT;
    const COUNT_EVERY: u64 = W::COUNT_EVERY;

    fn begin(seed: u64) -> Self {
        Self(W::begin(), Dice(seed))
    }

    fn step(&mut self) {
        self.0.step(&mut self.1);
    }

    fn count(&mut self) {
        self.0.count();
    }

    fn end(self) {}
}

fn ordered(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().expect("a number"))
}

/// Runs a suite for as long as the environment says: `OXEN_HOSTILE_OPERATIONS` from the seed `OXEN_HOSTILE_SEED` on.
pub(crate) fn run<S: Suite>() {
    let operations = ordered("OXEN_HOSTILE_OPERATIONS", 100_000);
    let seed = ordered("OXEN_HOSTILE_SEED", 1);
    let (suite, laws) = S::WHAT;
    let begun = Instant::now();
    let (mut done, mut counts, mut worlds, mut told) = (0, 0_u64, 0_u64, begun);
    while done < operations {
        // Seeds of generators are not 0, and those of neighbours have little in common.
        let mut world = S::begin(seed.wrapping_add(worlds).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        worlds += 1;
        for _ in 0..LIFE.min(operations - done) {
            world.step();
            done += 1;
            if done % S::COUNT_EVERY == 0 {
                world.count();
                counts += 1;
                if told.elapsed() > PROGRESS_EVERY {
                    told = Instant::now();
                    println!("hostile: {suite}: {done} of {operations}, {:.0} s", begun.elapsed().as_secs_f32());
                }
            }
        }
        world.count();
        counts += 1;
        world.end();
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "hostile: {suite}: {done} operations, seed {seed}, {worlds} machines, everything counted {counts} times \
         (laws {laws}), {seconds:.0} s, {:.0} a second",
        done as f64 / seconds.max(0.001)
    );
}
