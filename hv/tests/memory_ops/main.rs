//! Memory under hostile hands: random operations on page tables and reservations, the laws checked all along.
//!
//! Two guests and a control domain act on a small machine with four CPUs. Each has a home address space that keeps its
//! request buffer mapped; everything else it has is thrown about. The hypervisor takes frames for itself in between,
//! and sometimes there are none at the worst moment. After each operation the caches of the CPUs are looked at and what
//! newly came to a guest is searched for what others left there, after each refusal everything must be as before, and
//! every so often all holds are counted again.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used, reason = "it is a test")]

mod grants;
mod random;
mod reservations;
#[path = "../support/sequence.rs"]
mod sequence;
mod shadows;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod world;

use oxen_abi::{domid::DomId, errno::Errno};
use oxen_hv::{addr::GuestAddr, caller::Caller, mem::frame_type::FrameType};
use proptest_state_machine::prop_state_machine;
use sequence::{Test, config};
use support::{audit, boot, guest::Guest, hostile};
use world::{BUFFER, World};

/// Operations of a run: over a million in all.
const OPERATIONS: u32 = 350_000;
const RECOUNT_EVERY: u32 = 200;

fn run(seed: u64) {
    let mut world = World::new(seed);
    let mut kinds = [0_u32; 4];
    let mut linear = [[0_u32; 2]; 4];
    for count in 1..=OPERATIONS {
        world.step();
        if count % RECOUNT_EVERY == 0 {
            let found = audit::check(world.hv, &world.known(), |owner, frame| world.was_lent(owner, frame));
            linear.iter_mut().flatten().zip(found.iter().flatten()).for_each(|(sum, found)| *sum += found);
            for frame in world.hv.each_frame() {
                let state = world.hv.memory.frames.state(frame);
                if let (Some(level), true) = (state.kind().level(), state.uses() != 0) {
                    kinds[level as usize - 1] += 1;
                }
            }
        }
    }
    // The random walk is worth something only if tables of every level come about beside the homes.
    let homes = OPERATIONS / RECOUNT_EVERY * 3;
    assert!(kinds.iter().all(|&n| n > homes * 6 / 5), "{kinds:?} tables against {homes}");
    // And the logs only if most of them find room: those that do not are no promise, and their rounds do not count.
    let rounds: u32 = world.players.iter().map(|player| player.rounds).sum();
    assert!(rounds > OPERATIONS / 150, "{rounds} rounds of logs");
    assert!(linear[1..].iter().flatten().all(|&n| n > 20), "{linear:?} linear entries");
    world.end();
}

#[test]
fn the_laws_hold_under_hostile_hands_first_seed() {
    run(0x9e37_79b9_7f4a_7c15);
}

#[test]
fn the_laws_hold_under_hostile_hands_second_seed() {
    run(0xdead_beef_cafe_f00d);
}

#[test]
fn the_laws_hold_under_hostile_hands_third_seed() {
    run(0x0123_4567_89ab_cdef);
}

#[test]
#[ignore = "as long as one asks for: `cargo xtask hostile`"]
fn hostile_operations() {
    hostile::run::<World>();
}

prop_state_machine! {
    #![proptest_config(config(48))]

    #[test]
    fn a_short_sequence_that_breaks_a_law_is_shrunk(sequential 1..200 => Test<World>);
}

#[test]
fn dom_ids_of_no_domain_are_told() {
    support::on_cpu(0);
    let mut guest = Guest::new(boot(64), 1, false, 40);
    let _home = guest.build_home(4);
    assert_eq!(guest.call(Caller::mmu_update, [BUFFER, 0, 0, 9]), Err(Errno::Srch));
    // Nothing is done for nobody, and that is said of entries, as on Xen.
    let counter = BUFFER + 0x100;
    let counted = |guest: &Guest| guest.hv.machine().read_guest_word(GuestAddr::new(counter)).unwrap();
    guest.put(counter, &[0x77]);
    assert_eq!(guest.call(Caller::mmuext_op, [BUFFER, 1, counter, 9]), Err(Errno::Srch));
    assert_eq!(counted(&guest), 0x77);
    assert_eq!(guest.call(Caller::mmu_update, [BUFFER, 1, counter, 9]), Err(Errno::Srch));
    assert_eq!(counted(&guest), 0);
    assert_eq!(guest.domain.id, DomId(1));
    assert_eq!(guest.hv.memory.frames.state(guest.domain.shared_info.mfn()).kind(), FrameType::Writable);
}
