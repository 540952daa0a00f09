//! An event that comes while its vcpu goes to sleep, or while it opens its ears.

use crate::support::{self, guest::Guest, on_cpu};
use oxen_abi::domid::DomId;
use oxen_hv::domain::vcpu::Pauses;
use oxen_model::check;
use std::sync::{Mutex, atomic::Ordering::SeqCst};

/// The first words of pending and of mask bits in `shared_info`.
const PENDING: usize = 2048 / 8;
const MASK: usize = 2560 / 8;

/// Two domains with a channel between them; the second waits for events.
struct World {
    sender: Mutex<Guest>,
    receiver: Mutex<Guest>,
    /// The channel's ports.
    ports: (u32, u32),
}

impl World {
    /// The channel may be masked to begin with.
    fn new(is_masked: bool) -> &'static Self {
        on_cpu(0);
        let hv = support::boot(48);
        let [mut sender, mut receiver] = [1, 2].map(|id| Guest::new(hv, id, false, 8));
        let there = receiver.caller().alloc_unbound(DomId::SELF, DomId(1)).unwrap();
        let here = sender.caller().bind_interdomain(DomId(2), there).unwrap();
        let world = Self { sender: Mutex::new(sender), receiver: Mutex::new(receiver), ports: (here, there) };
        // Once before: whoever has its seat in a run queue is awake from then on.
        world.quiet();
        sleep(&world);
        send(&world);
        world.quiet();
        let receiver = world.receiver.lock().unwrap();
        hv.machine().words(receiver.domain.shared_info)[MASK].store(u64::from(is_masked) << there, SeqCst);
        drop(receiver);
        Box::leak(Box::new(world))
    }

    /// Nothing waits, and nobody.
    fn quiet(&self) {
        let receiver = self.receiver.lock().unwrap();
        let info = receiver.state.info;
        info.set_upcall_mask(false);
        info.upcall_pending().store(0, SeqCst);
        info.word(8).store(0, SeqCst);
        receiver.hv.machine().words(receiver.domain.shared_info)[PENDING].store(0, SeqCst);
        receiver.vcpu.pauses.store(Pauses::empty(), SeqCst);
    }

    fn receiver_is_told(&self) {
        let receiver = self.receiver.lock().unwrap();
        assert!(receiver.state.info.wants_upcall(), "an event is lost");
        assert!(!receiver.vcpu.pauses.load(SeqCst).intersects(Pauses::WAITING), "who has an event sleeps on");
    }
}

fn send(world: &World) {
    on_cpu(0);
    world.sender.lock().unwrap().caller().send_event(world.ports.0).unwrap();
}

fn sleep(world: &World) {
    on_cpu(1);
    world.receiver.lock().unwrap().caller().block();
}

fn poll(world: &World) {
    on_cpu(1);
    world.receiver.lock().unwrap().caller().poll(&[world.ports.1], None);
}

fn unmask(world: &World) {
    on_cpu(1);
    world.receiver.lock().unwrap().caller().unmask_port(world.ports.1).unwrap();
}

#[test]
fn who_falls_asleep_while_an_event_comes_is_woken() {
    println!("{} ways", check(World::new(false), 3, &[send, sleep], World::receiver_is_told));
}

#[test]
fn who_begins_to_poll_while_an_event_comes_is_woken() {
    println!("{} ways", check(World::new(false), 2, &[send, poll], World::receiver_is_told));
}

#[test]
fn an_event_that_comes_while_its_port_is_unmasked_is_delivered() {
    println!("{} ways", check(World::new(true), 3, &[send, unmask], World::receiver_is_told));
}
