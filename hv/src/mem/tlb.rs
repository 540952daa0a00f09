//! What translation caches may still know: a clock of flushes, and who must flush before a frame is used anew.
//!
//! A frame is stamped with the clock when its last use as something ends, a CPU with the clock when it began its last
//! full flush. A CPU whose stamp is not later than the frame's may still hold translations of that use.

use super::{Hardware, frame_type::Owner, root::RootAddress};
use crate::{
    config::{MAX_CPUS, MAX_DOMAINS},
    hardware::CpuId,
    mem::Memory,
};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// After so many flushes every CPU flushes, so that no stamp grows old enough to look new when the clock wraps.
const LAP: u32 = 1 << 30;

/// The clock of flushes, and what each CPU may know.
#[derive(Debug)]
pub struct TlbClock {
    now: AtomicU32,
    /// The CPUs that take part.
    online: AtomicU64,
    /// The clock when each CPU last flushed everything.
    last_flush: [AtomicU32; MAX_CPUS],
    /// The CPUs that may hold translations of each domain, by its slot.
    dirty: [AtomicU64; MAX_DOMAINS],
}

impl Default for TlbClock {
    fn default() -> Self {
        Self {
            now: AtomicU32::new(1),
            online: AtomicU64::new(1),
            last_flush: [const { AtomicU32::new(0) }; MAX_CPUS],
            dirty: [const { AtomicU64::new(0) }; MAX_DOMAINS],
        }
    }
}

impl TlbClock {
    /// This moment: no flush that began before has a later one.
    #[inline]
    #[must_use]
    pub(super) fn now(&self) -> u32 {
        self.now.load(Ordering::Acquire)
    }

    /// The moment to stamp a frame with whose last entry was just taken away. The fence makes every CPU see that before
    /// the clock is read: a CPU whose flush is later than the stamp cannot have read the entry again.
    #[inline]
    #[must_use]
    pub(super) fn stamp(&self) -> u32 {
        fence(Ordering::SeqCst);
        self.now()
    }

    /// Counts a CPU in, before it first runs a guest. CPU 0 takes part from the start.
    pub fn join(&self, cpu: CpuId) {
        self.online.fetch_or(1_u64.checked_shl(u32::from(cpu.0)).unwrap_or(0), Ordering::AcqRel);
    }

    /// The CPUs that take part, bit n for CPU n.
    #[must_use]
    pub fn online(&self) -> u64 {
        self.online.load(Ordering::Acquire)
    }

    /// A flush begins. Returns its stamp.
    fn tick(&self) -> u32 {
        self.now.fetch_add(1, Ordering::AcqRel).wrapping_add(1)
    }

    /// Those CPUs of `mask` that have not flushed since `stamp`.
    #[inline]
    #[must_use]
    pub fn unflushed(&self, mask: u64, stamp: u32) -> u64 {
        let is_stale = |flush: &AtomicU32| flush.load(Ordering::Acquire).wrapping_sub(stamp) as i32 <= 0;
        self.each(mask).filter(|(_, flush)| is_stale(flush)).fold(0, |stale, (bit, _)| stale | bit)
    }

    /// The CPUs of a mask: the bit of each, and when it last flushed.
    fn each(&self, mut mask: u64) -> impl Iterator<Item = (u64, &AtomicU32)> {
        core::iter::from_fn(move || {
            let bit = mask & mask.wrapping_neg();
            mask &= !bit;
            self.last_flush.get(bit.trailing_zeros() as usize).map(|flush| (bit, flush))
        })
    }

    /// A CPU has flushed everything.
    #[inline]
    fn note(&self, cpu: CpuId, stamp: u32) {
        if let Some(flush) = self.last_flush.get(usize::from(cpu.0)) {
            flush.store(stamp, Ordering::Release);
        }
    }

    #[inline]
    fn dirty(&self, owner: Owner) -> Option<&AtomicU64> {
        self.dirty.get(owner.slot()?)
    }

    /// The CPUs that may hold translations of a domain, bit n for CPU n. What no domain owns is known to no CPU.
    #[inline]
    #[must_use]
    pub fn cpus_of(&self, owner: Owner) -> u64 {
        self.dirty(owner).map_or(0, |cpus| cpus.load(Ordering::SeqCst))
    }

    /// These CPUs begin to run a domain.
    pub fn enter(&self, owner: Owner, cpus: u64) {
        if let Some(dirty) = self.dirty(owner) {
            dirty.fetch_or(cpus, Ordering::SeqCst);
        }
    }

    /// These CPUs have loaded another domain's root, and know nothing of this one any more.
    pub fn leave(&self, owner: Owner, cpus: u64) {
        if let Some(dirty) = self.dirty(owner) {
            dirty.fetch_and(!cpus, Ordering::SeqCst);
        }
    }
}

impl<M: Hardware> Memory<M> {
    /// Flushes everything on the CPUs of `mask` and remembers it.
    pub fn flush_cpus(&self, mask: u64) {
        let tlb = &self.frames.tlb;
        let mut stamp = tlb.tick();
        let mut mask = mask & tlb.online();
        if stamp.is_multiple_of(LAP) {
            mask = tlb.online();
        }
        if mask == 0 {
            return;
        }
        if stamp == 0 {
            stamp = tlb.tick();
        }
        self.machine.flush_cpus(mask, None);
        for (_, flush) in tlb.each(mask) {
            flush.store(stamp, Ordering::Release);
        }
    }

    /// Flushes everything on this CPU and remembers it.
    pub fn flush_local(&self, cpu: CpuId) {
        let stamp = self.frames.tlb.tick();
        if stamp.is_multiple_of(LAP) {
            return self.flush_cpus(self.frames.tlb.online());
        }
        self.machine.flush();
        self.frames.tlb.note(cpu, stamp);
    }

    /// Loads a root into this CPU and remembers the flush that this is.
    #[inline]
    pub fn load_root(&self, cpu: CpuId, root: RootAddress) {
        let stamp = self.frames.tlb.tick();
        self.machine.load_root(root);
        if stamp.is_multiple_of(LAP) {
            return self.flush_cpus(self.frames.tlb.online());
        }
        self.frames.tlb.note(cpu, stamp);
    }

    /// Flushes those CPUs that ran a domain and may still know a frame of its stamped `stamp`.
    pub(super) fn flush_stale(&self, owner: Owner, stamp: u32) {
        let stale = self.frames.tlb.unflushed(self.frames.tlb.cpus_of(owner), stamp);
        if stale != 0 {
            self.flush_cpus(stale);
        }
    }
}
