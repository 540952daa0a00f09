//! Memory of a guest: pseudo-physical page numbers and machine frames, the page pool, mappings of frames.
//!
//! Three numbers name a page. A [`Pfn`] counts this guest's pages from 0; an [`Mfn`] names the machine frame behind
//! it, which is what page tables and other domains are told; an address is where the page is mapped. The tables
//! between the first two are the p2m (ours) and the machine-to-physical table (the hypervisor's). Every page that the
//! guest owns is mapped once at `DIRECT_MAP + pfn * 4096`, page tables read-only; what belongs to others is mapped
//! into windows ([`map`]).
//!
//! # Example
//!
//! ```no_run
//! use core::sync::atomic::Ordering;
//!
//! use oxen_domu_lib::memory::{Page, pool};
//! use oxen_domu_lib::println;
//!
//! if let Some(page) = Page::zeroed() {
//!     page.words64()[0].store(7, Ordering::Relaxed);
//!     println!("page {:?} is frame {:?}; {} are free", page.pfn(), page.mfn(), pool::free_pages());
//! }
//! ```

pub mod bytes;
pub mod map;
pub mod p2m;
pub mod pool;

pub use crate::pages::{Mfn, PAGE_SIZE, Pfn};
pub use crate::raw::memory::page::{Page, Pages};
pub use crate::raw::memory::space::{AddressSpace, Rights};
pub use crate::raw::memory::tables::bits;
pub use crate::raw::memory::view::is_translated;
pub use crate::raw::trap::Frame;

/// Bytes that the heap's users hold, its own words included, and bytes of the pages that it has taken from the pool.
#[cfg(target_os = "none")]
pub use crate::raw::memory::heap::usage as heap_usage;
/// On a machine with an operating system the heap is that system's.
#[cfg(not(target_os = "none"))]
pub fn heap_usage() -> (usize, usize) {
    (0, 0)
}
