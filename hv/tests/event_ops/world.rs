//! The domains and their model: one operation on both, then both compared.

use crate::sequence;
use crate::support::{self, Fake, dice::Dice, guest::Guest};
use oxen_abi::{domid::DomId, errno::Errno, virq::NR_VIRQS};
use oxen_hv::{
    caller::Caller,
    channel::Reset,
    event::{pirq, port::Binding, virq},
};
use std::sync::atomic::Ordering::SeqCst;

/// Domains, by id. The first is privileged.
pub(crate) const DOMAINS: u16 = 3;
pub(crate) const VCPUS: u32 = 2;
/// Ports that each may have, so that it runs out of them.
pub(crate) const LIMIT: u32 = 40;
/// Physical interrupts that are set up, out of twice as many that are tried.
pub(crate) const LINES: u32 = 4;

pub(crate) fn any_port(dice: &mut Dice) -> u32 {
    match dice.roll(20) {
        0 => 0,
        1 => 64 + dice.roll(5000),
        2 => u32::MAX - dice.roll(3),
        _ => dice.roll(LIMIT + 2),
    }
}

pub(crate) fn any_domain(dice: &mut Dice) -> DomId {
    match dice.roll(8) {
        0 => DomId::SELF,
        1 => DomId(dice.pick(&[77, 0x7ff1, 0x7ff4, 0xffff])),
        n => DomId(n as u16 % DOMAINS),
    }
}

pub(crate) fn any_vcpu(dice: &mut Dice) -> u32 {
    if dice.roll(8) == 0 { dice.pick(&[VCPUS, 31, 32, u32::MAX]) } else { dice.roll(VCPUS) }
}

/// What a port should be, and whom it should notify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    Closed,
    Unbound(u16),
    Leads(u16, u32),
    Virq(u32),
    Ipi,
    Pirq(u32),
}

/// What a domain should look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) ports: Vec<(Is, u32)>,
    pub(crate) pending: u64,
    pub(crate) mask: u64,
    pub(crate) upcall: [bool; VCPUS as usize],
    pub(crate) selector: [u64; VCPUS as usize],
}

pub(crate) struct World {
    pub(crate) guests: Vec<Guest>,
    pub(crate) models: Vec<Model>,
}

impl World {
    pub(crate) fn new() -> Self {
        let hv = support::boot(512);
        let guests: Vec<_> = (0..DOMAINS).map(|id| Guest::new(hv, id, id == 0, 64)).collect();
        for guest in &guests {
            (1..VCPUS).for_each(|id| hv.add_vcpu(&guest.domain, id).unwrap());
            guest.domain.events.set_limit(LIMIT);
        }
        let model =
            Model { ports: vec![(Is::Closed, 0); 64], pending: 0, mask: 0, upcall: [false; 2], selector: [0; 2] };
        let mut world = Self { guests, models: vec![model; usize::from(DOMAINS)] };
        let signal = |gsi| pirq::Signal { is_level: gsi % 2 == 1, is_active_low: false };
        let control = world.caller(0).control().unwrap();
        // A domain has the interval timer's line only when it is given.
        world.guests[0].domain.memory.rights.lock().interrupts.insert(0, 0).unwrap();
        for gsi in 0..LINES {
            let domain = &world.guests[0].domain;
            // The interval timer's line is nobody's to set up; it is an edge once it is mapped.
            let done = hv.set_up_line(domain, control, gsi, signal(gsi));
            assert_eq!(done, if gsi == 0 { Err(Errno::Exist) } else { Ok(()) });
            hv.map_line(domain, control, gsi).unwrap();
        }
        world
    }

    pub(crate) fn caller(&mut self, id: u16) -> Caller<'_, Fake> {
        self.guests[usize::from(id)].caller()
    }

    pub(crate) fn words(&self, id: u16) -> &'static [std::sync::atomic::AtomicU64; 512] {
        let guest = &self.guests[usize::from(id)];
        guest.hv.machine().words(guest.domain.shared_info)
    }

    /// The whole of the real domain, as the model would describe it.
    pub(crate) fn observed(&self, id: u16) -> Model {
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

    pub(crate) fn check(&self, what: &str) {
        for id in 0..DOMAINS {
            assert_eq!(self.observed(id), self.models[usize::from(id)], "domain {id} after {what}");
            let guest = &self.guests[usize::from(id)];
            assert_eq!(guest.hv.audit_events(&guest.domain), Ok(()), "domain {id} after {what}");
        }
    }

    pub(crate) fn model(&mut self, id: u16) -> &mut Model {
        &mut self.models[usize::from(id)]
    }

    /// What a guest does by itself in its `shared_info`.
    pub(crate) fn tinker(&mut self, me: u16, dice: &mut Dice) {
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
    pub(crate) fn step(&mut self, dice: &mut Dice) -> String {
        let me = dice.roll(u32::from(DOMAINS)) as u16;
        let hv = self.guests[0].hv;
        let what;
        macro_rules! same {
            ($name:ident, $expected:ident($($arg:expr),*)) => {{
                what = format!("{me}: {}{:?}", stringify!($name), ($($arg,)*));
                let expected = self.$expected(me, $($arg),*);
                assert_eq!(self.caller(me).$name($($arg),*), expected.map_err(Into::into), "{what}");
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
                assert_eq!(
                    hv.close_port(&self.guests[usize::from(me)].domain, port),
                    expected.map_err(Into::into),
                    "{what}"
                );
            }
            9 | 10 => {
                let port = any_port(dice);
                what = format!("{me}: send {port}");
                let expected = self.expect_send(me, port);
                assert_eq!(self.caller(me).send_event(port), expected, "{what}");
            }
            11 => {
                let port = any_port(dice);
                what = format!("{me}: unmask {port}");
                let expected = self.expect_unmask(me, port);
                assert_eq!(self.caller(me).unmask_port(port), expected, "{what}");
            }
            12 => {
                let pirq = if dice.roll(4) == 0 { 202 + dice.roll(10) } else { dice.roll(2 * LINES) };
                same!(bind_pirq, expect_bind_pirq(pirq));
            }
            13 => {
                let (virq, vcpu) = (dice.roll(NR_VIRQS), dice.roll(VCPUS));
                what = format!("virq {virq} of d{me}v{vcpu}");
                let domain = &self.guests[usize::from(me)].domain;
                hv.raise_virq(domain, domain.vcpu(vcpu).unwrap(), virq);
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
                hv.raise_pirq(gsi);
                if let Some(port) = self.model(0).ports.iter().position(|p| p.0 == Is::Pirq(gsi)) {
                    self.set_pending(0, port as u32);
                }
            }
            _ if dice.roll(200) == 0 => {
                what = format!("{me}: reset");
                assert_eq!(self.caller(me).reset_events(DomId::SELF, Reset::Begin), Ok(()));
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

impl sequence::World for World {
    fn begin() -> Self {
        support::on_cpu(0);
        Self::new()
    }

    fn act(&mut self, seed: u64) -> String {
        let what = self.step(&mut Dice(seed));
        self.check(&what);
        what
    }

    fn end(self) {}
}
