//! Event channels under hostile hands: random operations against a model of the ABI, the laws checked after each.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domid::DomId,
    errno::Errno,
    virq::{NR_VIRQS, VIRQ_CONSOLE, VIRQ_DOM_EXC, VIRQ_TIMER},
};
use oxen_hv::{
    caller::Caller,
    config::MAX_PIRQS,
    domain::{Progress, vcpu::pause},
    event::{self, Reset, deliver, pirq, port::Binding, virq},
};
use std::sync::atomic::Ordering::SeqCst;
use support::{Fake, dice::Dice, guest::Guest};

/// Domains, by id. The first is privileged.
const DOMAINS: u16 = 3;
const VCPUS: u32 = 2;
/// Ports that each may have, so that it runs out of them.
const LIMIT: u32 = 40;
/// Physical interrupts that are set up, out of twice as many that are tried.
const LINES: u32 = 4;
const OPERATIONS: u32 = 600_000;

fn any_port(dice: &mut Dice) -> u32 {
    match dice.roll(20) {
        0 => 0,
        1 => 64 + dice.roll(5000),
        2 => u32::MAX - dice.roll(3),
        _ => dice.roll(LIMIT + 2),
    }
}

fn any_domain(dice: &mut Dice) -> DomId {
    match dice.roll(8) {
        0 => DomId::SELF,
        1 => DomId(dice.pick(&[77, 0x7ff1, 0x7ff4, 0xffff])),
        n => DomId(n as u16 % DOMAINS),
    }
}

fn any_vcpu(dice: &mut Dice) -> u32 {
    if dice.roll(8) == 0 { dice.pick(&[VCPUS, 31, 32, u32::MAX]) } else { dice.roll(VCPUS) }
}

/// What a port should be, and whom it should notify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Closed,
    Unbound(u16),
    Leads(u16, u32),
    Virq(u32),
    Ipi,
    Pirq(u32),
}

/// What a domain should look like.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    ports: Vec<(Is, u32)>,
    pending: u64,
    mask: u64,
    upcall: [bool; VCPUS as usize],
    selector: [u64; VCPUS as usize],
}

struct World {
    guests: Vec<Guest>,
    models: Vec<Model>,
}

impl World {
    fn new() -> Self {
        let hv = support::boot(512);
        let guests: Vec<_> = (0..DOMAINS).map(|id| Guest::new(hv, id, id == 0, 64)).collect();
        for guest in &guests {
            (1..VCPUS).for_each(|id| guest.domain.add_vcpu(hv, id).unwrap());
            guest.domain.events.set_limit(LIMIT);
        }
        let model =
            Model { ports: vec![(Is::Closed, 0); 64], pending: 0, mask: 0, upcall: [false; 2], selector: [0; 2] };
        let mut world = Self { guests, models: vec![model; usize::from(DOMAINS)] };
        let signal = |gsi| pirq::Signal { is_level: gsi % 2 == 1, is_active_low: false };
        let control = world.caller(0).control().unwrap();
        for gsi in 0..LINES {
            pirq::set_up(hv, control, gsi, signal(gsi)).unwrap();
            pirq::map_line(hv, &world.guests[0].domain, control, gsi).unwrap();
        }
        world
    }

    fn caller(&mut self, id: u16) -> Caller<'_, Fake> {
        self.guests[usize::from(id)].caller()
    }

    fn words(&self, id: u16) -> &'static [std::sync::atomic::AtomicU64; 512] {
        use oxen_hv::mem::Memory;
        let guest = &self.guests[usize::from(id)];
        guest.hv.machine.words(guest.domain.shared_info)
    }

    /// The whole of the real domain, as the model would describe it.
    fn observed(&self, id: u16) -> Model {
        let events = &self.guests[usize::from(id)].domain.events;
        let words = self.words(id);
        let is = |binding| match binding {
            Binding::Closed => Is::Closed,
            Binding::Unbound { remote } => Is::Unbound(remote.0),
            Binding::Interdomain { remote, port, .. } => Is::Leads(remote.0, port),
            Binding::Virq(virq) => Is::Virq(virq),
            Binding::Ipi => Is::Ipi,
            Binding::Pirq(pirq) => Is::Pirq(pirq),
        };
        assert_eq!(events.valid(), 64);
        let ports = (0..64).map(|p| events.port(p).unwrap()).map(|p| (is(p.binding()), p.vcpu())).collect();
        let info = |vcpu: usize| self.guests[usize::from(id)].domain.vcpu(vcpu as u32).unwrap().info.lock().unwrap();
        Model {
            ports,
            pending: words[256].load(SeqCst),
            mask: words[320].load(SeqCst),
            upcall: [0, 1].map(|v| info(v).upcall_pending().load(SeqCst) != 0),
            selector: [0, 1].map(|v| info(v).word(8).load(SeqCst)),
        }
    }

    fn check(&self, what: &str) {
        for id in 0..DOMAINS {
            assert_eq!(self.observed(id), self.models[usize::from(id)], "domain {id} after {what}");
            let guest = &self.guests[usize::from(id)];
            assert_eq!(event::audit(guest.hv, &guest.domain), Ok(()), "domain {id} after {what}");
        }
    }

    fn model(&mut self, id: u16) -> &mut Model {
        &mut self.models[usize::from(id)]
    }

    /// The domain that `me` means by an id.
    fn resolve(me: u16, id: DomId) -> Result<u16, Errno> {
        match id {
            DomId::SELF => Ok(me),
            DomId(id) if id < DOMAINS => Ok(id),
            _ => Err(Errno::Srch),
        }
    }

    fn is(&self, id: u16, port: u32) -> Option<(Is, u32)> {
        self.models[usize::from(id)].ports.get(port as usize).copied()
    }

    fn free_port(&self, id: u16) -> Result<u32, Errno> {
        (1..=LIMIT).find(|&p| self.is(id, p).unwrap().0 == Is::Closed).ok_or(Errno::NoSpc)
    }

    fn open(&mut self, id: u16, is: Is, vcpu: u32) -> Result<u32, Errno> {
        let port = self.free_port(id)?;
        self.model(id).ports[port as usize] = (is, vcpu);
        Ok(port)
    }

    fn set_pending(&mut self, id: u16, port: u32) {
        let vcpu = self.is(id, port).unwrap().1 as usize;
        let model = self.model(id);
        let bit = 1 << port;
        if model.pending & bit == 0 {
            model.pending |= bit;
            if model.mask & bit == 0 && model.selector[vcpu] == 0 {
                model.selector[vcpu] = 1;
                model.upcall[vcpu] = true;
            }
        }
    }

    fn expect_alloc_unbound(&mut self, me: u16, dom: DomId, remote: DomId) -> Result<u32, Errno> {
        let dom = Self::resolve(me, dom)?;
        self.free_port(dom)?;
        if dom != me && me != 0 {
            return Err(Errno::Perm);
        }
        self.open(dom, Is::Unbound(if remote == DomId::SELF { me } else { remote.0 }), 0)
    }

    fn expect_bind_interdomain(&mut self, me: u16, dom: DomId, port: u32) -> Result<u32, Errno> {
        let dom = Self::resolve(me, dom)?;
        self.free_port(me)?;
        let (is, vcpu) = self.is(dom, port).ok_or(Errno::Inval)?;
        if is != Is::Unbound(me) {
            return Err(Errno::Inval);
        }
        let own = self.open(me, Is::Leads(dom, port), 0)?;
        self.model(dom).ports[port as usize] = (Is::Leads(me, own), vcpu);
        self.set_pending(me, own);
        Ok(own)
    }

    fn expect_bind_virq(&mut self, me: u16, virq: u32, vcpu: u32) -> Result<u32, Errno> {
        if virq >= NR_VIRQS || (virq::is_global(virq) && vcpu != 0) {
            return Err(Errno::Inval);
        }
        if vcpu >= VCPUS {
            return Err(Errno::NoEnt);
        }
        let is_bound = |(is, v): (Is, u32)| is == Is::Virq(virq) && (virq::is_global(virq) || v == vcpu);
        if self.model(me).ports.iter().copied().any(is_bound) {
            return Err(Errno::Exist);
        }
        self.open(me, Is::Virq(virq), vcpu)
    }

    fn expect_bind_ipi(&mut self, me: u16, vcpu: u32) -> Result<u32, Errno> {
        if vcpu >= VCPUS { Err(Errno::NoEnt) } else { self.open(me, Is::Ipi, vcpu) }
    }

    fn expect_bind_pirq(&mut self, me: u16, pirq: u32) -> Result<u32, Errno> {
        // A guest that is not dom0 has 24 lines and 32 numbers beyond.
        if pirq >= if me == 0 { MAX_PIRQS as u32 } else { 56 } {
            return Err(Errno::Inval);
        }
        if me != 0 || pirq >= LINES {
            return Err(Errno::Perm);
        }
        if self.model(me).ports.iter().any(|p| p.0 == Is::Pirq(pirq)) {
            return Err(Errno::Exist);
        }
        self.free_port(me)?;
        self.open(me, Is::Pirq(pirq), 0)
    }

    fn expect_bind_vcpu(&mut self, me: u16, port: u32, vcpu: u32) -> Result<(), Errno> {
        if vcpu >= VCPUS {
            return Err(Errno::NoEnt);
        }
        match self.is(me, port).ok_or(Errno::Inval)?.0 {
            Is::Closed | Is::Ipi => return Err(Errno::Inval),
            Is::Virq(virq) if !virq::is_global(virq) => return Err(Errno::Inval),
            _ => {}
        }
        self.model(me).ports[port as usize].1 = vcpu;
        Ok(())
    }

    fn expect_close(&mut self, me: u16, port: u32) -> Result<(), Errno> {
        match self.is(me, port).ok_or(Errno::Inval)?.0 {
            Is::Closed => return Err(Errno::Inval),
            Is::Leads(dom, there) => self.model(dom).ports[there as usize].0 = Is::Unbound(me),
            _ => {}
        }
        let model = self.model(me);
        model.ports[port as usize] = (Is::Closed, 0);
        model.pending &= !(1 << port);
        Ok(())
    }

    fn expect_send(&mut self, me: u16, port: u32) -> Result<(), Errno> {
        match self.is(me, port).ok_or(Errno::Inval)?.0 {
            Is::Leads(dom, there) => self.set_pending(dom, there),
            Is::Ipi => self.set_pending(me, port),
            Is::Unbound(_) => {}
            Is::Closed | Is::Virq(_) | Is::Pirq(_) => return Err(Errno::Inval),
        }
        Ok(())
    }

    fn expect_unmask(&mut self, me: u16, port: u32) -> Result<(), Errno> {
        let (is, vcpu) = self.is(me, port).ok_or(Errno::Inval)?;
        let model = self.model(me);
        if is != Is::Closed && model.mask & 1 << port != 0 {
            model.mask &= !(1 << port);
            if model.pending & 1 << port != 0 && model.selector[vcpu as usize] == 0 {
                model.selector[vcpu as usize] = 1;
                model.upcall[vcpu as usize] = true;
            }
        }
        Ok(())
    }

    /// What a guest does by itself in its `shared_info`.
    fn tinker(&mut self, me: u16, dice: &mut Dice) {
        let words = self.words(me);
        let vcpu = dice.roll(VCPUS) as usize;
        let info = self.guests[usize::from(me)].domain.vcpu(vcpu as u32).unwrap().info.lock().unwrap();
        let bit = 1 << dice.roll(LIMIT);
        let model = self.model(me);
        match dice.roll(3) {
            0 => {
                model.mask ^= bit;
                words[320].store(model.mask, SeqCst);
            }
            1 => {
                model.pending = 0;
                words[256].store(0, SeqCst);
            }
            _ => {
                model.upcall[vcpu] = false;
                model.selector[vcpu] = 0;
                info.upcall_pending().store(0, SeqCst);
                info.word(8).store(0, SeqCst);
            }
        }
    }

    /// One operation of one guest, or of the machine.
    #[expect(clippy::too_many_lines, reason = "one arm for each operation")]
    fn step(&mut self, dice: &mut Dice) -> String {
        let me = dice.roll(u32::from(DOMAINS)) as u16;
        let hv = self.guests[0].hv;
        let what;
        macro_rules! same {
            ($name:ident, $expected:ident($($arg:expr),*)) => {{
                what = format!("{me}: {}{:?}", stringify!($name), ($($arg,)*));
                let expected = self.$expected(me, $($arg),*);
                assert_eq!(event::$name(&self.caller(me), $($arg),*), expected, "{what}");
            }};
        }
        match dice.roll(16) {
            0 | 1 => {
                let (dom, remote) = (any_domain(dice), any_domain(dice));
                same!(alloc_unbound, expect_alloc_unbound(dom, remote));
            }
            2 | 3 => {
                let (dom, port) = (any_domain(dice), any_port(dice));
                same!(bind_interdomain, expect_bind_interdomain(dom, port));
            }
            4 => {
                let (virq, vcpu) = (dice.roll(NR_VIRQS + 2), any_vcpu(dice));
                same!(bind_virq, expect_bind_virq(virq, vcpu));
            }
            5 => {
                let vcpu = any_vcpu(dice);
                same!(bind_ipi, expect_bind_ipi(vcpu));
            }
            6 => {
                let (port, vcpu) = (any_port(dice), any_vcpu(dice));
                same!(bind_vcpu, expect_bind_vcpu(port, vcpu));
            }
            7 | 8 => {
                let port = any_port(dice);
                what = format!("{me}: close {port}");
                let expected = self.expect_close(me, port);
                assert_eq!(event::close(hv, &self.guests[usize::from(me)].domain, port), expected, "{what}");
            }
            9 | 10 => {
                let port = any_port(dice);
                what = format!("{me}: send {port}");
                let expected = self.expect_send(me, port);
                assert_eq!(deliver::send(&self.caller(me), port), expected, "{what}");
            }
            11 => {
                let port = any_port(dice);
                what = format!("{me}: unmask {port}");
                let expected = self.expect_unmask(me, port);
                assert_eq!(deliver::unmask(&self.caller(me), port), expected, "{what}");
            }
            12 => {
                let pirq = if dice.roll(4) == 0 { 202 + dice.roll(10) } else { dice.roll(2 * LINES) };
                same!(bind_pirq, expect_bind_pirq(pirq));
            }
            13 => {
                let (virq, vcpu) = (dice.roll(NR_VIRQS), dice.roll(VCPUS));
                what = format!("virq {virq} of d{me}v{vcpu}");
                virq::raise(hv, &self.guests[usize::from(me)].domain, vcpu, virq);
                let is_it = |p: &(Is, u32)| {
                    p.0 == Is::Virq(virq) && if virq::is_global(virq) { vcpu == 0 } else { p.1 == vcpu }
                };
                if let Some(port) = self.model(me).ports.iter().position(is_it) {
                    self.set_pending(me, port as u32);
                }
            }
            14 => {
                let gsi = dice.roll(LINES);
                what = format!("interrupt {gsi}");
                pirq::raise(hv, gsi);
                if let Some(port) = self.model(0).ports.iter().position(|p| p.0 == Is::Pirq(gsi)) {
                    self.set_pending(0, port as u32);
                }
            }
            _ if dice.roll(200) == 0 => {
                what = format!("{me}: reset");
                assert_eq!(event::reset(&self.caller(me), DomId::SELF, Reset::Begin), Ok(Progress::Done));
                for port in 0..64 {
                    let _ = self.expect_close(me, port);
                }
            }
            _ => {
                what = format!("{me}: tinker");
                self.tinker(me, dice);
            }
        }
        what
    }
}

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

#[test]
fn nothing_is_left_of_a_domain_s_channels() {
    let (mut world, mut dice) = (World::new(), Dice(7));
    for _ in 0..3000 {
        world.step(&mut dice);
    }
    let dying = &world.guests[1].domain;
    dying.is_dying.store(true, SeqCst);
    assert_eq!(event::close_all(world.guests[1].hv, dying, &mut 0), Progress::Done);
    assert!((1..LIMIT).all(|p| dying.events.port(p).unwrap().binding() == Binding::Closed));
    for guest in &world.guests {
        assert_eq!(event::audit(guest.hv, &guest.domain), Ok(()));
    }
    assert_eq!(event::alloc_unbound(&world.caller(0), DomId(1), DomId(0)), Err(Errno::Inval));
    assert_eq!(event::bind_ipi(&world.caller(1), 0), Err(Errno::Inval));
}

#[test]
fn a_domain_without_memory_for_ports_is_told() {
    let mut world = World::new();
    world.guests[0].hv.machine.heap_left.store(0, SeqCst);
    assert_eq!(event::bind_ipi(&world.caller(1), 0), Err(Errno::NoMem));
    assert_eq!(event::alloc_unbound(&world.caller(1), DomId::SELF, DomId(0)), Err(Errno::NoMem));
    world.check("running out of memory");
}

#[test]
fn ports_beyond_the_first_page_work_up_to_the_last() {
    let mut world = World::new();
    world.guests[1].domain.events.set_limit(u32::MAX);
    for expected in 1..4096 {
        assert_eq!(event::bind_ipi(&world.caller(1), 1), Ok(expected));
    }
    assert_eq!(event::bind_ipi(&world.caller(1), 1), Err(Errno::NoSpc));
    assert_eq!(deliver::send(&world.caller(1), 4095), Ok(()));
    assert_eq!(world.words(1)[256 + 63].load(SeqCst), 1 << 63);
    assert_eq!(deliver::send(&world.caller(1), 4096), Err(Errno::Inval));
    let info = world.guests[1].domain.vcpu(1).unwrap().info.lock().unwrap();
    assert_eq!((info.word(8).load(SeqCst), info.upcall_pending().load(SeqCst)), (1 << 63, 1));
    let mut next = 0;
    assert_eq!(event::close_all(world.guests[1].hv, &world.guests[1].domain, &mut next), Progress::Stopped);
    while event::close_all(world.guests[1].hv, &world.guests[1].domain, &mut next) == Progress::Stopped {}
    assert_eq!(event::audit(world.guests[1].hv, &world.guests[1].domain), Ok(()));
}

#[test]
fn a_poller_wakes_for_its_port_masked_or_not_and_for_no_other() {
    let mut world = World::new();
    let [first, second] = [0, 1].map(|_| event::bind_ipi(&world.caller(1), 0).unwrap());
    world.words(1)[320].store(u64::MAX, SeqCst);
    let poller = world.guests[1].domain.vcpu(1).unwrap().clone();
    for (waits_for, port, wakes) in [(second, first, false), (second, second, true), (0, first, true)] {
        world.words(1)[256].store(0, SeqCst);
        poller.pauses.store(pause::POLLING, SeqCst);
        world.guests[1].domain.events.begin_poll(1, waits_for);
        deliver::send(&world.caller(1), port).unwrap();
        assert_eq!(poller.pauses.load(SeqCst) & pause::POLLING == 0, wakes, "port {port} for {waits_for}");
        assert_eq!(world.guests[1].domain.events.end_poll(1), !wakes);
    }
}

#[test]
fn a_level_interrupt_is_masked_until_the_guest_has_served_it() {
    let mut world = World::new();
    let hv = world.guests[0].hv;
    let dom0 = world.guests[0].domain.clone();
    let is_masked = |gsi: u32| hv.machine.peripherals.lock().unwrap().lines[&gsi].1;
    let [edge, level] = [0, 1].map(|gsi| event::bind_pirq(&world.caller(0), gsi).unwrap());
    assert!(!is_masked(0) && !is_masked(1));
    pirq::raise(hv, 0);
    pirq::raise(hv, 1);
    assert_eq!(world.words(0)[256].load(SeqCst), 1 << edge | 1 << level);
    assert!(!is_masked(0) && is_masked(1));
    assert_eq!(pirq::end_of_interrupt(hv, &dom0, 1), Ok(None));
    assert!(!is_masked(1));
    event::close(hv, &world.guests[0].domain, level).unwrap();
    assert!(is_masked(1));
    assert_eq!(pirq::end_of_interrupt(hv, &dom0, 1), Ok(None), "one too many does nothing");
    assert!(is_masked(1));
}

#[test]
fn global_interrupts_are_the_control_domain_s() {
    let mut world = World::new();
    for (id, virq) in [(0, VIRQ_CONSOLE), (1, VIRQ_CONSOLE), (0, VIRQ_DOM_EXC)] {
        event::bind_virq(&world.caller(id), virq, 0).unwrap();
    }
    virq::raise_global(world.guests[0].hv, VIRQ_DOM_EXC);
    assert_eq!((world.words(0)[256].load(SeqCst), world.words(1)[256].load(SeqCst)), (1 << 2, 0));
    assert_eq!(event::bind_virq(&world.caller(1), VIRQ_TIMER, 1), Ok(2));
    virq::raise(world.guests[1].hv, &world.guests[1].domain, 0, VIRQ_TIMER);
    assert_eq!(world.words(1)[256].load(SeqCst), 0);
    virq::raise(world.guests[1].hv, &world.guests[1].domain, 1, VIRQ_TIMER);
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
                            0 => event::alloc_unbound(&caller, DomId::SELF, other).is_ok(),
                            1 | 2 => event::bind_interdomain(&caller, other, port).is_ok(),
                            3 => event::close(hv, caller.domain, port).is_ok(),
                            _ => deliver::send(&caller, port).is_ok(),
                        };
                    }
                });
            }
        }
    });
    for guest in &fighters {
        assert_eq!(event::audit(hv, &guest.domain), Ok(()));
    }
}
