//! Hypercalls, traps, writes to memory and moves between CPUs, by several domains on the fake machine of the
//! hypervisor's tests: whatever comes in whatever order, the laws hold, and everything comes back when the domains end.

mod act;
mod code;
mod cpus;
mod input;
mod laws;
#[path = "../../../hv/tests/support/mod.rs"]
#[allow(missing_docs, unreachable_pub, reason = "it is the tests' own")]
mod support;
mod world;

// The tests' support asserts by it.
use static_assertions as _;

use input::Input;
use world::World;

/// Steps of a sequence at most.
const MAX_STEPS: usize = 300;
/// Steps from one audit to the next.
const AUDIT_EVERY: usize = 25;

/// A sequence of what domains do, as bytes decide.
pub(crate) fn sequence(input: &[u8]) {
    let mut input = Input::new(input);
    let mut world = World::begin();
    for step in 1..=MAX_STEPS {
        if input.is_empty() || !world.goes_on() {
            break;
        }
        act::step(&mut world, &mut input);
        if step % AUDIT_EVERY == 0 {
            laws::check(world.hv);
        }
    }
    laws::check(world.hv);
    world.end();
}
