//! The way through the seeds: a boot after the other, whatever ends one early.

use anyhow::{Result, bail};

use super::Seeds;
use super::lines::{Difference, Place, Transcript};

/// Calls that are asked in one boot: what one machine has grown into is not all that follows depends on.
const CALLS_PER_BOOT: u64 = 60_000;

/// How both sides are asked.
pub(super) trait Ask {
    /// Boots both for some seeds; what real Xen's guest said, and ours.
    ///
    /// # Errors
    /// Fails when a machine cannot be started.
    fn ask(&mut self, seeds: Seeds) -> Result<(Transcript, Transcript)>;

    /// Hears where one of the guests gave no answer, before the rest is asked in another boot.
    ///
    /// # Errors
    /// Fails when it cannot be written down.
    fn stopped(&mut self, seeds: Seeds, place: Place, xen: &Transcript, oxen: &Transcript) -> Result<()>;
}

/// Parts of the seeds, each for a boot.
pub(super) fn boots(seeds: Seeds) -> impl Iterator<Item = Seeds> {
    let step = (CALLS_PER_BOOT / seeds.calls.max(1)).max(1);
    let starts = (0..seeds.count).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    starts.map(move |at| Seeds { first: seeds.first + at, count: step.min(seeds.count - at), ..seeds })
}

/// Asks seeds until each has been asked. Returns how many steps were compared, and the
/// first difference of each sequence.
///
/// # Errors
/// Fails when a side cannot be booted, or its guest does not begin.
pub(super) fn walk(mut seeds: Seeds, all: bool, sides: &mut impl Ask) -> Result<(usize, Vec<Difference>)> {
    let (mut steps, mut differences) = (0, Vec::new());
    while seeds.count > 0 {
        let (xen, oxen) = sides.ask(seeds)?;
        for (name, side) in [("real Xen", &xen), ("Oxen", &oxen)] {
            if !side.is_ready {
                bail!("on {name} the guest did not begin");
            }
        }
        let reached = xen.reached(&oxen, seeds.plan());
        steps += xen.common(&oxen, seeds.plan(), reached);
        differences.extend(xen.differences(&oxen, reached, all));
        // What ends one of the guests ends the boot.
        let Some(place) = reached else { break };
        sides.stopped(seeds, place, &xen, &oxen)?;
        let next = place.0 + 1;
        seeds = Seeds { first: next, count: (seeds.first + seeds.count).saturating_sub(next), ..seeds };
    }
    Ok((steps, differences))
}

#[cfg(test)]
mod tests {
    use super::{Ask, boots, walk};
    use crate::fuzz::Seeds;
    use crate::fuzz::lines::{Place, Transcript};
    use anyhow::Result;
    use std::fmt::Write;

    /// Guests of which some steps make something: an end, or a machine that hangs.
    #[derive(Default)]
    struct Fake {
        xen_hangs: Vec<Place>,
        oxen_hangs: Vec<Place>,
        oxen_ends: Vec<Place>,
        asked: Vec<(u64, u64)>,
        stopped: Vec<Place>,
    }

    fn say(seeds: Seeds, hangs: &[Place], ends: &[Place]) -> Transcript {
        let mut said = String::from("fuzz: ready\n");
        for (seed, call) in seeds.plan() {
            if hangs.contains(&(seed, call)) || ends.contains(&(seed, call)) {
                return Transcript::read(&said, hangs.contains(&(seed, call)));
            }
            writeln!(said, "fuzz: {seed}.{call} step = 0").unwrap();
        }
        Transcript::read(&(said + "fuzz: done\n"), false)
    }

    impl Ask for Fake {
        fn ask(&mut self, seeds: Seeds) -> Result<(Transcript, Transcript)> {
            self.asked.push((seeds.first, seeds.count));
            Ok((say(seeds, &self.xen_hangs, &[]), say(seeds, &self.oxen_hangs, &self.oxen_ends)))
        }

        fn stopped(&mut self, _: Seeds, place: Place, _: &Transcript, _: &Transcript) -> Result<()> {
            self.stopped.push(place);
            Ok(())
        }
    }

    const SEEDS: Seeds = Seeds { first: 10, count: 5, calls: 3, control: false };

    #[test]
    fn all_seeds_are_asked_at_once_where_nothing_ends_early() {
        let mut fake = Fake::default();
        let (steps, differences) = walk(SEEDS, false, &mut fake).unwrap();
        assert_eq!((steps, differences, fake.asked), (15, Vec::new(), vec![(10, 5)]));
    }

    #[test]
    fn where_both_hang_the_run_goes_on_behind_that_seed() {
        let mut fake = Fake { xen_hangs: vec![(12, 1)], oxen_hangs: vec![(12, 1)], ..Fake::default() };
        let (steps, differences) = walk(SEEDS, false, &mut fake).unwrap();
        assert_eq!((steps, differences), (6 + 1 + 6, Vec::new()));
        assert_eq!((fake.asked, fake.stopped), (vec![(10, 5), (13, 2)], vec![(12, 1)]));
    }

    #[test]
    fn where_one_hangs_it_is_a_difference_and_the_rest_is_asked_again() {
        let mut fake = Fake { oxen_hangs: vec![(10, 0), (14, 2)], ..Fake::default() };
        let (steps, differences) = walk(SEEDS, false, &mut fake).unwrap();
        let found: Vec<Place> = differences.iter().map(|found| (found.label, found.call)).collect();
        assert_eq!((steps, found), (9 + 2, vec![(10, 0), (14, 2)]));
        assert_eq!(fake.asked, [(10, 5), (11, 4)]);
    }

    #[test]
    fn an_end_is_no_hang() {
        let mut fake = Fake { xen_hangs: vec![(11, 1)], oxen_ends: vec![(11, 1)], ..Fake::default() };
        let (_, differences) = walk(SEEDS, false, &mut fake).unwrap();
        assert_eq!(differences.len(), 1);
        assert!(differences[0].xen.contains("hangs") && differences[0].oxen.contains("ended"));
    }

    #[test]
    fn boots_cover_each_seed_once() {
        let seeds = Seeds { first: 7, count: 11_000, calls: 12, control: false };
        let parts: Vec<_> = boots(seeds).map(|part| (part.first, part.count)).collect();
        assert_eq!(parts, [(7, 5_000), (5_007, 5_000), (10_007, 1_000)]);
        let long = Seeds { calls: 100_000, ..SEEDS };
        assert_eq!(boots(long).count(), 5);
    }
}
