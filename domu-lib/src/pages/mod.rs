//! The guest's pages as numbers: which there are, which are free, which frame is behind each, and where they are
//! mapped. Nothing here touches a page.

pub(crate) mod layout;
pub(crate) mod m2p;
pub(crate) mod p2m;
pub(crate) mod pool;
pub(crate) mod ranges;

use x86_64::structures::paging::PageTableFlags;
use zerocopy::{Immutable, IntoBytes};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// A page of a guest, counted from 0.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, IntoBytes, Immutable)]
pub struct Pfn(u64);

impl Pfn {
    /// The page with this number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number.
    pub const fn raw(self) -> u64 {
        self.0
    }
}

/// A frame of the machine.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, IntoBytes, Immutable)]
pub struct Mfn(u64);

impl Mfn {
    /// No frame: what a p2m holds for a page without one (`INVALID_P2M_ENTRY`).
    pub const INVALID: Self = Self(u64::MAX);

    /// The frame with this number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number, as the ABI passes it.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The machine address of the frame's first byte.
    pub const fn address(self) -> u64 {
        self.0 << 12
    }

    /// The entry of a page table that leads to the frame.
    pub const fn entry(self, flags: PageTableFlags) -> u64 {
        self.address() | flags.bits()
    }
}
