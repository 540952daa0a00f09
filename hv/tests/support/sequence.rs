//! Short sequences of operations, drawn anew each time: of one that fails, proptest leaves out what does not
//! matter, and says what is left.

use proptest::prelude::{BoxedStrategy, Just, ProptestConfig, Strategy};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use std::marker::PhantomData;

/// A machine with guests on which operations are drawn.
pub(crate) trait World {
    fn begin() -> Self;
    /// Does what it makes of the numbers that follow from a seed, and judges what came of it. Says what it was.
    fn act(&mut self, seed: u64) -> String;
    /// Ends, and looks whether all came back.
    fn end(self);
}

/// The seed of one operation. Another number is another operation, not a smaller one: it
/// is never changed, only left out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed(u64);

/// What the draw needs to know of the world: nothing.
#[derive(Debug)]
pub(crate) struct Seeds;

impl ReferenceStateMachine for Seeds {
    type State = ();
    type Transition = Seed;

    fn init_state() -> BoxedStrategy<()> {
        Just(()).boxed()
    }

    fn transitions((): &()) -> BoxedStrategy<Seed> {
        (1..=u64::MAX).prop_map(Seed).no_shrink().boxed()
    }

    fn apply((): (), _: &Seed) {}
}

/// A world, and what was done to it, which is told when it ends in a panic.
pub(crate) struct Run<W> {
    world: Option<W>,
    done: Vec<String>,
}

impl<W> Drop for Run<W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{} operations, of which the last fails; the shortest such sequence is told last:",
                self.done.len()
            );
            self.done.iter().for_each(|what| eprintln!("    {what}"));
        }
    }
}

/// The test of a world.
pub(crate) struct Test<W>(PhantomData<W>);

impl<W: World> StateMachineTest for Test<W> {
    type SystemUnderTest = Run<W>;
    type Reference = Seeds;

    fn init_test((): &()) -> Run<W> {
        Run { world: Some(W::begin()), done: Vec::new() }
    }

    fn apply(mut run: Run<W>, (): &(), Seed(seed): Seed) -> Run<W> {
        run.done.push(format!("what seed {seed:#x} stands for"));
        let said = run.world.as_mut().map(|world| world.act(seed));
        run.done.pop();
        run.done.extend(said);
        run
    }

    fn teardown(mut run: Run<W>) {
        run.world.take().into_iter().for_each(W::end);
    }
}

/// As many sequences, and as many tries to shorten one. (Each machine stays in memory until the test ends.)
pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, max_shrink_iters: 1000, failure_persistence: None, ..ProptestConfig::default() }
}
