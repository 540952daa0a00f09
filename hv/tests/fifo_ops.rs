//! The FIFO event channel ABI under hostile hands: random operations of two guests, and random words where the hypervisor
//! keeps its queues, against a model of the ABI; every word of the shared pages is compared after each.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{domid::DomId, errno::Errno, event_channel::EvtchnInitControl};
use oxen_hv::{
    addr::Mfn,
    caller::Caller,
    domain::Progress,
    event::{self, Reset, deliver},
    mem::Memory,
};
use std::sync::atomic::Ordering::SeqCst;
use support::{
    Fake,
    audit::{self, Holds},
    dice::Dice,
    guest::Guest,
};

const DOMAINS: u16 = 2;
const VCPUS: u32 = 2;
/// Ports that each may have; the model knows the words of 64.
const LIMIT: u32 = 20;
const OPERATIONS: u32 = 150_000;
const PENDING: u32 = 1 << 31;
const MASKED: u32 = 1 << 30;
const LINKED: u32 = 1 << 29;
const BUSY: u32 = 1 << 28;
const LINK: u32 = 0x1_ffff;

fn any_word(dice: &mut Dice) -> u32 {
    dice.roll(1 << 16) << 16 | dice.roll(1 << 16)
}

/// A control block: ready and the heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Block {
    ready: u32,
    heads: [u32; 16],
}

/// What a port should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Is {
    #[default]
    Closed,
    Unbound(u16),
    Leads(u16, u32),
    Ipi,
}

#[derive(Clone, Copy, Debug, Default)]
struct Port {
    is: Is,
    vcpu: usize,
    priority: usize,
    /// The queue that it was put on last.
    last: (usize, usize),
    awaits_word: bool,
}

#[derive(Clone, Debug, Default)]
struct Queues {
    has_block: [bool; 2],
    pages: u32,
    tails: [[u32; 16]; 2],
}

/// What a domain should look like.
#[derive(Clone, Debug)]
struct Model {
    ports: Vec<Port>,
    /// The memory: where the frames are the hypervisor's to write and where they are not.
    blocks: [Block; 2],
    words: [u32; 64],
    pending: u64,
    upcall: [bool; 2],
    fifo: Option<Queues>,
}

impl Model {
    fn raise(&mut self, port: u32) {
        let (index, bit) = (port as usize, 1 << port);
        let record = self.ports[index];
        let Some(queues) = &mut self.fifo else {
            // Every port is masked in shared_info.
            self.pending |= bit;
            return;
        };
        if queues.pages == 0 {
            self.ports[index].awaits_word = true;
        } else if queues.has_block[record.vcpu] {
            let word = self.words[index];
            self.words[index] |= PENDING;
            if word & (MASKED | LINKED) != 0 {
                return;
            }
            self.words[index] |= LINKED;
            let (vcpu, priority) = (record.vcpu, record.priority);
            let old = &mut queues.tails[record.last.0][record.last.1];
            if *old == port {
                *old = 0;
            }
            self.ports[index].last = (vcpu, priority);
            let tail = std::mem::replace(&mut queues.tails[vcpu][priority], port) as usize;
            if tail != 0 && self.words[tail] & LINKED != 0 {
                self.words[tail] = self.words[tail] & !(LINK | BUSY) | port;
                return;
            }
            let block = &mut self.blocks[vcpu];
            block.heads[priority] = port;
            if block.ready & 1 << priority == 0 {
                block.ready |= 1 << priority;
                self.upcall[vcpu] = true;
            }
        }
    }

    fn clear_pending(&mut self, port: u32) {
        match &self.fifo {
            None => self.pending &= !(1 << port),
            Some(queues) if queues.pages != 0 => self.words[port as usize] &= !PENDING,
            Some(_) => {}
        }
    }

    fn free_port(&self) -> Result<u32, Errno> {
        let is_queued = |port| self.fifo.as_ref().is_some_and(|q| q.pages != 0) && self.words[port] & LINKED != 0;
        let is_free = |&port: &usize| self.ports[port].is == Is::Closed && !is_queued(port);
        (1..=LIMIT as usize).find(is_free).map(|port| port as u32).ok_or(Errno::NoSpc)
    }

    fn open(&mut self, is: Is, vcpu: u32) -> Result<u32, Errno> {
        let port = self.free_port()?;
        let place = &mut self.ports[port as usize];
        (place.is, place.vcpu) = (is, vcpu as usize);
        if self.fifo.is_some() {
            place.priority = 7;
        }
        Ok(port)
    }
}

struct World {
    guests: Vec<Guest>,
    models: Vec<Model>,
    /// Of each domain the frames of its control blocks, and of its event words.
    frames: Vec<[Mfn; 3]>,
}

impl World {
    fn new() -> Self {
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
            (1..VCPUS).for_each(|id| guest.domain.add_vcpu(hv, id).unwrap());
            guest.domain.events.set_limit(LIMIT);
            hv.machine.words(guest.domain.shared_info)[320..384].iter().for_each(|mask| mask.store(u64::MAX, SeqCst));
        }
        let frames = guests.iter().map(|guest| [0; 3].map(|_| guest.frame())).collect();
        Self { guests, models: vec![model; usize::from(DOMAINS)], frames }
    }

    fn caller(&mut self, id: u16) -> Caller<'_, Fake> {
        self.guests[usize::from(id)].caller()
    }

    fn model(&mut self, id: u16) -> &mut Model {
        &mut self.models[usize::from(id)]
    }

    fn word(&self, id: u16, frame: usize, index: usize) -> &'static std::sync::atomic::AtomicU32 {
        &self.guests[0].hv.machine.halves(self.frames[usize::from(id)][frame])[index]
    }

    /// Where the control block of a vcpu stands in its frame, in words of 32 bits.
    const fn block_at(vcpu: usize) -> usize {
        vcpu * 100
    }

    fn check(&self, what: &str) {
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
            let pending = guest.hv.machine.words(guest.domain.shared_info)[256].load(SeqCst);
            assert_eq!(pending, model.pending, "bits of domain {id} after {what}");
            assert_eq!(event::audit(guest.hv, &guest.domain), Ok(()), "domain {id} after {what}");
            let held = |domain: &oxen_hv::domain::Domain| {
                let mut held = 0;
                domain.events.each_frame(|_| held += 1);
                held
            };
            let known = model.fifo.as_ref().map_or(0, |q| q.has_block.iter().filter(|h| **h).count() as u32 + q.pages);
            assert_eq!(held(&guest.domain), known, "frames of domain {id} after {what}");
        }
    }

    fn expect_init(&mut self, me: u16, vcpu: u32, is_frame_good: bool, offset: u32) -> Result<(), Errno> {
        if vcpu >= VCPUS {
            return Err(Errno::NoEnt);
        }
        let model = self.model(me);
        let has_block = model.fifo.as_ref().is_some_and(|q| q.has_block[vcpu as usize]);
        if offset > 4096 - 72 || !offset.is_multiple_of(8) || !is_frame_good || has_block {
            return Err(Errno::Inval);
        }
        if model.fifo.is_none() {
            model.fifo = Some(Queues::default());
            for (number, port) in model.ports.iter_mut().enumerate() {
                port.awaits_word |= model.pending & 1 << number != 0;
                port.priority = 7;
            }
        }
        model.fifo.as_mut().unwrap().has_block[vcpu as usize] = true;
        Ok(())
    }

    fn expect_expand(&mut self, me: u16, is_frame_good: bool) -> Result<(), Errno> {
        let model = self.model(me);
        let queues = model.fifo.as_mut().ok_or(Errno::OpNotSupp)?;
        if queues.pages == 128 {
            return Err(Errno::NoSpc);
        }
        if !is_frame_good {
            return Err(Errno::Inval);
        }
        queues.pages += 1;
        if queues.pages == 1 {
            (0..64).for_each(|port| {
                if model.ports[port as usize].awaits_word {
                    model.raise(port);
                }
            });
        }
        Ok(())
    }

    fn expect_close(&mut self, me: u16, port: u32) -> Result<(), Errno> {
        match self.model(me).ports.get(port as usize).ok_or(Errno::Inval)?.is {
            Is::Closed => return Err(Errno::Inval),
            Is::Leads(dom, there) => self.model(dom).ports[there as usize].is = Is::Unbound(me),
            Is::Unbound(_) | Is::Ipi => {}
        }
        let model = self.model(me);
        (model.ports[port as usize].is, model.ports[port as usize].vcpu) = (Is::Closed, 0);
        model.clear_pending(port);
        Ok(())
    }

    fn expect_send(&mut self, me: u16, port: u32) -> Result<(), Errno> {
        match self.model(me).ports.get(port as usize).ok_or(Errno::Inval)?.is {
            Is::Closed => return Err(Errno::Inval),
            Is::Leads(dom, there) => self.model(dom).raise(there),
            Is::Ipi => self.model(me).raise(port),
            Is::Unbound(_) => {}
        }
        Ok(())
    }

    fn expect_unmask(&mut self, me: u16, port: u32) -> Result<(), Errno> {
        let model = self.model(me);
        let is = model.ports.get(port as usize).ok_or(Errno::Inval)?.is;
        let has_word = model.fifo.as_ref().is_some_and(|q| q.pages != 0);
        if is != Is::Closed && has_word {
            model.words[port as usize] &= !MASKED;
            if model.words[port as usize] & PENDING != 0 {
                model.raise(port);
            }
        }
        Ok(())
    }

    fn expect_priority(&mut self, me: u16, port: u32, priority: u32) -> Result<(), Errno> {
        let model = self.model(me);
        let place = model.ports.get_mut(port as usize).ok_or(Errno::Inval)?;
        let refusal = match (&model.fifo, place.is) {
            (None, _) => Errno::NoSys,
            (_, Is::Closed) => Errno::Acces,
            _ if priority > 15 => Errno::Inval,
            _ => {
                place.priority = priority as usize;
                return Ok(());
            }
        };
        Err(refusal)
    }

    fn expect_connect(&mut self, me: u16, dom: u16, port: u32) -> Result<u32, Errno> {
        self.model(me).free_port()?;
        let there = self.model(dom).ports.get(port as usize).copied().ok_or(Errno::Inval)?;
        if there.is != Is::Unbound(me) {
            return Err(Errno::Inval);
        }
        let own = self.model(me).open(Is::Leads(dom, port), 0)?;
        self.model(dom).ports[port as usize].is = Is::Leads(me, own);
        self.model(me).raise(own);
        Ok(own)
    }

    fn expect_reset(&mut self, me: u16) {
        (0..64).for_each(|port| _ = self.expect_close(me, port));
        self.model(me).fifo = None;
    }

    /// What a guest writes: as it should, or not.
    fn scribble(&mut self, me: u16, dice: &mut Dice) {
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
    fn step(&mut self, dice: &mut Dice) -> String {
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
            self.guests[usize::from(1 - me)].domain.shared_info.raw(),
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
                assert_eq!(event::init_control(&self.caller(me), &request), expected, "{me}: {request:?}");
                format!("{me}: {request:?}")
            }
            2 => {
                let gfn = frame(self.frames[usize::from(me)][2], dice);
                // Every page but the first is the same again, and of ports that there are not.
                let expected = self.expect_expand(me, is_frame_good);
                assert_eq!(event::expand_array(&self.caller(me), gfn), expected, "{me}: expand_array {gfn:#x}");
                format!("{me}: expand_array {gfn:#x}")
            }
            3 | 4 => {
                let priority = dice.roll(17);
                let expected = self.expect_priority(me, port, priority);
                assert_eq!(event::set_priority(&self.caller(me), port, priority), expected, "{me}: {port} {priority}");
                format!("{me}: set_priority {port} {priority}")
            }
            5 | 6 => {
                let expected = if vcpu < VCPUS { self.model(me).open(Is::Ipi, vcpu) } else { Err(Errno::NoEnt) };
                assert_eq!(event::bind_ipi(&self.caller(me), vcpu), expected, "{me}: bind_ipi {vcpu}");
                format!("{me}: bind_ipi {vcpu}")
            }
            7 => {
                let expected = self.model(me).open(Is::Unbound(dom), 0);
                assert_eq!(event::alloc_unbound(&self.caller(me), DomId::SELF, DomId(dom)), expected);
                format!("{me}: alloc_unbound for {dom}")
            }
            8 | 9 => {
                let expected = self.expect_connect(me, dom, port);
                assert_eq!(
                    event::bind_interdomain(&self.caller(me), DomId(dom), port),
                    expected,
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
                assert_eq!(event::bind_vcpu(&self.caller(me), port, vcpu), expected, "{me}: bind_vcpu {port} {vcpu}");
                format!("{me}: bind_vcpu {port} {vcpu}")
            }
            11 => {
                let expected = self.expect_close(me, port);
                let guest = &self.guests[usize::from(me)];
                assert_eq!(event::close(guest.hv, &guest.domain, port), expected, "{me}: close {port}");
                format!("{me}: close {port}")
            }
            12..=16 => {
                let expected = self.expect_send(me, port);
                assert_eq!(deliver::send(&self.caller(me), port), expected, "{me}: send {port}");
                format!("{me}: send {port}")
            }
            17 | 18 => {
                let expected =
                    if self.model(me).fifo.is_some() { self.expect_unmask(me, port) } else { return String::new() };
                assert_eq!(deliver::unmask(&self.caller(me), port), expected, "{me}: unmask {port}");
                format!("{me}: unmask {port}")
            }
            19 if dice.roll(20) == 0 => {
                self.expect_reset(me);
                assert_eq!(event::reset(&self.caller(me), DomId::SELF, Reset::Begin), Ok(Progress::Done));
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
                    assert_eq!(deliver::is_pending(guest.hv, &guest.domain, port), expected, "{me}: poll {port}");
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
