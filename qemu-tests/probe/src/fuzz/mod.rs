//! Sequences of calls and instructions drawn from seeds, with all that came of them, printed so that what two
//! hypervisors answer compares as text.
//!
//! `fuzz=SEED` on the command line is the first seed, `count=N` how many follow one another, `calls=K` the length of a
//! sequence; `only=3.5+5+0.5` runs parts of the first sequence instead, each as a sequence of its own; `draw=control`
//! draws nothing but what is a control domain's; `sweep=1` goes through all registers and leaves that there could be
//! instead ([`sweep`]); `race=SECONDS` has all vcpus do what is drawn, at once ([`race`]); `names=1` names the steps
//! and does none. A line is `fuzz: SEED.CALL what = answer effects`, where with `only` the part's number stands in the
//! seed's place.
//!
//! Left out of what is drawn:
//! - what ends the guest or the machine: shutdown, block, `hlt`, watchdogs, reset of all ports (but between
//!   sequences), a vcpu that goes down, `iret` (its frame decides where the kernel goes on), `kexec_op`
//!   that would start another kernel;
//! - what cannot be taken back: a moved `vcpu_info`, frames given away for good;
//! - what comes when it likes: `send_nmi`, timers that end within a sequence.

mod call;
mod draw;
mod effects;
mod grants;
mod perform;
mod race;
pub(crate) mod random;
mod reset;
mod sweep;
mod table;
mod value;
mod world;

use alloc::vec::Vec;

use oxen_domu_lib::{println, start_info};

use self::random::Random;
use self::value::Value;
use self::world::World;

fn number(key: &str, otherwise: u64) -> u64 {
    start_info::option(key).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Runs what the command line wants.
pub(crate) fn run(first: u64) {
    let Some(mut world) = World::new() else {
        println!("fuzz: no memory to work with");
        return;
    };
    println!("fuzz: ready");
    if number("sweep", 0) != 0 {
        if world.reset(first, false).is_ok() {
            sweep::run(&mut world);
        }
        println!("fuzz: done");
        return;
    }
    if number("race", 0) != 0 {
        race::run(&mut world, first, number("race", 0));
        println!("fuzz: done");
        return;
    }
    let length = number("calls", 12);
    if let Some(parts) = start_info::option("only") {
        for (part, calls) in (0..).zip(parts.split('+')) {
            let calls: Vec<u64> = calls.split('.').filter_map(|call| call.parse().ok()).collect();
            if !sequence(&mut world, part, first, &calls) {
                return;
            }
        }
    } else {
        let all: Vec<u64> = (0..length).collect();
        for seed in first..first + number("count", 1) {
            if !sequence(&mut world, seed, seed, &all) {
                return;
            }
        }
    }
    println!("fuzz: done");
}

/// Runs calls of a seed's sequence from the defined state; false where that cannot be had any more.
fn sequence(world: &mut World, label: u64, seed: u64, calls: &[u64]) -> bool {
    let only_control = world.privileged && start_info::option("draw").as_deref() == Some("control");
    let draw = |call: u64| (call, draw::step(&mut Random::of(seed, call), world.privileged, only_control));
    let steps: Vec<_> = calls.iter().map(|call| draw(*call)).collect();
    if number("names", 0) != 0 {
        steps.iter().for_each(|(call, step)| println!("fuzz: {label}.{call} {step}"));
        return true;
    }
    if let Err(what) = world.reset(seed, steps.iter().any(|(_, step)| step.names(Value::Other))) {
        println!("fuzz: {label}.reset {what}");
        return false;
    }
    for (call, step) in steps {
        // What the hypervisor says while a step is done does not part the line.
        println!("fuzz: {label}.{call} {step} ={}", world.perform(&step));
    }
    true
}
