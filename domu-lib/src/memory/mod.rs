//! Memory of a guest: pseudo-physical page numbers and machine frames, the page pool, mappings of frames.
//!
//! Three numbers name a page. A [`Pfn`] counts this guest's pages from 0; an [`Mfn`] names the machine frame behind
//! it, which is what page tables and other domains are told; an address is where the page is mapped. The tables
//! between the first two are the p2m (ours) and the machine-to-physical table (the hypervisor's). Every page that the
//! guest owns is mapped once at `DIRECT_MAP + pfn * 4096`, page tables read-only; what belongs to others is mapped
//! into windows ([`map`]).

pub mod bytes;
pub mod map;
pub mod p2m;
pub mod pool;

pub use crate::raw::frame::Frame;
pub use crate::raw::page::{Page, Pages};
pub use crate::raw::space::{AddressSpace, Rights};
pub use crate::raw::tables::bits;

/// Bytes that the heap's users hold, its own words included, and bytes of the pages that it has taken from the pool.
#[cfg(target_os = "none")]
pub use crate::raw::heap::usage as heap_usage;
/// On a machine with an operating system the heap is that system's.
#[cfg(not(target_os = "none"))]
pub fn heap_usage() -> (usize, usize) {
    (0, 0)
}

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// A page of this guest, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(pub u64);

/// A frame of the machine.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mfn(pub u64);

impl Mfn {
    /// The machine address of the frame's first byte.
    pub const fn address(self) -> u64 {
        self.0 << 12
    }
}

/// How many pages the domain may ever have: what its memory map says, at least what it has now.
#[cfg(target_os = "none")]
pub(crate) fn limit_from_map(now: u64) -> u64 {
    // Without a map (in dom0) the domain keeps to what it started with. A map is nothing to size tables by blindly.
    const MOST: u64 = 1 << 28;
    crate::raw::reservation::top_of_memory().unwrap_or(now).clamp(now, MOST.max(now))
}
