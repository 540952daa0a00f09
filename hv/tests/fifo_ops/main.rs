//! The FIFO event channel ABI under hostile hands: random operations of two guests, and random words where the
//! hypervisor keeps its queues, against a model of the ABI; every word of the shared pages is compared after each.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod expected;
mod model;
#[path = "../support/mod.rs"]
mod support;
mod world;

use support::{
    audit::{self, Holds},
    dice::Dice,
    hostile,
};
use world::World;

const OPERATIONS: u32 = 150_000;

#[test]
fn every_word_is_the_model_s_whatever_the_guests_write() {
    for seed in [0x9e37_79b9_7f4a_7c15, 3, 0xdead_beef] {
        let (mut world, mut dice) = (World::new(), Dice(seed));
        let mut known = Holds::default();
        world.guests.iter().for_each(|guest| known.add(guest.domain.shared_info, true));
        for round in 0..OPERATIONS / 3 {
            let what = world.step(&mut dice);
            world.check(&what);
            if round % 1000 == 0 {
                audit::check(world.guests[0].hv, &known, audit::nothing_lent);
            }
        }
    }
}

impl hostile::Model for World {
    const WHAT: (&'static str, &'static str) = ("fifo", "2, 9 and the model of every word");
    const COUNT_EVERY: u64 = 1000;

    fn begin() -> Self {
        Self::new()
    }

    fn step(&mut self, dice: &mut Dice) {
        let what = self.step(dice);
        self.check(&what);
    }

    fn count(&mut self) {
        let mut known = Holds::default();
        self.guests.iter().for_each(|guest| known.add(guest.domain.shared_info, true));
        audit::check(self.guests[0].hv, &known, audit::nothing_lent);
    }
}

#[test]
#[ignore = "as long as one asks for: `cargo xtask hostile`"]
fn hostile_operations() {
    hostile::run::<hostile::Drawn<World>>();
}
