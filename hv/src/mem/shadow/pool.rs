//! The frames of a domain's shadows. They are the hypervisor's; linked by their auxiliary words, all of
//! them, so that none can be lost.
//!
//! Most are given out one after the other, from the first to the last of a list; when the end is reached, all shadows
//! are dropped at once and it begins anew: nobody has to know who refers to whom. What is given back singly in between
//! goes out again by a list of its own. Frames *for good* leave the first list: roots, and the pages of the log.

use super::super::{Hardware, frame_type::Owner};
use crate::{
    addr::Mfn,
    mem::{Memory, RamFrame},
};
use core::sync::atomic::Ordering;

/// In an auxiliary word: no frame.
const NONE: u32 = u32::MAX;

/// A domain's frames for shadows.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// The list of those that go out and come back, and how many they are.
    first: Option<RamFrame>,
    passing: u32,
    /// Of them, the last that was given out, if any, and the one after it.
    last_out: Option<RamFrame>,
    next: Option<RamFrame>,
    /// Those given back singly, linked by their first words, and when the last of them came.
    returned: Option<RamFrame>,
    returned_at: u32,
    /// The list of those for good.
    kept: Option<RamFrame>,
    kept_count: u32,
    /// Of the passing, how many at least must stay so.
    reserve: u32,
}

fn link(raw: u32) -> Option<RamFrame> {
    if raw == NONE { None } else { Mfn::new(u64::from(raw)).map(RamFrame::counted) }
}

fn raw(link: Option<RamFrame>) -> u32 {
    link.map_or(NONE, |frame| frame.mfn().raw() as u32)
}

impl Pool {
    /// How many frames there are.
    pub(super) fn count(&self) -> u32 {
        self.passing + self.kept_count
    }

    /// How many must be left for shadows, whatever the log wants.
    pub(super) fn set_reserve(&mut self, frames: u32) {
        self.reserve = frames;
    }

    /// Whether there are more frames than shadows cannot do without.
    pub(super) fn has_spare(&self) -> bool {
        self.passing > self.reserve
    }

    /// One frame more. No CPU knows it.
    pub(super) fn add<M: Hardware>(&mut self, memory: &Memory<M>, frame: RamFrame) {
        // At the end of those that are out, so that it is the next.
        memory.frames.set_aux(frame.mfn(), raw(self.next));
        match self.last_out {
            Some(last) => memory.frames.set_aux(last.mfn(), raw(Some(frame))),
            None => self.first = Some(frame),
        }
        self.next = Some(frame);
        self.passing += 1;
    }

    /// A frame for a shadow, filled with zeros; none when all are out.
    pub(super) fn take<M: Hardware>(&mut self, memory: &Memory<M>, owner: Owner) -> Option<RamFrame> {
        if let Some(frame) = self.next {
            self.last_out = Some(frame);
            self.next = link(memory.frames.aux(frame.mfn()));
            memory.machine.clear(frame);
            return Some(frame);
        }
        let frame = self.returned?;
        // A CPU may still go by what it was.
        memory.flush_stale(owner, self.returned_at);
        let word = memory.machine.words(frame).first().map_or(0, |word| word.load(Ordering::Relaxed));
        self.returned = Mfn::new(word >> 12).filter(|_| word != 0).map(RamFrame::counted);
        memory.machine.clear(frame);
        Some(frame)
    }

    /// Gives one frame back, which no shadow refers to any more; CPUs may.
    pub(super) fn give_back<M: Hardware>(&mut self, memory: &Memory<M>, frame: RamFrame) {
        // What a CPU that still walks it finds there is not present.
        let next = self.returned.map_or(0, |next| next.mfn().raw() << 12);
        for (slot, word) in memory.machine.words(frame).iter().enumerate() {
            word.store(if slot == 0 { next } else { 0 }, Ordering::Relaxed);
        }
        self.returned = Some(frame);
        self.returned_at = memory.frames.tlb.stamp();
    }

    /// All that was given out is back, singly or not. Every CPU flushes before the next is taken.
    pub(super) fn reset(&mut self) {
        self.returned = None;
        self.last_out = None;
        self.next = self.first;
    }

    /// A frame for good, filled with zeros: one that is not out.
    pub(super) fn keep<M: Hardware>(&mut self, memory: &Memory<M>) -> Option<RamFrame> {
        let frame = self.next.filter(|_| self.has_spare())?;
        self.unlink_next(memory, frame);
        memory.frames.set_aux(frame.mfn(), raw(self.kept));
        self.kept = Some(frame);
        self.kept_count += 1;
        memory.machine.clear(frame);
        Some(frame)
    }

    fn unlink_next<M: Hardware>(&mut self, memory: &Memory<M>, frame: RamFrame) {
        let after = memory.frames.aux(frame.mfn());
        self.next = link(after);
        match self.last_out {
            Some(last) => memory.frames.set_aux(last.mfn(), after),
            None => self.first = self.next,
        }
        self.passing -= 1;
    }

    /// Takes a frame out that nothing uses and no CPU knows. After [`Self::reset`] and the flush.
    pub(super) fn remove<M: Hardware>(&mut self, memory: &Memory<M>) -> Option<RamFrame> {
        let frame = self.next?;
        self.unlink_next(memory, frame);
        Some(frame)
    }

    /// Those for good are like all others again. After the flush that follows their last use.
    pub(super) fn release_kept<M: Hardware>(&mut self, memory: &Memory<M>) {
        while let Some(frame) = self.kept {
            self.kept = link(memory.frames.aux(frame.mfn()));
            self.kept_count -= 1;
            self.add(memory, frame);
        }
    }
}
