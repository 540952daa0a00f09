//! The guest's pages as numbers: which there are, which are free, which frame is behind each, and where they are
//! mapped. Nothing here touches a page.

pub(crate) mod layout;
pub(crate) mod m2p;
pub(crate) mod p2m;
pub(crate) mod pool;
pub(crate) mod ranges;

use x86_64::structures::paging::PageTableFlags;

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

    /// The entry of a page table that leads to the frame.
    pub const fn entry(self, flags: PageTableFlags) -> u64 {
        self.address() | flags.bits()
    }
}
