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
    pub const PRESENT: PageTableFlags = PageTableFlags::PRESENT;
    /// Writes are allowed.
    pub const WRITABLE: PageTableFlags = PageTableFlags::WRITABLE;
    /// Ring 3 may use it. PV guest kernels run in ring 3, so it is set in every entry of theirs.
    pub const USER: PageTableFlags = PageTableFlags::USER_ACCESSIBLE;
    /// Write-through, cache-disable, and the third bit of the PAT index (in an L1).
    pub const PWT: PageTableFlags = PageTableFlags::WRITE_THROUGH;
    /// See [`Self::PWT`].
    pub const PCD: PageTableFlags = PageTableFlags::NO_CACHE;
    /// The CPU has used it.
    pub const ACCESSED: PageTableFlags = PageTableFlags::ACCESSED;
    /// The CPU has written through it.
    pub const DIRTY: PageTableFlags = PageTableFlags::DIRTY;
    /// PAT in an L1, page size above.
    pub const PAT_OR_SIZE: PageTableFlags = PageTableFlags::HUGE_PAGE;
    /// Survives a root switch.
    pub const GLOBAL: PageTableFlags = PageTableFlags::GLOBAL;
    /// Three bits for the guest's own use.
    pub const AVAILABLE: PageTableFlags = PageTableFlags::from_bits_retain(7 << 9);
    /// Software's own bits at the top, [`Self::GUEST_KERNEL`] among them.
    pub const AVAILABLE_HIGH: PageTableFlags = PageTableFlags::from_bits_retain(0x7ff << 52);
    /// Marks what the guest asked for as the kernel's (Xen's `_PAGE_GUEST_KERNEL`).
    pub const GUEST_KERNEL: PageTableFlags = PageTableFlags::BIT_52;
    /// Instructions may not be fetched.
    pub const NO_EXECUTE: PageTableFlags = PageTableFlags::NO_EXECUTE;
    /// The frame number's bits.
    pub const FRAME: u64 = 0x000f_ffff_ffff_f000;

    /// How the mapped page is cached.
    pub const CACHING: PageTableFlags = Self::PWT.union(Self::PCD).union(Self::PAT_OR_SIZE);
    /// What the CPU notes.
    pub const NOTES: PageTableFlags = Self::ACCESSED.union(Self::DIRTY);
    /// What an entry of any level may contain.
    const ANY_LEVEL: PageTableFlags = Self::PRESENT
        .union(Self::WRITABLE)
        .union(Self::USER)
        .union(Self::NOTES)
        .union(Self::AVAILABLE)
        .union(Self::AVAILABLE_HIGH)
        .union(Self::NO_EXECUTE);
    /// What may change in a present entry without a word about the frame it refers to: nothing that decides which frame
    /// it is, whether it can be written, or how it is cached.
    pub const HARMLESS: PageTableFlags = Self::NO_EXECUTE
        .union(Self::AVAILABLE_HIGH)
        .union(Self::AVAILABLE)
        .union(Self::GLOBAL)
        .union(Self::NOTES)
        .union(Self::USER);

    /// All but the frame, bits without a name included.
    #[inline]
    #[must_use]
    pub const fn flags(self) -> PageTableFlags {
        PageTableFlags::from_bits_retain(self.0 & !Self::FRAME)
    }

    /// Whether all of these flags are set.
    #[inline]
    #[must_use]
    pub const fn has(self, flags: PageTableFlags) -> bool {
        self.flags().contains(flags)
    }

    /// Whether one of these flags is set.
    #[inline]
    #[must_use]
    pub const fn has_any(self, flags: PageTableFlags) -> bool {
        self.flags().intersects(flags)
    }

    /// The same entry with these flags too.
    #[inline]
    #[must_use]
    pub const fn with(self, flags: PageTableFlags) -> Self {
        Self(self.0 | flags.bits())
    }

    /// The same entry without these flags.
    #[inline]
    #[must_use]
    pub const fn without(self, flags: PageTableFlags) -> Self {
        Self(self.0 & !flags.bits())
    }

    /// The same frame, with no other flags than these of those that are set.
    #[inline]
    #[must_use]
    pub const fn only(self, flags: PageTableFlags) -> Self {
        Self(self.0 & (Self::FRAME | flags.bits()))
    }

    /// A present L1 entry as it may stand in a table, whatever it refers to. What the guest wants for its kernel alone
    /// is opened to ring 3, where that kernel runs, and marked.
    ///
    /// # Errors
    /// `Inval` for anything beyond the whitelist; how a page is cached may be said where `may_cache`.
    #[inline]
    pub const fn sanitize_page(self, may_cache: bool) -> Result<Self, Errno> {
        let cached = if may_cache { Self::CACHING } else { PageTableFlags::empty() };
        let allowed = Self::ANY_LEVEL.union(Self::GLOBAL).union(cached);
        if !self.flags().difference(allowed).is_empty() {
            return Err(Errno::Inval);
        }
        Ok(if self.has(Self::USER) { self } else { self.with(Self::USER).with(Self::GUEST_KERNEL) })
    }

    /// A present entry of a table of `level`, which is above 1, as it may stand there, whatever it refers to. A root's
    /// is marked as accessed, as on a CPU that fetches them ahead of their use: Xen's roots for each CPU do not tell.
    ///
    /// # Errors
    /// `Inval` for anything beyond the whitelist; pages larger than 4 KiB are.
    #[inline]
    pub const fn sanitize_table(self, level: u32) -> Result<Self, Errno> {
        if !self.flags().difference(Self::ANY_LEVEL).is_empty() {
            return Err(Errno::Inval);
        }
        let opened = self.with(Self::USER);
        Ok(if level == 4 { opened.with(Self::ACCESSED) } else { opened })
    }

    /// An entry for device memory: where it asks for a cache (write-back, write-through, write-protected) it gets none.
    /// Write-combining and both uncached types stay, as Xen's PAT numbers them.
    #[inline]
    #[must_use]
    pub const fn uncached(self) -> Self {
        const PWT: u64 = Entry::PWT.bits();
        /// Reads are cached, writes go to memory and invalidate.
        const WRITE_PROTECTED: u64 = Entry::PAT_OR_SIZE.union(Entry::PWT).bits();
        match self.flags().intersection(Self::CACHING).bits() {
            0 | PWT | WRITE_PROTECTED => self.without(Self::CACHING).with(Self::PWT).with(Self::PCD),
            _ => self,
        }
    }

    /// Whether replacing `self` by `other`, both present, changes nothing that matters to the frame behind.
    #[inline]
    #[must_use]
    pub const fn differs_harmlessly(self, other: Self) -> bool {
        (self.0 ^ other.0) & !Self::HARMLESS.bits() == 0
    }

    /// Whether the translation is in force.
    #[inline]
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.has(Self::PRESENT)
    }

    /// Whether writes are allowed.
    #[inline]
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.has(Self::WRITABLE)
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
    pub const fn to(mfn: Mfn, flags: PageTableFlags) -> Self {
        Self(mfn.address().as_u64() | flags.bits())
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
            let entry = Entry(1 << bit).with(Entry::PRESENT);
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
