//! Grant tables under hostile hands: random requests against a model of the ABI, everything counted again as they go.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod batches;
mod copying;
mod entries;
mod mapping;
mod parts;
mod questions;
mod races;
#[path = "../support/sequence.rs"]
mod sequence;
#[path = "../support/mod.rs"]
mod support;
mod versions;
mod world;

use oxen_hv::reply::Stop;
use proptest_state_machine::prop_state_machine;
use sequence::{Test, config};
use std::sync::atomic::Ordering::SeqCst;
use support::{
    audit::{self, Holds},
    dice::Dice,
    hostile,
};
use world::{GUESTS, World};

const OPERATIONS: u32 = 400_000;

#[test]
fn every_status_is_the_model_s_and_a_refusal_changes_nothing() {
    for seed in [0x9e37_79b9_7f4a_7c15, 5] {
        let (mut world, mut dice) = (World::new(), Dice(seed));
        for n in 0..OPERATIONS / 2 {
            world.step(&mut dice);
            world.check();
            if n % 256 == 0 {
                world.count();
            }
        }
        world.count();
    }
}

impl hostile::Model for World {
    const WHAT: (&'static str, &'static str) = ("grants", "2, 3, 9 and the model of every status");
    const COUNT_EVERY: u64 = 256;

    fn begin() -> Self {
        Self::new()
    }

    fn step(&mut self, dice: &mut Dice) {
        self.step(dice);
        self.check();
    }

    fn count(&mut self) {
        World::count(self);
    }
}

#[test]
#[ignore = "as long as one asks for: `cargo xtask hostile`"]
fn hostile_operations() {
    hostile::run::<hostile::Drawn<World>>();
}

prop_state_machine! {
    #![proptest_config(config(48))]

    #[test]
    fn a_short_sequence_with_another_status_is_shrunk(sequential 1..200 => Test<World>);
}

#[test]
fn a_dead_domain_holds_nothing_and_what_it_granted_stays_until_it_is_unmapped() {
    let (mut world, mut dice) = (World::new(), Dice(11));
    (0..4000).for_each(|_| _ = world.step(&mut dice));
    let domain = world.sides[0].guest.domain.clone();
    domain.memory.is_dying.store(true, SeqCst);
    let hv = world.sides[0].guest.hv;
    while hv.release_grants(&domain) == Err(Stop::Unfinished) {}
    assert_eq!(domain.grants.lock().mappings(), 0);
    assert_eq!(domain.grants.lock().size().0, 0);
    assert!(hv.grant_table_frame(&domain, 0).is_err());
    world.sides[0].mappings.clear();
    // The others still hold what it granted, and lose nothing when they give it back.
    for n in 1..GUESTS {
        let others: Vec<_> = world.sides[n].guest.domain.grants.lock().each_pin().collect();
        assert!(others.iter().all(|pin| usize::from(pin.2) != domain.owner().slot().unwrap()));
        while hv.release_grants(&world.sides[n].guest.domain) == Err(Stop::Unfinished) {}
    }
    let mut known = Holds::default();
    for side in &world.sides {
        known.add(side.guest.domain.shared_info, true);
        known.add(side.home.tables[0], true);
    }
    audit::check(hv, &known, audit::nothing_lent);
}
