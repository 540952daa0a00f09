//! Event channels under hostile hands: random operations against a model of the ABI, the laws checked after each.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod expected;
#[path = "../support/sequence.rs"]
mod sequence;
#[path = "../support/mod.rs"]
mod support;
mod world;

use oxen_abi::{
    domid::DomId,
    errno::Errno,
    virq::{VIRQ_CONSOLE, VIRQ_DOM_EXC, VIRQ_TIMER},
};
use oxen_hv::{domain::vcpu::Pauses, event::port::Binding, reply::Stop};
use proptest_state_machine::prop_state_machine;
use sequence::{Test, config};
use std::sync::atomic::Ordering::SeqCst;
use support::{dice::Dice, guest::Guest, hostile};
use world::{LIMIT, World};

const OPERATIONS: u32 = 600_000;

#[test]
fn every_answer_is_the_model_s_and_a_refusal_changes_nothing() {
    for seed in [0x9e37_79b9_7f4a_7c15, 3, 0xdead_beef] {
        let (mut world, mut dice) = (World::new(), Dice(seed));
        for _ in 0..OPERATIONS / 3 {
            let what = world.step(&mut dice);
            world.check(&what);
        }
    }
}

impl hostile::Model for World {
    const WHAT: (&'static str, &'static str) = ("events", "9 and the model of every answer");
    const COUNT_EVERY: u64 = 256;

    fn begin() -> Self {
        Self::new()
    }

    fn step(&mut self, dice: &mut Dice) {
        let what = self.step(dice);
        self.check(&what);
    }

    fn count(&mut self) {
        self.guests.iter().for_each(|guest| assert_eq!(guest.hv.audit_events(&guest.domain), Ok(())));
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
    fn a_short_sequence_with_another_answer_is_shrunk(sequential 1..200 => Test<World>);
}

#[test]
fn nothing_is_left_of_a_domain_s_channels() {
    let (mut world, mut dice) = (World::new(), Dice(7));
    for _ in 0..3000 {
        world.step(&mut dice);
    }
    let dying = &world.guests[1].domain;
    dying.memory.is_dying.store(true, SeqCst);
    assert_eq!(world.guests[1].hv.close_all_ports(dying, &mut 0), Ok(()));
    assert!((1..LIMIT).all(|p| dying.events.port(p).unwrap().binding() == Binding::Closed));
    for guest in &world.guests {
        assert_eq!(guest.hv.audit_events(&guest.domain), Ok(()));
    }
    assert_eq!(world.caller(0).alloc_unbound(DomId(1), DomId(0)), Err(Errno::Inval.into()));
    assert_eq!(world.caller(1).bind_ipi(0), Err(Errno::Inval.into()));
}

#[test]
fn a_domain_without_memory_for_ports_is_told() {
    let mut world = World::new();
    world.guests[0].hv.machine().heap_left.store(0, SeqCst);
    assert_eq!(world.caller(1).bind_ipi(0), Err(Errno::NoMem.into()));
    assert_eq!(world.caller(1).alloc_unbound(DomId::SELF, DomId(0)), Err(Errno::NoMem.into()));
    world.check("running out of memory");
}

#[test]
fn ports_beyond_the_first_page_work_up_to_the_last() {
    let mut world = World::new();
    world.guests[1].domain.events.set_limit(u32::MAX);
    for expected in 1..4096 {
        assert_eq!(world.caller(1).bind_ipi(1), Ok(expected));
    }
    assert_eq!(world.caller(1).bind_ipi(1), Err(Errno::NoSpc.into()));
    assert_eq!(world.caller(1).send_event(4095), Ok(()));
    assert_eq!(world.words(1)[256 + 63].load(SeqCst), 1 << 63);
    assert_eq!(world.caller(1).send_event(4096), Err(Errno::Inval));
    let info = world.guests[1].domain.vcpu(1).unwrap().info.lock().unwrap();
    assert_eq!((info.word(8).load(SeqCst), info.upcall_pending().load(SeqCst)), (1 << 63, 1));
    let mut next = 0;
    assert_eq!(world.guests[1].hv.close_all_ports(&world.guests[1].domain, &mut next), Err(Stop::Unfinished));
    while world.guests[1].hv.close_all_ports(&world.guests[1].domain, &mut next) == Err(Stop::Unfinished) {}
    assert_eq!(world.guests[1].hv.audit_events(&world.guests[1].domain), Ok(()));
}

#[test]
fn a_poller_wakes_for_its_port_masked_or_not_and_for_no_other() {
    let mut world = World::new();
    let [first, second] = [0, 1].map(|_| world.caller(1).bind_ipi(0).unwrap());
    world.words(1)[320].store(u64::MAX, SeqCst);
    let poller = world.guests[1].domain.vcpu(1).unwrap().clone();
    for (waits_for, port, wakes) in [(second, first, false), (second, second, true), (0, first, true)] {
        world.words(1)[256].store(0, SeqCst);
        poller.pauses.store(Pauses::POLLING, SeqCst);
        world.guests[1].domain.events.begin_poll(&world.guests[1].domain.vcpu(1).unwrap().events, waits_for);
        world.caller(1).send_event(port).unwrap();
        assert_eq!(!poller.pauses.load(SeqCst).intersects(Pauses::POLLING), wakes, "port {port} for {waits_for}");
        assert_eq!(world.guests[1].domain.events.end_poll(&world.guests[1].domain.vcpu(1).unwrap().events), !wakes);
    }
}

#[test]
fn a_level_interrupt_is_masked_until_the_guest_has_served_it() {
    let mut world = World::new();
    let hv = world.guests[0].hv;
    let dom0 = world.guests[0].domain.clone();
    let is_masked = |gsi: u32| hv.machine().peripherals.lock().unwrap().lines[&gsi].1;
    let [edge, level] = [0, 1].map(|gsi| world.caller(0).bind_pirq(gsi).unwrap());
    assert!(!is_masked(0) && !is_masked(1));
    hv.raise_pirq(0);
    hv.raise_pirq(1);
    assert_eq!(world.words(0)[256].load(SeqCst), 1 << edge | 1 << level);
    assert!(!is_masked(0) && is_masked(1));
    assert_eq!(hv.end_of_interrupt(&dom0, 1), Ok(None));
    assert!(!is_masked(1));
    hv.close_port(&world.guests[0].domain, level).unwrap();
    assert!(is_masked(1));
    assert_eq!(hv.end_of_interrupt(&dom0, 1), Ok(None), "one too many does nothing");
    assert!(is_masked(1));
}

#[test]
fn global_interrupts_are_the_control_domain_s() {
    let mut world = World::new();
    for (id, virq) in [(0, VIRQ_CONSOLE), (1, VIRQ_CONSOLE), (0, VIRQ_DOM_EXC)] {
        world.caller(id).bind_virq(virq, 0).unwrap();
    }
    world.guests[0].hv.raise_global_virq(VIRQ_DOM_EXC);
    assert_eq!((world.words(0)[256].load(SeqCst), world.words(1)[256].load(SeqCst)), (1 << 2, 0));
    assert_eq!(world.caller(1).bind_virq(VIRQ_TIMER, 1), Ok(2));
    let domain = world.guests[1].domain.clone();
    world.guests[1].hv.raise_virq(&domain, domain.vcpu(0).unwrap(), VIRQ_TIMER);
    assert_eq!(world.words(1)[256].load(SeqCst), 0);
    world.guests[1].hv.raise_virq(&domain, domain.vcpu(1).unwrap(), VIRQ_TIMER);
    assert_eq!(world.words(1)[256].load(SeqCst), 1 << 2);
}

#[test]
fn two_domains_that_fight_over_channels_leave_them_whole() {
    let mut world = World::new();
    let hv = world.guests[0].hv;
    world.guests.iter().for_each(|g| g.domain.events.set_limit(12));
    let fighters: Vec<_> = world.guests.drain(1..).collect();
    let rounds = 5000;
    std::thread::scope(|scope| {
        for (n, guest) in fighters.iter().enumerate() {
            for cpu in [n as u16, n as u16 + 2] {
                let (domain, vcpu) = (guest.domain.clone(), guest.vcpu.clone());
                scope.spawn(move || {
                    support::on_cpu(cpu);
                    let mut guest = Guest::new(hv, 100 + cpu, false, 4);
                    (guest.domain, guest.vcpu) = (domain, vcpu);
                    let mut dice = Dice(0x1234_5678 + u64::from(cpu));
                    for _ in 0..rounds {
                        let (port, other) = (1 + dice.roll(12), DomId(1 + dice.roll(2) as u16));
                        let caller = guest.caller();
                        let _ = match dice.roll(6) {
                            0 => caller.alloc_unbound(DomId::SELF, other).is_ok(),
                            1 | 2 => caller.bind_interdomain(other, port).is_ok(),
                            3 => hv.close_port(caller.domain, port).is_ok(),
                            _ => caller.send_event(port).is_ok(),
                        };
                    }
                });
            }
        }
    });
    for guest in &fighters {
        assert_eq!(hv.audit_events(&guest.domain), Ok(()));
    }
}
