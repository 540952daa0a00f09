//! What a domain has asked of the hypervisor, counted. Only a build with the feature `perfc` counts, as Xen's own
//! performance counters do; without it there is nothing here.

#[cfg(feature = "perfc")]
use core::sync::atomic::{AtomicU64, Ordering};

/// Something that is counted besides hypercalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// A privileged instruction was emulated.
    Privileged,
    /// A write to a page table was emulated.
    TableWrite,
    /// `cpuid` was answered behind the prefix that asks for emulation.
    ForcedCpuid,
    /// A page fault went to the guest's handler.
    PageFault,
    /// Another exception went to the guest's handler.
    Exception,
    /// A hypercall was made from within a multicall; it counts as a hypercall as well.
    Subcall,
}

impl Counted {
    /// Each, with the name that is printed.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Privileged, "privileged instructions"),
        (Self::TableWrite, "page table writes"),
        (Self::ForcedCpuid, "forced cpuid"),
        (Self::PageFault, "page faults"),
        (Self::Exception, "other exceptions"),
        (Self::Subcall, "of them in multicalls"),
    ];
}

/// Hypercall numbers that are counted apart.
#[cfg(feature = "perfc")]
const NUMBERS: usize = 64;

/// The counters of one domain.
#[derive(Debug)]
pub struct Counters {
    #[cfg(feature = "perfc")]
    hypercalls: [AtomicU64; NUMBERS],
    #[cfg(feature = "perfc")]
    others: [AtomicU64; Counted::ALL.len()],
}

#[cfg(feature = "perfc")]
impl Counters {
    /// Nothing has happened yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            hypercalls: [const { AtomicU64::new(0) }; NUMBERS],
            others: [const { AtomicU64::new(0) }; Counted::ALL.len()],
        }
    }

    /// A hypercall was made.
    pub fn hypercall(&self, number: u32) {
        if let Some(counter) = self.hypercalls.get(number as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Something else has happened.
    pub fn count(&self, what: Counted) {
        if let Some(counter) = self.others.get(what as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many hypercalls of each number were made, those that were not left out.
    pub fn hypercalls(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let counts = self.hypercalls.iter().map(|counter| counter.load(Ordering::Relaxed));
        (0..).zip(counts).filter(|&(_, count)| count != 0)
    }

    /// What else has happened how often.
    pub fn others(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.others.iter().map(|counter| counter.load(Ordering::Relaxed));
        Counted::ALL.iter().map(|&(_, name)| name).zip(counts)
    }
}

#[cfg(not(feature = "perfc"))]
impl Counters {
    /// Nothing is counted.
    #[must_use]
    pub const fn new() -> Self {
        Self {}
    }

    /// A hypercall was made.
    #[inline(always)]
    pub const fn hypercall(&self, _number: u32) {}

    /// Something else has happened.
    #[inline(always)]
    pub const fn count(&self, _what: Counted) {}

    /// None.
    pub fn hypercalls(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        core::iter::empty()
    }

    /// None.
    pub fn others(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        core::iter::empty()
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}
