//! What the firmware says lies where, and what of it is taken before there is an allocator.

use core::ops::Range;
use heapless::Vec;

/// Regions that a map can have.
pub const MAX_REGIONS: usize = 128;
const PAGE: u64 = 4096;
/// Where memory for guests begins. Below, the firmware keeps its vectors, data, tables and programs between what is
/// RAM, starting CPUs find their first instructions, and loaders may leave their information: to guests all of that is
/// I/O memory, which dom0 may map and nobody has as a page of his own (Xen's `DOMID_IO`).
pub const LOW_MEMORY_END: u64 = 1 << 20;

/// What a region is, in the firmware's numbers (`E820_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Kind {
    /// Memory for anybody.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
    /// ACPI tables, which may be had when they were read.
    Acpi = 3,
    /// Kept by the firmware over sleep.
    AcpiNvs = 4,
    /// Broken.
    Unusable = 5,
}

impl Kind {
    /// The number, as the firmware and the ABI have it (`E820_*`).
    #[must_use]
    pub const fn raw(self) -> u32 {
        self as u32
    }

    /// The kind that the firmware means by a number; what it may invent is reserved.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Ram,
            3 => Self::Acpi,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            _ => Self::Reserved,
        }
    }
}

/// A region of machine addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where it lies.
    pub range: Range<u64>,
    /// What it is.
    pub kind: Kind,
}

/// The map: regions by rising address, none overlapping another.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    regions: Vec<Region, MAX_REGIONS>,
}

impl MemoryMap {
    /// Adds a region. Where two overlap, the one that is less like RAM counts. What no longer fits is left out: memory
    /// that nobody knows is memory that nobody uses.
    pub fn add(&mut self, range: Range<u64>, kind: Kind) {
        let mut rest = range;
        let mut index = 0;
        while rest.start < rest.end {
            let Some(other) = self.regions.get(index).cloned() else {
                return self.insert(index, rest, kind);
            };
            if other.range.end <= rest.start {
                index += 1;
                continue;
            }
            if rest.start < other.range.start {
                let end = rest.end.min(other.range.start);
                self.insert(index, rest.start..end, kind);
                rest.start = end;
                index += 1;
                continue;
            }
            let end = rest.end.min(other.range.end);
            if kind > other.kind {
                self.overwrite(index, rest.start..end, kind);
                index = 0;
            }
            rest.start = end;
        }
    }

    fn insert(&mut self, index: usize, range: Range<u64>, kind: Kind) {
        if range.start < range.end {
            let _ = self.regions.insert(index, Region { range, kind });
        }
    }

    /// Gives the middle of a region another kind.
    fn overwrite(&mut self, index: usize, middle: Range<u64>, kind: Kind) {
        let Some(whole) = self.regions.get(index).cloned() else { return };
        let _ = self.regions.remove(index);
        self.insert(index, middle.end..whole.range.end, whole.kind);
        self.insert(index, middle.clone(), kind);
        self.insert(index, whole.range.start..middle.start, whole.kind);
    }

    /// Every region.
    pub fn regions(&self) -> impl Iterator<Item = &Region> + Clone {
        self.regions.iter()
    }

    /// RAM, in whole pages.
    pub fn ram(&self) -> impl Iterator<Item = Range<u64>> + Clone + '_ {
        let whole = |r: &Region| r.range.start.next_multiple_of(PAGE)..r.range.end & !(PAGE - 1);
        self.regions.iter().filter(|r| r.kind == Kind::Ram).map(whole).filter(|r| r.start < r.end)
    }

    /// RAM for the hypervisor and its guests: all but low memory.
    pub fn ram_above_low_memory(&self) -> impl Iterator<Item = Range<u64>> + Clone + '_ {
        let above = |range: Range<u64>| range.start.max(LOW_MEMORY_END)..range.end;
        self.ram().map(above).filter(|range| range.start < range.end)
    }

    /// The first address beyond all RAM.
    #[must_use]
    pub fn end_of_ram(&self) -> u64 {
        self.ram().map(|r| r.end).max().unwrap_or(0)
    }

    /// Whether anything that memory stands behind touches the range: RAM or ACPI's.
    #[must_use]
    pub fn has_memory_in(&self, range: &Range<u64>) -> bool {
        let is_memory = |r: &&Region| matches!(r.kind, Kind::Ram | Kind::Acpi | Kind::AcpiNvs);
        self.regions.iter().filter(is_memory).any(|r| r.range.start < range.end && range.start < r.range.end)
    }
}

/// Hands out RAM before there is an allocator, from the top down, and remembers what is taken.
#[derive(Clone, Debug)]
pub struct BootAllocator {
    free: Vec<Range<u64>, MAX_REGIONS>,
}

impl BootAllocator {
    /// All RAM of the map but low memory.
    #[must_use]
    pub fn new(map: &MemoryMap) -> Self {
        Self { free: map.ram_above_low_memory().collect() }
    }

    /// Takes a range out, whole pages, wherever it lies.
    pub fn keep(&mut self, range: Range<u64>) {
        let (start, end) = (range.start & !(PAGE - 1), range.end.next_multiple_of(PAGE));
        let mut left = Vec::new();
        for free in &self.free {
            for part in [free.start..free.end.min(start), free.start.max(end)..free.end] {
                if part.start < part.end {
                    let _ = left.push(part);
                }
            }
        }
        self.free = left;
    }

    /// Takes whole pages below `limit`, aligned as asked (a power of two), highest first; not cleared.
    pub fn take(&mut self, bytes: u64, align: u64, limit: u64) -> Option<Range<u64>> {
        let bytes = bytes.next_multiple_of(PAGE);
        let align = align.max(PAGE);
        let place = |r: &Range<u64>| {
            let start = r.end.min(limit).checked_sub(bytes)? & !(align - 1);
            (start >= r.start).then_some(start..start + bytes)
        };
        let taken = self.free.iter().filter_map(place).max_by_key(|r| r.start)?;
        self.keep(taken.clone());
        Some(taken)
    }

    /// What nobody has taken.
    pub fn free(&self) -> impl Iterator<Item = Range<u64>> + Clone + '_ {
        self.free.iter().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_less_like_ram_counts() {
        let mut map = MemoryMap::default();
        map.add(0x10_0000..0x100_0000, Kind::Ram);
        map.add(0x20_0000..0x30_0000, Kind::Reserved);
        map.add(0..0x10_0000, Kind::Reserved);
        map.add(0x28_0000..0x38_0000, Kind::Ram);
        let ram: std::vec::Vec<_> = map.ram().collect();
        assert_eq!(ram, [0x10_0000..0x20_0000, 0x30_0000..0x100_0000]);
        assert_eq!(map.end_of_ram(), 0x100_0000);
    }

    #[test]
    fn low_memory_is_nobody_s_ram() {
        let mut map = MemoryMap::default();
        map.add(0..0x9_fc00, Kind::Ram);
        map.add(0xf_0000..0x10_0000, Kind::Reserved);
        assert_eq!(map.ram_above_low_memory().count(), 0);
        map.add(0xf_8000..0x80_0000, Kind::Ram);
        assert!(map.ram_above_low_memory().eq(core::iter::once(0x10_0000..0x80_0000)));
        let mut boot = BootAllocator::new(&map);
        assert!(boot.free().eq(core::iter::once(0x10_0000..0x80_0000)));
        assert_eq!(boot.take(0x1000, 1, LOW_MEMORY_END), None);
        // The map that dom0 is told stays the firmware's.
        assert!(map.regions().any(|region| region.range == (0..0x9_fc00) && region.kind == Kind::Ram));
    }

    #[test]
    fn what_is_kept_is_not_taken() {
        let mut map = MemoryMap::default();
        map.add(0x10_0000..0x80_0000, Kind::Ram);
        let mut boot = BootAllocator::new(&map);
        boot.keep(0x20_0000..0x40_0800);
        assert_eq!(boot.take(0x1000, 1, u64::MAX), Some(0x7f_f000..0x80_0000));
        assert_eq!(boot.take(0x1000, 1, 0x40_2000), Some(0x40_1000..0x40_2000));
        assert_eq!(boot.take(0x3f_e000, 1, u64::MAX), None);
        assert_eq!(boot.take(0x10_0000, 0x10_0000, u64::MAX), Some(0x60_0000..0x70_0000));
        let free: std::vec::Vec<_> = boot.free().collect();
        assert_eq!(free, [0x10_0000..0x20_0000, 0x40_2000..0x60_0000, 0x70_0000..0x7f_f000]);
    }

    proptest! {
        #[test]
        fn regions_stay_in_order_and_apart(adds in proptest::collection::vec((0_u64..64, 0_u64..16, 1_u32..6), 0..24)) {
            let mut map = MemoryMap::default();
            let mut model = [None; 80];
            for (start, length, kind) in adds {
                let kind = Kind::from_raw(kind);
                map.add(start..start + length, kind);
                for cell in &mut model[start as usize..(start + length) as usize] {
                    *cell = (*cell).max(Some(kind));
                }
            }
            for (a, b) in map.regions().zip(map.regions().skip(1)) {
                prop_assert!(a.range.end <= b.range.start);
            }
            for (address, cell) in (0..).zip(model) {
                let found = map.regions().find(|r| r.range.contains(&address)).map(|r| r.kind);
                prop_assert_eq!(found, cell);
            }
        }
    }
}
