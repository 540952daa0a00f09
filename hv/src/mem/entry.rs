//! One entry of a page table, and the whitelist of what a guest may put there (Intel SDM vol. 3A, 4.5.4).

use crate::addr::Mfn;

/// A page table entry as the CPU reads it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Entry(pub u64);

impl Entry {
    /// The translation is in force.
    pub const PRESENT: u64 = 1 << 0;
    /// Writes are allowed.
    pub const WRITABLE: u64 = 1 << 1;
    /// Ring 3 may use it. PV guest kernels run in ring 3, so it is set in every entry of theirs.
    pub const USER: u64 = 1 << 2;
    /// Write-through, cache-disable, and the third bit of the PAT index (in an L1).
    pub const PWT: u64 = 1 << 3;
    /// See [`Self::PWT`].
    pub const PCD: u64 = 1 << 4;
    /// The CPU has used it.
    pub const ACCESSED: u64 = 1 << 5;
    /// The CPU has written through it.
    pub const DIRTY: u64 = 1 << 6;
    /// PAT in an L1, page size above.
    pub const PAT_OR_SIZE: u64 = 1 << 7;
    /// Survives a root switch.
    pub const GLOBAL: u64 = 1 << 8;
    /// Three bits for the guest's own use.
    pub const AVAILABLE: u64 = 7 << 9;
    /// Marks what the guest asked for as the kernel's (Xen's `_PAGE_GUEST_KERNEL`).
    pub const GUEST_KERNEL: u64 = 1 << 52;
    /// Instructions may not be fetched.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// The frame number's bits.
    pub const FRAME: u64 = 0x000f_ffff_ffff_f000;

    /// Whether the translation is in force.
    #[inline]
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// Whether writes are allowed.
    #[inline]
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.0 & Self::WRITABLE != 0
    }

    /// The frame, if any machine could have it.
    #[inline]
    #[must_use]
    pub const fn mfn(self) -> Option<Mfn> {
        Mfn::new((self.0 & Self::FRAME) >> 12)
    }

    /// An entry for a frame.
    #[inline]
    #[must_use]
    pub const fn to(mfn: Mfn, flags: u64) -> Self {
        Self(mfn.address().0 | flags)
    }
}

impl core::fmt::Debug for Entry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}
