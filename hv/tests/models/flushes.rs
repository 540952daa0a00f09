//! CPUs that have each other flush what they remember of an entry.

use crate::support::{self, on_cpu};
use oxen_hv::{
    addr::GuestAddr,
    lock::{Lock, rank},
    shootdown::Shootdown,
};
use oxen_model::{check, wait};
use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// What an entry is before, and what it becomes.
const OLD: u64 = 0;
const NEW: u64 = 1;

/// Two CPUs, an entry that each changes, and what the other one remembers of it.
struct World {
    shootdown: Shootdown,
    entries: [AtomicU64; 2],
    remembered: [AtomicU64; 2],
    lock: Lock<u32, { rank::RUN_QUEUE }>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| World {
    shootdown: Shootdown::new(),
    entries: [const { AtomicU64::new(OLD) }; 2],
    remembered: [const { AtomicU64::new(OLD) }; 2],
    lock: Lock::new(0),
});

/// The page that a CPU's entry maps.
fn page(cpu: usize) -> GuestAddr {
    GuestAddr::new((cpu as u64 + 1) << 12)
}

impl World {
    /// The CPU does what the other asks. It walks to the entry again at once, as a CPU may.
    fn serve(&self, this: usize) {
        let other = 1 - this;
        self.shootdown.serve(this, |asked| {
            assert_eq!(asked, Some(page(other)), "what is flushed is what was asked for");
            self.remembered[other].store(self.entries[other].load(Relaxed), Relaxed);
        });
    }

    /// The CPU changes its entry, and has the other one flush it.
    fn change(&self, this: usize) {
        let other = 1 - this;
        self.entries[this].store(NEW, Relaxed);
        let turn = || {
            self.serve(this);
            wait();
        };
        self.shootdown.ask(this, 1 << other, Some(page(this)), |_| {}, turn, || false).unwrap();
        assert_eq!(self.remembered[this].load(Relaxed), NEW, "who is answered can rely on it");
    }

    /// The interrupt comes once the CPU takes interrupts again.
    fn take_interrupt(&self, this: usize) {
        while self.remembered[1 - this].load(Relaxed) == OLD {
            self.serve(this);
            wait();
        }
    }
}

fn first(world: &World) {
    world.change(0);
    world.take_interrupt(0);
}

fn second(world: &World) {
    world.change(1);
    world.take_interrupt(1);
}

#[test]
fn cpus_that_ask_each_other_at_once_are_both_answered_when_it_is_done() {
    println!("{} ways", check(&*WORLD, 2, &[first, second], |_| {}));
}

fn change_with_the_lock(world: &World) {
    on_cpu(0);
    let mut held = world.lock.lock();
    world.change(0);
    *held += 1;
}

fn wait_for_the_lock(world: &World) {
    on_cpu(1);
    support::while_waiting(|| WORLD.serve(1));
    *world.lock.lock() += 1;
    world.take_interrupt(1);
}

fn both_had_it(world: &World) {
    assert_eq!(std::mem::take(&mut *world.lock.lock()), 2);
}

#[test]
fn who_waits_for_a_lock_serves_who_holds_it_and_the_lock_is_handed_over() {
    // Whoever boots says who listens while a CPU waits.
    support::boot(24);
    println!("{} ways", check(&*WORLD, 1, &[change_with_the_lock, wait_for_the_lock], both_had_it));
}
