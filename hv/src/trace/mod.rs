//! The trace: what the hypervisor notes as it works, for the control domain to read (`trace.h`).
//!
//! Each CPU has a ring of its own ([`ring`]), so noting takes no lock. An event belongs to a class and a part of it;
//! which are noted is one mask, and where tracing is off that mask is 0, so an event that nobody wants costs a load and
//! a branch. Hypercalls cost nothing at all then: while they are traced the CPUs use another table of handlers.

mod ring;

use crate::{
    config::MAX_CPUS,
    hardware::CpuId,
    heap::{self, Reserve},
};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use oxen_abi::{errno::Errno, trace::TRC_ALL};
use ring::{PAGE_WORDS, Page, Ring, Written};
use spin::Once;

/// Bits of an event, and of the mask, that stand for classes, and for parts of them.
const CLASSES: u32 = 0x0fff_0000;
const PARTS: u32 = 0xf000;

/// The buffers, once they are made.
#[derive(Debug)]
struct Buffers {
    /// The frame of the description, and its bytes.
    info: (u64, u32),
    /// By CPU; none for a CPU that was not up.
    rings: Box<[Option<Ring>]>,
}

/// Which events are noted, and where.
#[derive(Debug)]
pub struct Trace {
    /// The mask while tracing is on, else 0.
    wanted: AtomicU32,
    mask: AtomicU32,
    is_on: AtomicBool,
    /// The CPUs that note, bit n for CPU n.
    cpus: AtomicU64,
    buffers: Once<Buffers>,
}

/// What is said of the buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Which events are noted while tracing is on.
    pub mask: u32,
    /// The frame of the description (`t_info`); 0 while there are no buffers.
    pub frame: u64,
    /// Its bytes.
    pub bytes: u32,
}

/// Pages that the rings of so many CPUs may have each: their frames are named in one page, behind a header of 16-bit
/// words.
#[must_use]
pub const fn max_pages(cpus: usize) -> usize {
    match (PAGE_WORDS - first_list(MAX_CPUS)).checked_div(cpus) {
        Some(pages) => pages,
        None => 0,
    }
}

/// Frames that all the buffers may have, their description included.
pub const MAX_FRAMES: usize = PAGE_WORDS - first_list(MAX_CPUS) + 1;

/// The first word, of 32 bits, of the description behind its header.
const fn first_list(cpus: usize) -> usize {
    (cpus + 1).div_ceil(2)
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl Trace {
    /// No buffers, and every event is wanted once there are.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            wanted: AtomicU32::new(0),
            mask: AtomicU32::new(TRC_ALL),
            is_on: AtomicBool::new(false),
            cpus: AtomicU64::new(u64::MAX),
            buffers: Once::new(),
        }
    }

    /// Whether any event is noted.
    #[inline(always)]
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) != 0
    }

    /// Whether events of this kind are noted.
    #[must_use]
    pub fn wants(&self, event: u32) -> bool {
        is_wanted(self.wanted.load(Ordering::Relaxed), event)
    }

    /// What is said of the buffers.
    pub fn info(&self) -> Info {
        let (frame, bytes) = self.buffers.get().map_or((0, 0), |buffers| buffers.info);
        Info { mask: self.mask.load(Ordering::Relaxed), frame, bytes }
    }

    /// Chooses the events.
    pub fn set_mask(&self, mask: u32) {
        self.mask.store(mask, Ordering::Relaxed);
        self.judge();
    }

    /// Chooses the CPUs, bit n for CPU n.
    pub fn set_cpus(&self, cpus: u64) {
        self.cpus.store(cpus, Ordering::Relaxed);
    }

    /// Begins, or ends. What was lost before is forgotten at the end.
    ///
    /// # Errors
    /// `Inval` without buffers.
    pub fn switch(&self, on: bool) -> Result<(), Errno> {
        let buffers = self.buffers.get();
        if on && buffers.is_none() {
            return Err(Errno::Inval);
        }
        self.is_on.store(on, Ordering::Relaxed);
        self.judge();
        if !on {
            let rings = buffers.into_iter().flat_map(|buffers| buffers.rings.iter().flatten());
            rings.for_each(Ring::forget_lost);
        }
        Ok(())
    }

    fn judge(&self) {
        let is_on = self.is_on.load(Ordering::Relaxed);
        self.wanted.store(if is_on { self.mask.load(Ordering::Relaxed) } else { 0 }, Ordering::Relaxed);
    }

    /// Makes a ring for each of these CPUs, of so many pages at most [`max_pages`]. `frames` are a frame of zeros for
    /// the description, then one for each page, each with its number.
    ///
    /// # Errors
    /// `Inval` if there are buffers, or if the frames are too few; `NoMem` without memory for the lists of them.
    pub fn set_up(
        &self,
        machine: &impl Reserve,
        cpus: impl Iterator<Item = CpuId>,
        pages: usize,
        mut frames: impl Iterator<Item = (u64, Page)>,
    ) -> Result<(), Errno> {
        let (info, description) = frames.next().ok_or(Errno::Inval)?;
        let mut rings = heap::row(machine, MAX_CPUS, |_| None)?;
        let mut offsets = [0_u16; 1 + MAX_CPUS];
        let mut list = first_list(MAX_CPUS);
        offsets[0] = pages as u16;
        for cpu in cpus {
            let (place, offset) = (usize::from(cpu.0), usize::from(cpu.0) + 1);
            *offsets.get_mut(offset).ok_or(Errno::Inval)? = list as u16;
            let ring = Ring::new(machine, pages, || {
                let (frame, page) = frames.next()?;
                description.get(list)?.store(frame as u32, Ordering::Relaxed);
                list += 1;
                Some(page)
            })?;
            *rings.get_mut(place).ok_or(Errno::Inval)? = Some(ring);
        }
        for (word, pair) in description.iter().zip(offsets.chunks(2)) {
            let high = pair.get(1).copied().unwrap_or(0);
            word.store(u32::from(pair.first().copied().unwrap_or(0)) | u32::from(high) << 16, Ordering::Relaxed);
        }
        let mut buffers = Some(Buffers { info: (info, (PAGE_WORDS * 4) as u32), rings });
        self.buffers.try_call_once(|| buffers.take().ok_or(Errno::Inval))?;
        if buffers.is_some() { Err(Errno::Inval) } else { Ok(()) }
    }

    /// Notes an event on this CPU. Returns whether the reader is to be called.
    pub fn note(&self, cpu: CpuId, event: u32, time: u64, extra: &[u32]) -> bool {
        self.ring(cpu).is_some_and(|ring| ring.write(event, time, extra) == Written::HalfFull)
    }

    /// This CPU runs another vcpu from now on.
    pub fn run(&self, cpu: CpuId, vcpu_and_domain: u32) {
        if let Some(ring) = self.ring(cpu) {
            ring.run(vcpu_and_domain);
        }
    }

    fn ring(&self, cpu: CpuId) -> Option<&Ring> {
        if self.cpus.load(Ordering::Relaxed) & 1 << (cpu.0 & 63) == 0 {
            return None;
        }
        self.buffers.get()?.rings.get(usize::from(cpu.0))?.as_ref()
    }
}

/// Whether a mask has the class and the part of an event.
const fn is_wanted(mask: u32, event: u32) -> bool {
    mask & event & CLASSES != 0 && mask & event & PARTS != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxen_abi::trace::{TRC_64_FLAG, TRC_SCHED_WAKE};
    use oxen_abi::trace::{TRC_PV, TRC_PV_HYPERCALL_V2, TRC_PV_TRAP, TRC_SCHED_MIN, TRC_SCHED_RUNSTATE_CHANGE};

    #[test]
    fn an_event_is_wanted_by_its_class_and_its_part() {
        for event in [TRC_PV_HYPERCALL_V2, TRC_PV_TRAP | TRC_64_FLAG] {
            assert!(is_wanted(TRC_ALL, event) && is_wanted(TRC_PV, event));
            assert!(!is_wanted(TRC_SCHED_MIN, event) && !is_wanted(0, event));
        }
        assert!(is_wanted(TRC_SCHED_MIN, TRC_SCHED_RUNSTATE_CHANGE) && !is_wanted(TRC_SCHED_MIN, TRC_SCHED_WAKE));
    }

    #[test]
    fn the_rings_of_all_cpus_are_named_in_one_page() {
        assert_eq!(max_pages(0), 0);
        for cpus in 1..=MAX_CPUS {
            assert!(first_list(MAX_CPUS) + cpus * max_pages(cpus) <= PAGE_WORDS);
        }
    }
}
