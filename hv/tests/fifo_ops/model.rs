//! What a domain's FIFO queues should look like.

use crate::world::LIMIT;
use oxen_abi::errno::Errno;

pub(crate) const PENDING: u32 = 1 << 31;
pub(crate) const MASKED: u32 = 1 << 30;
pub(crate) const LINKED: u32 = 1 << 29;
pub(crate) const BUSY: u32 = 1 << 28;
pub(crate) const LINK: u32 = 0x1_ffff;

/// A control block: ready and the heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) ready: u32,
    pub(crate) heads: [u32; 16],
}

/// What a port should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Is {
    #[default]
    Closed,
    Unbound(u16),
    Leads(u16, u32),
    Ipi,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Port {
    pub(crate) is: Is,
    pub(crate) vcpu: usize,
    pub(crate) priority: usize,
    /// The queue that it was put on last.
    pub(crate) last: (usize, usize),
    pub(crate) awaits_word: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Queues {
    pub(crate) has_block: [bool; 2],
    pub(crate) pages: u32,
    pub(crate) tails: [[u32; 16]; 2],
}

/// What a domain should look like.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) ports: Vec<Port>,
    /// The memory: where the frames are the hypervisor's to write and where they are not.
    pub(crate) blocks: [Block; 2],
    pub(crate) words: [u32; 64],
    pub(crate) pending: u64,
    pub(crate) upcall: [bool; 2],
    pub(crate) fifo: Option<Queues>,
}

impl Model {
    pub(crate) fn raise(&mut self, port: u32) {
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

    pub(crate) fn clear_pending(&mut self, port: u32) {
        match &self.fifo {
            None => self.pending &= !(1 << port),
            Some(queues) if queues.pages != 0 => self.words[port as usize] &= !PENDING,
            Some(_) => {}
        }
    }

    pub(crate) fn free_port(&self) -> Result<u32, Errno> {
        let is_queued = |port| self.fifo.as_ref().is_some_and(|q| q.pages != 0) && self.words[port] & LINKED != 0;
        let is_free = |&port: &usize| self.ports[port].is == Is::Closed && !is_queued(port);
        (1..=LIMIT as usize).find(is_free).map(|port| port as u32).ok_or(Errno::NoSpc)
    }

    pub(crate) fn open(&mut self, is: Is, vcpu: u32) -> Result<u32, Errno> {
        let port = self.free_port()?;
        let place = &mut self.ports[port as usize];
        (place.is, place.vcpu) = (is, vcpu as usize);
        if self.fifo.is_some() {
            place.priority = 7;
        }
        Ok(port)
    }
}
