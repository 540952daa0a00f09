//! The domains and their models: one operation on both, then both compared.

use crate::{
    model::{BUSY, Block, Is, LINK, LINKED, MASKED, Model, PENDING, Port},
    support::{self, Fake, dice::Dice, guest::Guest},
};
use oxen_abi::{domid::DomId, errno::Errno, event_channel::EvtchnInitControl};
use oxen_hv::{addr::Mfn, caller::Caller, channel::Reset, event};
use std::sync::atomic::Ordering::SeqCst;

pub(crate) const DOMAINS: u16 = 2;
pub(crate) const VCPUS: u32 = 2;
/// Ports that each may have; the model knows the words of 64.
pub(crate) const LIMIT: u32 = 20;

pub(crate) fn any_word(dice: &mut Dice) -> u32 {
    dice.roll(1 << 16) << 16 | dice.roll(1 << 16)
}

pub(crate) struct World {
    pub(crate) guests: Vec<Guest>,
    pub(crate) models: Vec<Model>,
    /// Of each domain the frames of its control blocks, and of its event words.
    pub(crate) frames: Vec<[Mfn; 3]>,
}

impl World {
    pub(crate) fn new() -> Self {
        let hv = support::boot(256);
        let guests: Vec<_> = (0..DOMAINS).map(|id| Guest::new(hv, id, id == 0, 64)).collect();
        let model = Model {
            ports: vec![Port::default(); 64],
            blocks: [Block::default(); 2],
            words: [0; 64],
            pending: 0,
            upcall: [false; 2],
            fifo: None,
        };
        for guest in &guests {
            (1..VCPUS).for_each(|id| hv.add_vcpu(&guest.domain, id).unwrap());
            guest.domain.events.set_limit(LIMIT);
            hv.machine().words(guest.domain.shared_info)[320..384].iter().for_each(|mask| mask.store(u64::MAX, SeqCst));
        }
        let frames = guests.iter().map(|guest| [0; 3].map(|_| guest.frame())).collect();
        Self { guests, models: vec![model; usize::from(DOMAINS)], frames }
    }

    pub(crate) fn caller(&mut self, id: u16) -> Caller<'_, Fake> {
        self.guests[usize::from(id)].caller()
    }

    pub(crate) fn model(&mut self, id: u16) -> &mut Model {
        &mut self.models[usize::from(id)]
    }

    pub(crate) fn word(&self, id: u16, frame: usize, index: usize) -> &'static std::sync::atomic::AtomicU32 {
        &self.guests[0].hv.machine().halves(self.frames[usize::from(id)][frame])[index]
    }

    /// Where the control block of a vcpu stands in its frame, in words of 32 bits.
    const fn block_at(vcpu: usize) -> usize {
        vcpu * 100
    }

    pub(crate) fn check(&self, what: &str) {
        for id in 0..DOMAINS {
            let (guest, model) = (&self.guests[usize::from(id)], &self.models[usize::from(id)]);
            for port in 0..64 {
                let word = self.word(id, 2, port).load(SeqCst);
                assert_eq!(word, model.words[port], "word {port} of domain {id} after {what}: {word:#x}");
                let is_open = guest.domain.events.port(port as u32).unwrap() != event::port::Port::CLOSED;
                assert_eq!(is_open, model.ports[port].is != Is::Closed, "port {port} of domain {id} after {what}");
            }
            for vcpu in 0..VCPUS as usize {
                let at = |index| self.word(id, vcpu, Self::block_at(vcpu) + index).load(SeqCst);
                let block = Block { ready: at(0), heads: std::array::from_fn(|priority| at(2 + priority)) };
                assert_eq!(block, model.blocks[vcpu], "d{id}v{vcpu} after {what}");
                let info = guest.domain.vcpu(vcpu as u32).unwrap().info.lock().unwrap();
                assert_eq!(info.upcall_pending().load(SeqCst) != 0, model.upcall[vcpu], "d{id}v{vcpu} after {what}");
            }
            let pending = guest.hv.machine().words(guest.domain.shared_info)[256].load(SeqCst);
            assert_eq!(pending, model.pending, "bits of domain {id} after {what}");
            assert_eq!(guest.hv.audit_events(&guest.domain), Ok(()), "domain {id} after {what}");
            let held = |domain: &oxen_hv::domain::Domain| {
                let mut held = 0;
                domain.events.each_frame(|_| held += 1);
                held
            };
            let known = model.fifo.as_ref().map_or(0, |q| q.has_block.iter().filter(|h| **h).count() as u32 + q.pages);
            assert_eq!(held(&guest.domain), known, "frames of domain {id} after {what}");
        }
    }

    /// What a guest writes: as it should, or not.
    pub(crate) fn scribble(&mut self, me: u16, dice: &mut Dice) {
        let vcpu = dice.roll(VCPUS) as usize;
        let port = dice.roll(LIMIT + 1) as usize;
        match dice.roll(6) {
            0 | 1 => {
                // It takes every event off the queues of a vcpu, link by link, as far as they lead.
                for priority in 0..16 {
                    let mut next = self.model(me).blocks[vcpu].heads[priority] as usize;
                    while (1..64).contains(&next) && self.model(me).words[next] & LINKED != 0 {
                        let word = self.model(me).words[next];
                        self.model(me).words[next] = word & !(PENDING | LINKED | LINK);
                        next = (word & LINK) as usize;
                    }
                }
                self.model(me).blocks[vcpu].ready = 0;
            }
            2 => self.model(me).words[port] ^= dice.pick(&[PENDING, MASKED, LINKED, BUSY]),
            3 => self.model(me).words[port] = any_word(dice),
            4 => {
                let (priority, head) = (dice.roll(16) as usize, any_word(dice));
                self.model(me).blocks[vcpu] = Block { ready: any_word(dice), heads: [head; 16] };
                self.model(me).blocks[vcpu].heads[priority] = dice.roll(LIMIT);
            }
            _ => {
                let (model, guest) = (&mut self.models[usize::from(me)], &self.guests[usize::from(me)]);
                model.upcall[vcpu] = false;
                let info = guest.domain.vcpu(vcpu as u32).unwrap().info.lock().unwrap();
                info.upcall_pending().store(0, SeqCst);
                info.word(8).store(0, SeqCst);
            }
        }
        let model = self.model(me).clone();
        (0..64).for_each(|port| self.word(me, 2, port).store(model.words[port], SeqCst));
        for (vcpu, block) in model.blocks.iter().enumerate() {
            let at = |index| self.word(me, vcpu, Self::block_at(vcpu) + index);
            at(0).store(block.ready, SeqCst);
            (0..16).for_each(|priority| at(2 + priority).store(block.heads[priority], SeqCst));
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each operation")]
    pub(crate) fn step(&mut self, dice: &mut Dice) -> String {
        let me = dice.roll(u32::from(DOMAINS)) as u16;
        let dom = dice.roll(u32::from(DOMAINS)) as u16;
        let port =
            if dice.roll(20) == 0 { dice.pick(&[0, 63, 64, 5000, 1 << 17, u32::MAX]) } else { dice.roll(LIMIT + 2) };
        let vcpu = if dice.roll(12) == 0 { dice.pick(&[2, 31, 32, u32::MAX]) } else { dice.roll(VCPUS) };
        let is_frame_good = dice.roll(6) != 0;
        let bad = [
            1 << 37,
            u64::MAX,
            5,
            self.guests[usize::from(1 - me)].domain.shared_info.mfn().raw(),
            self.frames[usize::from(1 - me)][0].raw(),
        ];
        let frame = |good: Mfn, dice: &mut Dice| if is_frame_good { good.raw() } else { dice.pick(&bad) };
        match dice.roll(24) {
            0 | 1 => {
                let good = 4 * Self::block_at(vcpu.min(1) as usize) as u32;
                let offset = if dice.roll(4) == 0 { dice.pick(&[4, 4032, 4096, u32::MAX - 7]) } else { good };
                let control_gfn = frame(self.frames[usize::from(me)][vcpu.min(1) as usize], dice);
                let request = EvtchnInitControl { control_gfn, offset, vcpu, link_bits: 0, _pad: [0; 7] };
                let expected = self.expect_init(me, vcpu, is_frame_good, offset);
                assert_eq!(self.caller(me).init_event_control(&request), expected, "{me}: {request:?}");
                format!("{me}: {request:?}")
            }
            2 => {
                let gfn = frame(self.frames[usize::from(me)][2], dice);
                // Every page but the first is the same again, and of ports that there are not.
                let expected = self.expect_expand(me, is_frame_good);
                assert_eq!(self.caller(me).expand_event_array(gfn), expected, "{me}: expand_array {gfn:#x}");
                format!("{me}: expand_array {gfn:#x}")
            }
            3 | 4 => {
                let priority = dice.roll(17);
                let expected = self.expect_priority(me, port, priority);
                assert_eq!(self.caller(me).set_event_priority(port, priority), expected, "{me}: {port} {priority}");
                format!("{me}: set_priority {port} {priority}")
            }
            5 | 6 => {
                let expected = if vcpu < VCPUS { self.model(me).open(Is::Ipi, vcpu) } else { Err(Errno::NoEnt) };
                assert_eq!(self.caller(me).bind_ipi(vcpu), expected.map_err(Into::into), "{me}: bind_ipi {vcpu}");
                format!("{me}: bind_ipi {vcpu}")
            }
            7 => {
                let expected = self.model(me).open(Is::Unbound(dom), 0);
                assert_eq!(self.caller(me).alloc_unbound(DomId::SELF, DomId(dom)), expected.map_err(Into::into));
                format!("{me}: alloc_unbound for {dom}")
            }
            8 | 9 => {
                let expected = self.expect_connect(me, dom, port);
                assert_eq!(
                    self.caller(me).bind_interdomain(DomId(dom), port),
                    expected.map_err(Into::into),
                    "{me} to {dom} {port}"
                );
                format!("{me}: bind_interdomain {dom} {port}")
            }
            10 => {
                let expected = match self.model(me).ports.get_mut(port as usize) {
                    _ if vcpu >= VCPUS => Err(Errno::NoEnt),
                    Some(place) if matches!(place.is, Is::Unbound(_) | Is::Leads(..)) => {
                        place.vcpu = vcpu as usize;
                        Ok(())
                    }
                    _ => Err(Errno::Inval),
                };
                assert_eq!(self.caller(me).bind_vcpu(port, vcpu), expected, "{me}: bind_vcpu {port} {vcpu}");
                format!("{me}: bind_vcpu {port} {vcpu}")
            }
            11 => {
                let expected = self.expect_close(me, port);
                let guest = &self.guests[usize::from(me)];
                assert_eq!(
                    guest.hv.close_port(&guest.domain, port),
                    expected.map_err(Into::into),
                    "{me}: close {port}"
                );
                format!("{me}: close {port}")
            }
            12..=16 => {
                let expected = self.expect_send(me, port);
                assert_eq!(self.caller(me).send_event(port), expected, "{me}: send {port}");
                format!("{me}: send {port}")
            }
            17 | 18 => {
                let expected =
                    if self.model(me).fifo.is_some() { self.expect_unmask(me, port) } else { return String::new() };
                assert_eq!(self.caller(me).unmask_port(port), expected, "{me}: unmask {port}");
                format!("{me}: unmask {port}")
            }
            19 if dice.roll(20) == 0 => {
                self.expect_reset(me);
                assert_eq!(self.caller(me).reset_events(DomId::SELF, Reset::Begin), Ok(()));
                format!("{me}: reset")
            }
            19 => {
                let model = &self.models[usize::from(me)];
                let expected = match &model.fifo {
                    None => model.pending & 1 << (port & 63) != 0,
                    Some(queues) => queues.pages != 0 && port < 64 && model.words[port as usize] & PENDING != 0,
                };
                if port < 64 {
                    let guest = &self.guests[usize::from(me)];
                    assert_eq!(guest.hv.is_event_pending(&guest.domain, port), expected, "{me}: poll {port}");
                }
                format!("{me}: poll {port}")
            }
            _ => {
                self.scribble(me, dice);
                format!("{me}: scribble")
            }
        }
    }
}
