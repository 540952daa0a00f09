//! One entry of a page table, and the whitelist of what a guest may put there (Intel SDM vol. 3A, 4.5.4).

use super::RamFrame;
use crate::addr::Mfn;
use oxen_abi::errno::Errno;
use x86_64::structures::paging::PageTableFlags;

/// A page table entry as the CPU reads it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Entry(pub u64);

impl Entry {
    /// The translation is in force.
    pub const PRESENT: u64 = PageTableFlags::PRESENT.bits();
    /// Writes are allowed.
    pub const WRITABLE: u64 = PageTableFlags::WRITABLE.bits();
    /// Ring 3 may use it. PV guest kernels run in ring 3, so it is set in every entry of theirs.
    pub const USER: u64 = PageTableFlags::USER_ACCESSIBLE.bits();
    /// Write-through, cache-disable, and the third bit of the PAT index (in an L1).
    pub const PWT: u64 = PageTableFlags::WRITE_THROUGH.bits();
    /// See [`Self::PWT`].
    pub const PCD: u64 = PageTableFlags::NO_CACHE.bits();
    /// The CPU has used it.
    pub const ACCESSED: u64 = PageTableFlags::ACCESSED.bits();
    /// The CPU has written through it.
    pub const DIRTY: u64 = PageTableFlags::DIRTY.bits();
    /// PAT in an L1, page size above.
    pub const PAT_OR_SIZE: u64 = PageTableFlags::HUGE_PAGE.bits();
    /// Survives a root switch.
    pub const GLOBAL: u64 = PageTableFlags::GLOBAL.bits();
    /// Three bits for the guest's own use.
    pub const AVAILABLE: u64 = 7 << 9;
    /// Software's own bits at the top, [`Self::GUEST_KERNEL`] among them.
    pub const AVAILABLE_HIGH: u64 = 0x7ff << 52;
    /// Marks what the guest asked for as the kernel's (Xen's `_PAGE_GUEST_KERNEL`).
    pub const GUEST_KERNEL: u64 = 1 << 52;
    /// Instructions may not be fetched.
    pub const NO_EXECUTE: u64 = PageTableFlags::NO_EXECUTE.bits();
    /// The frame number's bits.
    pub const FRAME: u64 = 0x000f_ffff_ffff_f000;

    /// How the mapped page is cached.
    pub const CACHING: u64 = Self::PWT | Self::PCD | Self::PAT_OR_SIZE;
    /// Reads are cached, writes go to memory and invalidate.
    const WRITE_PROTECTED: u64 = Self::PAT_OR_SIZE | Self::PWT;
    /// What the CPU notes.
    pub const NOTES: u64 = Self::ACCESSED | Self::DIRTY;
    /// What an entry of any level may contain.
    const ANY_LEVEL: u64 = Self::PRESENT
        | Self::WRITABLE
        | Self::USER
        | Self::NOTES
        | Self::AVAILABLE
        | Self::AVAILABLE_HIGH
        | Self::NO_EXECUTE
        | Self::FRAME;
    /// What may change in a present entry without a word about the frame it refers to: nothing that decides which frame
    /// it is, whether it can be written, or how it is cached.
    pub const HARMLESS: u64 =
        Self::NO_EXECUTE | Self::AVAILABLE_HIGH | Self::AVAILABLE | Self::GLOBAL | Self::NOTES | Self::USER;

    /// A present L1 entry as it may stand in a table, whatever it refers to. What the guest wants for its kernel alone is
    /// opened to ring 3, where that kernel runs, and marked.
    ///
    /// # Errors
    /// `Inval` for anything beyond the whitelist; how a page is cached may be said where `may_cache`.
    #[inline]
    pub const fn sanitize_page(self, may_cache: bool) -> Result<Self, Errno> {
        let allowed = Self::ANY_LEVEL | Self::GLOBAL | if may_cache { Self::CACHING } else { 0 };
        if self.0 & !allowed != 0 {
            return Err(Errno::Inval);
        }
        Ok(Self(if self.0 & Self::USER == 0 { self.0 | Self::USER | Self::GUEST_KERNEL } else { self.0 }))
    }

    /// A present entry of a table of `level`, which is above 1, as it may stand there, whatever it refers to. A root's is
    /// marked as accessed, as on a CPU that fetches them ahead of their use: Xen's roots for each CPU do not tell.
    ///
    /// # Errors
    /// `Inval` for anything beyond the whitelist; pages larger than 4 KiB are.
    #[inline]
    pub const fn sanitize_table(self, level: u32) -> Result<Self, Errno> {
        if self.0 & !Self::ANY_LEVEL != 0 {
            return Err(Errno::Inval);
        }
        Ok(Self(self.0 | Self::USER | if level == 4 { Self::ACCESSED } else { 0 }))
    }

    /// An entry for device memory: where it asks for a cache (write-back, write-through, write-protected) it gets none.
    /// Write-combining and both uncached types stay, as Xen's PAT numbers them.
    #[inline]
    #[must_use]
    pub const fn uncached(self) -> Self {
        match self.0 & Self::CACHING {
            0 | Self::PWT | Self::WRITE_PROTECTED => Self(self.0 & !Self::CACHING | Self::PWT | Self::PCD),
            _ => self,
        }
    }

    /// Whether replacing `self` by `other`, both present, changes nothing that matters to the frame behind.
    #[inline]
    #[must_use]
    pub const fn differs_harmlessly(self, other: Self) -> bool {
        (self.0 ^ other.0) & !Self::HARMLESS == 0
    }

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

    /// The table that an entry of a validated table refers to, if it is present.
    #[inline(always)]
    #[must_use]
    pub const fn table(self) -> Option<RamFrame> {
        if self.is_present() { Some(RamFrame::counted(Mfn::truncated(self.0 >> 12))) } else { None }
    }

    /// The frame's number as an index, be there such a frame or not.
    #[inline(always)]
    #[must_use]
    pub const fn frame_index(self) -> usize {
        ((self.0 & Self::FRAME) >> 12) as usize
    }

    /// An entry for a frame.
    #[inline]
    #[must_use]
    pub const fn to(mfn: Mfn, flags: u64) -> Self {
        Self(mfn.address().as_u64() | flags)
    }
}

impl core::fmt::Debug for Entry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whitelist_passes() {
        for bit in 0..64 {
            let entry = Entry(Entry::PRESENT | 1 << bit);
            let cached = bit == 3 || bit == 4 || bit == 7;
            assert_eq!(entry.sanitize_page(false).is_ok(), !cached, "bit {bit} of a page");
            assert!(entry.sanitize_page(true).is_ok(), "bit {bit} of a page of a device");
            assert_eq!(entry.sanitize_table(2).is_ok(), !cached && bit != 8, "bit {bit} of a table");
        }
    }

    /// Every combination of the bits that are not the frame's: 2^24 of them.
    #[test]
    fn no_combination_of_flags_passes_that_has_a_bit_beyond_the_whitelist() {
        const HIGH: u64 = 0xfff << 52;
        for flags in 0..1_u64 << 24 {
            let entry = Entry(flags & 0xfff | (flags << 40) & HIGH | 0x1234_5000);
            let (is_cached, is_global) = (entry.0 & 0x98 != 0, entry.0 & 0x100 != 0);
            let opened = entry.0 | 4 | if entry.0 & 4 == 0 { 1 << 52 } else { 0 };
            assert_eq!(entry.sanitize_page(false).ok(), (!is_cached).then_some(Entry(opened)), "{entry:?}");
            assert_eq!(entry.sanitize_page(true), Ok(Entry(opened)), "{entry:?}");
            for (level, marks) in [(2, 4), (3, 4), (4, 0x24)] {
                let table = (!is_cached && !is_global).then_some(Entry(entry.0 | marks));
                assert_eq!(entry.sanitize_table(level).ok(), table, "{entry:?}");
            }
        }
    }

    #[test]
    fn a_kernel_s_page_is_opened_to_ring_3_and_marked() {
        assert_eq!(Entry(0x63).sanitize_page(false), Ok(Entry(0x0010_0000_0000_0067)));
        assert_eq!(Entry(0x67).sanitize_page(false), Ok(Entry(0x67)));
    }

    #[test]
    fn a_roots_entries_are_accessed_at_once() {
        assert_eq!([2, 3, 4].map(|level| Entry(1).sanitize_table(level)), [5, 5, 0x25].map(|word| Ok(Entry(word))));
    }

    #[test]
    fn neither_the_frame_nor_the_right_to_write_nor_caching_changes_harmlessly() {
        for bit in (0..64).filter(|bit| matches!(bit, 0 | 1 | 3 | 4 | 7 | 12..52)) {
            assert!(!Entry(1).differs_harmlessly(Entry(1 ^ 1 << bit)), "bit {bit}");
        }
    }
}
