//! What guests name: an address is a claim, and what the check makes of it is what an access takes.

use super::{PAGE_SHIFT, PAGE_SIZE, Slot, TABLE_ENTRIES};
use crate::layout;
use static_assertions::{assert_eq_size, assert_not_impl_any};
use zerocopy::FromBytes;

/// A virtual address that a guest named: a claim, which no access takes. Memory is accessed by what [`Self::range`] and
/// [`Self::words`] make of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct GuestAddr(u64);

impl GuestAddr {
    /// What a guest named, whatever it is.
    #[inline]
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number.
    #[inline]
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether the CPU would take the address at all (Intel SDM vol. 1, 3.3.7.1).
    #[inline]
    #[must_use]
    pub const fn is_canonical(self) -> bool {
        ((self.0 as i64) << 16 >> 16) as u64 == self.0
    }

    /// Whether all of `bytes` bytes from here are canonical and outside the hypervisor's slots.
    #[inline]
    #[must_use]
    pub const fn is_guest_range(self, bytes: u64) -> bool {
        let Some(last) = self.0.checked_add(bytes.saturating_sub(1)) else { return false };
        last < layout::LOWER_HALF_END || (self.0 >= layout::HYPERVISOR_END && last >= self.0)
    }

    /// The same for a few bytes, at most 4096, by one comparison: the hole and the hypervisor's slots are one range.
    /// What would wrap around ends at address 0, which is the guest's too.
    #[inline]
    #[must_use]
    pub const fn is_small_guest_range(self, bytes: u64) -> bool {
        let first_forbidden = layout::LOWER_HALF_END - bytes + 1;
        self.0.wrapping_sub(first_forbidden) >= layout::HYPERVISOR_END.wrapping_sub(first_forbidden)
    }

    /// `bytes` bytes from here, if [`Self::is_guest_range`], or none at all.
    #[inline]
    #[must_use]
    pub const fn range(self, bytes: u64) -> Option<GuestRange> {
        if bytes == 0 || self.is_guest_range(bytes) { Some(GuestRange { start: self, bytes }) } else { None }
    }

    /// `N` words of eight bytes from here, at most 512, if the CPU may access them for the guest.
    #[inline]
    #[must_use]
    pub const fn words<const N: usize>(self) -> Option<GuestWords<N>> {
        const { assert!(N > 0 && N <= TABLE_ENTRIES) };
        if self.is_small_guest_range(8 * N as u64) { Some(GuestWords(self)) } else { None }
    }

    /// 32 bits from here, if the CPU may access them for the guest.
    #[inline]
    #[must_use]
    pub const fn half(self) -> Option<GuestHalf> {
        if self.is_small_guest_range(4) { Some(GuestHalf(self)) } else { None }
    }

    /// The slot of the table at `level` (1 to 4) that translates this address.
    #[inline]
    #[must_use]
    pub const fn slot(self, level: u32) -> Slot {
        Slot::truncated(self.0 >> (PAGE_SHIFT + 9 * (level - 1)))
    }

    /// The address inside its page.
    #[inline]
    #[must_use]
    pub const fn offset(self) -> usize {
        (self.0 & (PAGE_SIZE - 1)) as usize
    }
}

impl core::fmt::Debug for GuestAddr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "va {:#x}", self.0)
    }
}

/// Bytes of a guest's address space, all of them outside of the hypervisor's slots. Whether they are
/// mapped is found out by the access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRange {
    start: GuestAddr,
    bytes: u64,
}

impl GuestRange {
    /// The first address.
    #[inline]
    #[must_use]
    pub const fn start(self) -> GuestAddr {
        self.start
    }

    /// How many bytes there are.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// `bytes` of them, from `offset` on, if there are so many.
    #[inline]
    #[must_use]
    pub const fn part(self, offset: u64, bytes: u64) -> Option<Self> {
        if offset > self.bytes || bytes > self.bytes - offset {
            return None;
        }
        Some(Self { start: GuestAddr(self.start.0.wrapping_add(offset)), bytes })
    }

    /// `N` words of eight bytes, from `offset` on, if there are so many.
    #[inline]
    #[must_use]
    pub const fn words<const N: usize>(self, offset: u64) -> Option<GuestWords<N>> {
        match self.part(offset, 8 * N as u64) {
            Some(part) => Some(GuestWords(part.start)),
            None => None,
        }
    }
}

/// A list of records of `N` words of eight bytes in a guest's address space, as [`GuestRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRecords<const N: usize> {
    start: GuestAddr,
    count: u32,
}

impl<const N: usize> GuestRecords<N> {
    /// `count` records from `start`, if the CPU may access them for the guest. A list of
    /// none has to be the guest's, too.
    #[inline]
    #[must_use]
    pub const fn new(start: GuestAddr, count: u32) -> Option<Self> {
        if start.is_guest_range(count as u64 * 8 * N as u64) { Some(Self { start, count }) } else { None }
    }

    /// The same, but a list of none may be anywhere.
    #[inline]
    #[must_use]
    pub const fn some_or_none(start: GuestAddr, count: u32) -> Option<Self> {
        if count == 0 { Some(Self { start, count: 0 }) } else { Self::new(start, count) }
    }

    /// The first address.
    #[inline]
    #[must_use]
    pub const fn start(self) -> GuestAddr {
        self.start
    }

    /// How many records there are.
    #[inline]
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// The first record, and those after it.
    #[inline]
    #[must_use]
    pub const fn split_first(self) -> Option<(GuestWords<N>, Self)> {
        if self.count == 0 {
            return None;
        }
        let rest = GuestAddr(self.start.0.wrapping_add(8 * N as u64));
        Some((GuestWords(self.start), Self { start: rest, count: self.count - 1 }))
    }
}

/// `N` words of eight bytes of a guest's address space, as [`GuestRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestWords<const N: usize>(GuestAddr);

impl<const N: usize> GuestWords<N> {
    /// The first address.
    #[inline]
    #[must_use]
    pub const fn start(self) -> GuestAddr {
        self.0
    }

    /// `COUNT` of them, from number `FIRST` on.
    #[inline]
    #[must_use]
    pub const fn part<const FIRST: usize, const COUNT: usize>(self) -> GuestWords<COUNT> {
        const { assert!(FIRST + COUNT <= N) };
        GuestWords(GuestAddr(self.0.0.wrapping_add(8 * FIRST as u64)))
    }
}

/// 32 bits of a guest's address space, as [`GuestRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestHalf(GuestAddr);

impl GuestHalf {
    /// The first address.
    #[inline]
    #[must_use]
    pub const fn start(self) -> GuestAddr {
        self.0
    }
}

// Only what judges an address makes one that was judged.
assert_not_impl_any!(GuestRange: FromBytes, Default);
assert_not_impl_any!(GuestRecords<1>: FromBytes, Default);
assert_not_impl_any!(GuestWords<1>: FromBytes, Default);
assert_not_impl_any!(GuestHalf: FromBytes, Default);
// Handlers pass them in registers.
assert_eq_size!(GuestWords<4>, u64);
assert_eq_size!(GuestRange, [u64; 2]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_may_touch_neither_the_hole_nor_the_hypervisor() {
        assert!(GuestAddr::new(0).is_guest_range(1 << 47));
        assert!(!GuestAddr::new(0).is_guest_range((1 << 47) + 1));
        assert!(!GuestAddr::new(layout::HYPERVISOR_START).is_guest_range(8));
        assert!(!GuestAddr::new(layout::HYPERVISOR_END - 1).is_guest_range(2));
        assert!(GuestAddr::new(layout::HYPERVISOR_END).is_guest_range(8));
        assert!(GuestAddr::new(u64::MAX).is_guest_range(1));
        assert!(!GuestAddr::new(u64::MAX).is_guest_range(2));
        assert!(!GuestAddr::new(1 << 47).is_guest_range(0));
    }

    #[test]
    fn a_small_range_is_judged_as_any_other() {
        let edges = [0, 1 << 47, layout::HYPERVISOR_START, layout::HYPERVISOR_END];
        for address in
            edges.into_iter().flat_map(|edge: u64| (0..200).map(move |i| edge.wrapping_sub(100).wrapping_add(i)))
        {
            let address = GuestAddr::new(address);
            let wraps = address.0 > u64::MAX - 72;
            assert!(wraps || address.is_small_guest_range(72) == address.is_guest_range(72), "{address:?}");
        }
    }

    #[test]
    fn a_part_of_a_range_is_inside() {
        let range = GuestAddr::new(layout::LOWER_HALF_END - 64).range(64).unwrap();
        assert_eq!(range.part(56, 8).unwrap().start(), GuestAddr::new(layout::LOWER_HALF_END - 8));
        assert_eq!(range.part(64, 0).map(GuestRange::bytes), Some(0));
        assert_eq!(range.part(57, 8), None);
        assert_eq!(range.part(u64::MAX, 8), None);
        assert_eq!(range.words::<2>(56), None);
        assert!(GuestAddr::new(layout::HYPERVISOR_START).range(1).is_none());
        assert!(GuestAddr::new(layout::HYPERVISOR_END - 8).words::<2>().is_none());
    }

    #[test]
    fn a_list_is_taken_record_by_record() {
        let start = GuestAddr::new(layout::LOWER_HALF_END - 48);
        let list = GuestRecords::<3>::new(start, 2).unwrap();
        let (first, rest) = list.split_first().unwrap();
        let (second, none) = rest.split_first().unwrap();
        assert_eq!((first.start(), second.start().0), (start, start.0 + 24));
        assert_eq!((list.count(), rest.count(), none.count(), none.split_first()), (2, 1, 0, None));
        assert_eq!(GuestRecords::<3>::new(start, 3), None);
        let nowhere = GuestAddr::new(layout::HYPERVISOR_START);
        assert_eq!(GuestRecords::<1>::new(nowhere, 0), None);
        assert_eq!(GuestRecords::<1>::some_or_none(nowhere, 0).map(GuestRecords::count), Some(0));
        assert_eq!(GuestRecords::<1>::some_or_none(nowhere, 1), None);
    }

    #[test]
    fn slots_split_an_address_by_level() {
        let va = GuestAddr::new(0xffff_8000_0000_1000);
        assert_eq!((va.slot(4).index(), va.slot(1).index()), (256, 1));
    }
}
