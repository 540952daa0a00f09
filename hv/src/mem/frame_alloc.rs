//! Frames for a purpose: a domain's reservation, a page lent to it, the hypervisor itself;
//! and from one domain to another.

use super::{
    Hardware, PagingDomain,
    editor::Editor,
    frame_table::{Contents, FrameTable, Recalled, Shortage, Taken, Withdrawn},
    frame_type::Owner,
};
use crate::{
    addr::Mfn,
    mem::{Memory, RamFrame},
    reply::Stop,
};
use core::sync::atomic::{AtomicU32, Ordering};
use oxen_abi::errno::Errno;

pub use super::frame_table::MAX_ORDER;

/// Frames that [`Memory::recall_shared`] takes at once: the status frames of the largest grant table.
pub const MAX_RECALL: usize = 8;

/// Frames that [`Memory::exchange`] takes at once.
pub const MAX_EXCHANGE: usize = 512;

/// What the machine-to-phys table says of a frame that has no place in a guest's memory (`INVALID_M2P_ENTRY`).
pub const INVALID_M2P_ENTRY: u64 = u64::MAX;

impl<M: Hardware> Memory<M> {
    /// Takes frames that no TLB knows.
    #[inline]
    fn take(&self, owner: Owner, order: u32) -> Result<Taken<'_>, Stop> {
        if self.machine.refuses_frames() {
            return Err(Errno::NoMem.into());
        }
        self.frames.take(owner, order, |stamp| self.others_know(stamp), |stamp| self.flush(stamp)).map_err(|shortage| {
            match shortage {
                Shortage::Empty => Errno::NoMem.into(),
                Shortage::Unfinished => Stop::Unfinished,
            }
        })
    }

    /// Whether another CPU than this one may know frames of this stamp.
    #[cold]
    fn others_know(&self, stamp: u32) -> bool {
        self.frames.tlb.unflushed(self.frames.tlb.online(), stamp) & !(1 << self.machine.this_cpu().0) != 0
    }

    /// Makes every CPU forget them.
    #[cold]
    fn flush(&self, stamp: u32) {
        match self.frames.tlb.unflushed(self.frames.tlb.online(), stamp) {
            0 => {}
            cpus => self.flush_cpus(cpus),
        }
    }

    /// `1 << order` frames for the hypervisor itself, filled with zeros. Ended by [`Self::give_back_own`].
    ///
    /// # Errors
    /// `NoMem` when there are none.
    pub fn take_own(&self, order: u32) -> Result<RamFrame, Errno> {
        loop {
            match self.take(Owner::HYPERVISOR, order) {
                Ok(taken) => return Ok(taken.into_own(|frame| self.machine.clear(frame))),
                Err(Stop::Unfinished) => {}
                Err(_) => return Err(Errno::NoMem),
            }
        }
    }

    /// Ends the hypervisor's hold on a frame of [`Self::take_own`], and fills it with zeros: what stood there is
    /// nobody's to read. Nothing happens to a frame that is not the hypervisor's.
    pub fn give_back_own(&self, frame: Mfn) {
        let given = self.frames.free_own(frame, |frame| self.machine.clear(frame));
        debug_assert!(given.is_ok(), "{frame:?} is not the hypervisor's");
    }

    /// A frame that the hypervisor lends to `domain`: its own, but outside of its reservation, held by the hypervisor
    /// until [`Self::give_back_shared`]. Filled with zeros.
    ///
    /// # Errors
    /// `NoMem` when there is none.
    pub fn take_shared(&self, owner: Owner) -> Result<RamFrame, Errno> {
        // A single frame is there or not: nothing has to be joined for it.
        let taken = self.take(owner, 0).map_err(|_| Errno::NoMem)?;
        Ok(taken.into_shared(owner, |frame| {
            self.machine.clear(frame);
            self.set_m2p(frame.mfn(), INVALID_M2P_ENTRY);
        }))
    }

    /// Ends the hypervisor's own hold on a frame of [`Self::take_shared`]. It is free as
    /// soon as nobody maps it any more.
    pub fn give_back_shared(&self, frame: RamFrame) {
        self.frames.put_use(frame.mfn());
    }

    /// Takes frames of [`Self::take_shared`] back that nobody maps, all or none; they are free then.
    ///
    /// # Errors
    /// `Busy` if somebody refers to one of them, `NoMem` for more than [`MAX_RECALL`]. Nothing has changed then.
    #[inline(never)]
    pub fn recall_shared(&self, owner: Owner, frames: &[RamFrame]) -> Result<(), Errno> {
        let mut recalled: heapless::Vec<Recalled<'_>, MAX_RECALL> = heapless::Vec::new();
        for &frame in frames {
            recalled.push(self.frames.recall(frame.mfn(), owner)?).map_err(|_| Errno::NoMem)?;
        }
        while let Some(frame) = recalled.pop() {
            frame.retire();
        }
        Ok(())
    }

    /// `1 << order` frames for the reservation of `domain`, without a place in its memory: filled with zeros, unless
    /// `domain` itself was the very last to have them.
    ///
    /// # Errors
    /// `NoMem` when there are none or the domain may not have so many. `Unfinished`: call again.
    pub fn take_for(&self, domain: &PagingDomain, order: u32) -> Result<Mfn, Stop> {
        self.take_below(domain, order, u64::MAX)
    }

    /// The same, with numbers below `limit`.
    ///
    /// # Errors
    /// As [`Self::take_for`].
    pub fn take_below(&self, domain: &PagingDomain, order: u32, limit: u64) -> Result<Mfn, Stop> {
        let quota = Quota::reserve(&self.frames, domain, 1_u32.checked_shl(order).ok_or(Errno::NoMem)?)?;
        let taken = self.take(domain.owner, order)?;
        if taken.numbers().end > limit {
            return Err(Errno::NoMem.into());
        }
        quota.keep();
        Ok(taken.into_reservation(domain.owner, |frame, contents| {
            self.scrub(frame, contents);
            self.set_m2p(frame.mfn(), INVALID_M2P_ENTRY);
        }))
    }

    /// Exchanges frames of a reservation, which nobody may refer to, for fresh ones in blocks of `1 << order`, as many
    /// in all, with numbers below `limit`. `place` is told each new block and its index once nothing can fail any more.
    ///
    /// # Errors
    /// `Inval` or `Busy` for frames that cannot be had, `NoMem` when there are no such blocks. `Unfinished`: call
    /// again. Nothing has changed then.
    pub fn exchange(
        &self,
        domain: &PagingDomain,
        old: &[Mfn],
        order: u32,
        limit: u64,
        mut place: impl FnMut(usize, Mfn),
    ) -> Result<(), Stop> {
        let mut leaving: heapless::Vec<Withdrawn<'_>, MAX_EXCHANGE> = heapless::Vec::new();
        let mut fresh: heapless::Vec<Taken<'_>, MAX_EXCHANGE> = heapless::Vec::new();
        for &frame in old {
            leaving.push(self.frames.withdraw(frame, domain.owner)?).map_err(|_| Errno::Inval)?;
        }
        for _ in 0..old.len() >> order {
            let block = self.take(domain.owner, order)?;
            if block.numbers().end > limit {
                return Err(Errno::NoMem.into());
            }
            fresh.push(block).map_err(|_| Errno::NoMem)?;
        }
        for (index, block) in fresh.into_iter().enumerate() {
            place(index, block.into_reservation(domain.owner, |frame, contents| self.scrub(frame, contents)));
        }
        leaving.into_iter().for_each(Withdrawn::retire);
        Ok(())
    }

    /// Fills a frame with zeros, unless what is in it is its new owner's own.
    fn scrub(&self, frame: RamFrame, contents: Contents) {
        if contents == Contents::Foreign {
            self.machine.clear(frame);
        }
    }

    /// Writes a frame's word of the machine-to-phys table.
    #[inline]
    pub fn set_m2p(&self, frame: Mfn, pfn: u64) {
        if let Some(word) = self.machine.machine_to_phys().get(frame.index()) {
            word.store(pfn, Ordering::Relaxed);
            self.note_placed(frame);
        }
    }
}

impl<M: Hardware> Editor<'_, M> {
    /// Hands a frame of the domain to another's reservation, contents included. Nobody may refer to it, and no CPU
    /// knows it afterwards.
    ///
    /// # Errors
    /// `Busy` if somebody refers to it, `Inval` if it is not the domain's, `NoMem` if `to` may not
    /// have it. Nothing has changed then.
    pub fn hand_over(&self, frame: Mfn, to: &PagingDomain) -> Result<(), Errno> {
        let (memory, from) = (self.memory, self.domain);
        let source = memory.frames.reserved_counter(from.owner).ok_or(Errno::Inval)?;
        let quota = Quota::reserve(&memory.frames, to, 1)?;
        let withdrawn = memory.frames.withdraw(frame, from.owner)?;
        quota.keep();
        source.fetch_sub(1, Ordering::AcqRel);
        memory.set_m2p(frame, INVALID_M2P_ENTRY);
        withdrawn.hand_over(to.owner, || memory.flush_cpus(memory.frames.tlb.cpus_of(from.owner)));
        Ok(())
    }
}

/// Frames counted into a domain's reservation before they are taken. Dropped, they are not counted any more.
struct Quota<'a> {
    counter: &'a AtomicU32,
    pages: u32,
}

impl<'a> Quota<'a> {
    fn reserve(frames: &'a FrameTable, domain: &PagingDomain, pages: u32) -> Result<Self, Errno> {
        let counter = frames.reserved_counter(domain.owner).ok_or(Errno::NoMem)?;
        let limit = domain.max_pages.load(Ordering::Relaxed);
        counter
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| n.checked_add(pages).filter(|&n| n <= limit))
            .map_err(|_| Errno::NoMem)?;
        let quota = Self { counter, pages };
        if domain.is_dying.load(Ordering::Acquire) { Err(Errno::NoMem) } else { Ok(quota) }
    }

    /// The frames are there.
    fn keep(self) {
        core::mem::forget(self);
    }
}

impl Drop for Quota<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.pages, Ordering::AcqRel);
    }
}

/// The frames of a block.
pub fn block(first: Mfn, order: u32) -> impl Iterator<Item = Mfn> {
    (0..1_u64 << order).filter_map(move |i| first.checked_add(i))
}
