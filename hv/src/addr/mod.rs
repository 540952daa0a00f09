//! Numbers nobody can mix up: machine frames and addresses, what guests name, slots of tables.

mod guest;
mod machine;

pub use guest::{GuestAddr, GuestHalf, GuestRange, GuestRecords, GuestWords};
pub use machine::{MachineAddr, Mfn};

use static_assertions::assert_not_impl_any;
use zerocopy::FromBytes;

/// Bits of an address inside its page.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes of a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Bytes of a page, as a length.
pub const PAGE_BYTES: usize = 1 << PAGE_SHIFT;
/// Entries of a page table, 64-bit words of a page.
pub const TABLE_ENTRIES: usize = 512;

/// The place of an entry in a page table: below 512 by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Slot(u16);

impl Slot {
    /// The slot with this number, if a table has one.
    #[inline]
    #[must_use]
    pub const fn new(raw: usize) -> Option<Self> {
        if raw < TABLE_ENTRIES { Some(Self(raw as u16)) } else { None }
    }

    /// The slot with the lower nine bits of a number.
    #[inline]
    #[must_use]
    const fn truncated(raw: u64) -> Self {
        Self((raw & 511) as u16)
    }

    /// The slot of the table entry at `offset` bytes into its page; `None` if the offset is not an entry's.
    #[inline]
    #[must_use]
    pub const fn at_offset(offset: usize) -> Option<Self> {
        if offset.is_multiple_of(8) { Self::new(offset / 8) } else { None }
    }

    /// The number.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        (self.0 & 511) as usize
    }

    /// What is in the slot.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "a slot is below 512 by construction")]
    pub const fn of<T>(self, table: &[T; TABLE_ENTRIES]) -> &T {
        &table[self.index()]
    }

    /// Every slot of a table from `first` on.
    pub fn from(first: usize) -> impl DoubleEndedIterator<Item = Self> {
        (first.min(TABLE_ENTRIES)..TABLE_ENTRIES).map(|i| Self(i as u16))
    }
}

// A number becomes a slot only where a table has one.
assert_not_impl_any!(Slot: FromBytes, Default);
