//! Pages from the pool as owned values, seen as atomics: other domains and the hypervisor may look at them any time.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use static_assertions::assert_not_impl_any;

use super::words::Words;
use crate::pages::{Mfn, PAGE_SIZE, Pfn, layout, p2m, pool};

/// A page of the guest's memory that nobody else in the guest uses; goes back to the pool when dropped.
#[derive(Debug)]
pub struct Page(Pages);

/// A run of neighbouring pages (neighbours here, not in the machine).
#[derive(Debug)]
pub struct Pages {
    first: Pfn,
    count: usize,
}

impl Pages {
    /// Takes `count` neighbouring pages, all zero.
    pub fn zeroed(count: usize) -> Option<Self> {
        let pages = Self { first: pool::take(count)?, count };
        for word in pages.words64() {
            word.store(0, Ordering::Relaxed);
        }
        Some(pages)
    }

    /// How many pages these are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The page number of page `index` of the run.
    pub fn pfn(&self, index: usize) -> Pfn {
        assert!(index < self.count);
        Pfn::new(self.first.raw() + index as u64)
    }

    /// The frame behind page `index` of the run.
    pub fn mfn(&self, index: usize) -> Mfn {
        // A page in the pool always has a frame: the balloon takes pages out before it gives frames away.
        p2m::mfn(self.pfn(index)).unwrap_or(Mfn::INVALID)
    }

    /// The virtual address of the first byte.
    pub fn address(&self) -> u64 {
        layout::address(self.first)
    }

    /// The run as 64-bit words.
    pub fn words64(&self) -> &[AtomicU64] {
        Words::words64(self)
    }

    /// The run as 32-bit words.
    pub fn words32(&self) -> &[AtomicU32] {
        Words::words32(self)
    }

    /// The run as bytes.
    pub fn bytes(&self) -> &[AtomicU8] {
        Words::bytes(self)
    }

    /// Never gives the pages back, and so can name them forever.
    pub fn leak(self) -> &'static Self {
        alloc::boxed::Box::leak(alloc::boxed::Box::new(self))
    }
}

// SAFETY: the pages are ours alone, mapped writable in the direct map for good, and hold no Rust value.
unsafe impl Words for Pages {
    fn address(&self) -> u64 {
        self.address()
    }

    fn pages(&self) -> usize {
        self.count
    }
}

// A page that two values stood for would be given back twice.
assert_not_impl_any!(Pages: Clone);
assert_not_impl_any!(Page: Clone);

impl Drop for Pages {
    fn drop(&mut self) {
        pool::give(self.first, self.count);
    }
}

impl Page {
    /// Takes a page, all zero.
    pub fn zeroed() -> Option<Self> {
        Pages::zeroed(1).map(Self)
    }

    /// The page's number.
    pub const fn pfn(&self) -> Pfn {
        self.0.first
    }

    /// The frame behind the page.
    pub fn mfn(&self) -> Mfn {
        self.0.mfn(0)
    }

    /// The virtual address of the page.
    pub fn address(&self) -> u64 {
        self.0.address()
    }

    /// The page as 64-bit words.
    pub fn words64(&self) -> &[AtomicU64; 512] {
        // SAFETY: a page of atomics has 512 words.
        unsafe { &*self.0.words64().as_ptr().cast() }
    }

    /// The page as 32-bit words.
    pub fn words32(&self) -> &[AtomicU32; 1024] {
        self.0.page(0)
    }

    /// The page as bytes.
    pub fn bytes(&self) -> &[AtomicU8; PAGE_SIZE] {
        // SAFETY: a page of atomics has 4096 bytes.
        unsafe { &*self.0.words64().as_ptr().cast() }
    }

    /// Never gives the page back, and so can name it forever.
    pub fn leak(self) -> &'static Self {
        alloc::boxed::Box::leak(alloc::boxed::Box::new(self))
    }

    /// Gives the page to somebody who answers for it from now on.
    pub(crate) fn into_pfn(self) -> Pfn {
        let pfn = self.pfn();
        core::mem::forget(self);
        pfn
    }
}
