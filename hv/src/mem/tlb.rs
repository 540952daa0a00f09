//! What translation caches may still know: a clock of flushes, and who must flush before a frame is used anew.
//!
//! A frame is stamped with the clock when its last use as something ends, a CPU with the clock when it began its last full
//! flush. A CPU whose stamp is not later than the frame's may still hold translations of that use.

use super::frame_type::Owner;
use crate::{
    Hypervisor, addr::Mfn, config::MAX_CPUS, domain::Domain, hardware::CpuId, machine::Machine, sched::CpuShared,
};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// After so many flushes every CPU flushes, so that no stamp grows old enough to look new when the clock wraps.
const LAP: u32 = 1 << 30;

/// The clock of flushes, and the CPUs that take part.
#[derive(Debug)]
pub struct TlbClock {
    now: AtomicU32,
    online: AtomicU64,
}

impl Default for TlbClock {
    fn default() -> Self {
        Self { now: AtomicU32::new(1), online: AtomicU64::new(1) }
    }
}

impl TlbClock {
    /// This moment: no flush that began before has a later one.
    #[inline]
    #[must_use]
    pub(super) fn now(&self) -> u32 {
        self.now.load(Ordering::Acquire)
    }

    /// The moment to stamp a frame with whose last entry was just taken away. The fence makes every CPU see that before the
    /// clock is read: a CPU whose flush is later than the stamp cannot have read the entry again.
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
}

/// Those CPUs of `mask` that have not flushed since `stamp`.
#[inline]
#[must_use]
pub fn unflushed(cpus: &[CpuShared; MAX_CPUS], mask: u64, stamp: u32) -> u64 {
    let is_stale = |cpu: &CpuShared| cpu.last_flush.load(Ordering::Acquire).wrapping_sub(stamp) as i32 <= 0;
    each(cpus, mask).filter(|(_, cpu)| is_stale(cpu)).fold(0, |stale, (bit, _)| stale | bit)
}

/// The CPUs of a mask, each with its bit.
fn each(cpus: &[CpuShared; MAX_CPUS], mut mask: u64) -> impl Iterator<Item = (u64, &CpuShared)> {
    core::iter::from_fn(move || {
        let bit = mask & mask.wrapping_neg();
        mask &= !bit;
        cpus.get(bit.trailing_zeros() as usize).map(|cpu| (bit, cpu))
    })
}

/// Flushes everything on the CPUs of `mask` and remembers it.
pub fn flush_cpus<M: Machine>(hv: &Hypervisor<M>, mask: u64) {
    let mut stamp = hv.frames.tlb.tick();
    let mut mask = mask & hv.frames.tlb.online();
    if stamp.is_multiple_of(LAP) {
        mask = hv.frames.tlb.online();
    }
    if mask == 0 {
        return;
    }
    if stamp == 0 {
        stamp = hv.frames.tlb.tick();
    }
    hv.machine.flush_cpus(mask, None);
    for (_, cpu) in each(&hv.cpus, mask) {
        cpu.last_flush.store(stamp, Ordering::Release);
    }
}

/// Flushes everything on this CPU and remembers it.
pub fn flush_local<M: Machine>(hv: &Hypervisor<M>, cpu: CpuId) {
    let stamp = hv.frames.tlb.tick();
    if stamp.is_multiple_of(LAP) {
        return flush_cpus(hv, hv.frames.tlb.online());
    }
    hv.machine.flush();
    if let Some(shared) = hv.cpus.get(usize::from(cpu.0)) {
        shared.last_flush.store(stamp, Ordering::Release);
    }
}

/// Loads a root into this CPU and remembers the flush that this is.
#[inline]
pub fn load_root<M: Machine>(hv: &Hypervisor<M>, cpu: CpuId, root: Mfn) {
    let stamp = hv.frames.tlb.tick();
    hv.machine.load_root(root);
    if stamp.is_multiple_of(LAP) {
        return flush_cpus(hv, hv.frames.tlb.online());
    }
    if let Some(shared) = hv.cpus.get(usize::from(cpu.0)) {
        shared.last_flush.store(stamp, Ordering::Release);
    }
}

/// Makes every CPU that ran `domain` forget what it knew of a frame stamped `stamp`.
pub fn forget<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, stamp: u32) {
    let stale = unflushed(&hv.cpus, domain.dirty_cpus.load(Ordering::Acquire), stamp);
    if stale != 0 {
        flush_cpus(hv, stale);
    }
}

/// The same for the domain behind a frame's owner; a frame without one is known to nobody.
pub fn forget_owned<M: Machine>(hv: &Hypervisor<M>, owner: Owner, stamp: u32) {
    if let Some(domain) = owner.slot().and_then(|slot| hv.domains.in_slot(slot)) {
        forget(hv, &domain, stamp);
    }
}
