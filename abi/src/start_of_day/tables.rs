//! Page tables that map the start-of-day areas: how many, where, which entry points to what.

use super::{PAGE_SIZE, Refused};
use core::ops::Range;

/// The lowest address of the hypervisor's part of the address space, and the first one beyond.
const HYPERVISOR: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
/// The bits of an address that page tables look at.
const VA_MASK: u64 = (1 << 48) - 1;

/// A mapped range of virtual addresses, whole pages, wholly on one side of the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    start: u64,
    end: u64,
}

impl Area {
    /// Checks a range.
    pub(super) fn new(start: u64, len: u64) -> Result<Self, Refused> {
        if !start.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) || len == 0 {
            return Err(Refused::Address);
        }
        let end = start.checked_add(len).ok_or(Refused::Range)?;
        let below = end <= 1 << 47;
        let above = start >= HYPERVISOR.end;
        if below || above { Ok(Self { start, end }) } else { Err(Refused::Range) }
    }

    /// First address beyond.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Tables of all levels needed for this area alone.
    pub(super) fn table_count(&self) -> u64 {
        (1..=4).map(|level| self.keys(level)).map(|keys| keys.end - keys.start).sum()
    }

    /// The tables of one level, numbered by the part of the address space each covers.
    fn keys(&self, level: u32) -> Range<u64> {
        key(level, self.start)..key(level, self.end - 1) + 1
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Number of the table of `level` that covers `va`.
const fn key(level: u32, va: u64) -> u64 {
    (va & VA_MASK) >> (12 + 9 * level)
}

/// First address that table number `key` of `level` covers.
const fn key_va(level: u32, key: u64) -> u64 {
    let va = key << (12 + 9 * level);
    if va >> 47 == 0 { va } else { va | !VA_MASK }
}

/// What a lowest-level entry maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The frame.
    pub pfn: u64,
    /// Whether the domain may write it: all but page tables.
    pub writable: bool,
}

/// One page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// 4 for the top, 1 for the lowest.
    pub level: u32,
    /// Its frame.
    pub pfn: u64,
    /// First address it covers.
    pub va: u64,
}

impl Table {
    /// First address that entry `index` covers.
    #[must_use]
    pub const fn entry_va(&self, index: u64) -> u64 {
        let va = (self.va & VA_MASK) + (index << (3 + 9 * self.level));
        if va >> 47 == 0 { va } else { va | !VA_MASK }
    }
}

/// An area with its frames and the tables it needed beyond earlier areas' tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Map {
    area: Area,
    first_pfn: u64,
    tables_pfn: u64,
}

/// Both mapped areas: the region and, if there is one, the frame list's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Maps {
    region: Map,
    list: Option<Map>,
    read_only: Range<u64>,
}

impl Maps {
    /// The region alone; it maps from frame 0 on.
    pub(super) fn new(region: Area, tables_pfn: u64, read_only: Range<u64>) -> Self {
        Self { region: Map { area: region, first_pfn: 0, tables_pfn }, list: None, read_only }
    }

    /// Adds the frame list's area, its tables from frame `tables_pfn` on; returns how many.
    pub(super) fn add(&mut self, area: Area, first_pfn: u64, tables_pfn: u64) -> Result<u64, Refused> {
        if area.overlaps(&self.region.area) {
            return Err(Refused::Overlap);
        }
        self.list = Some(Map { area, first_pfn, tables_pfn });
        Ok((1..=4).map(|level| self.list_keys(level, u64::MAX)).sum())
    }

    /// How many tables of `level` with a number below `limit` the list's area needs beyond the region's.
    fn list_keys(&self, level: u32, limit: u64) -> u64 {
        let Some(list) = &self.list else { return 0 };
        let (mine, theirs) = (list.area.keys(level), self.region.area.keys(level));
        let end = mine.end.min(limit).max(mine.start);
        let shared_start = theirs.start.clamp(mine.start, end);
        let shared_end = theirs.end.clamp(mine.start, end);
        (end - mine.start) - (shared_end - shared_start)
    }

    /// See [`super::Layout::table`].
    pub(super) fn table(&self, level: u32, va: u64) -> Option<u64> {
        if !(1..=4).contains(&level) {
            return None;
        }
        let wanted = key(level, va);
        let keys = self.region.area.keys(level);
        if keys.contains(&wanted) {
            let above: u64 = (level + 1..=4).map(|l| self.region.area.keys(l)).map(|k| k.end - k.start).sum();
            return Some(self.region.tables_pfn + above + (wanted - keys.start));
        }
        let list = self.list.as_ref().filter(|list| list.area.keys(level).contains(&wanted))?;
        let above: u64 = (level + 1..=4).map(|l| self.list_keys(l, u64::MAX)).sum();
        Some(list.tables_pfn + above + self.list_keys(level, wanted))
    }

    /// See [`super::Layout::leaf`].
    pub(super) fn leaf(&self, va: u64) -> Option<Leaf> {
        let map = [Some(&self.region), self.list.as_ref()]
            .into_iter()
            .flatten()
            .find(|map| (map.area.start..map.area.end).contains(&va))?;
        let pfn = map.first_pfn + (va - map.area.start) / PAGE_SIZE;
        Some(Leaf { pfn, writable: !self.read_only.contains(&pfn) })
    }
}

/// Iterator over all page tables, in the order of their frames.
#[derive(Clone, Debug)]
pub struct Tables<'a> {
    maps: &'a Maps,
    in_list: bool,
    level: u32,
    key: u64,
}

impl<'a> Tables<'a> {
    pub(super) fn new(maps: &'a Maps) -> Self {
        Self { maps, in_list: false, level: 4, key: 0 }
    }
}

impl Iterator for Tables<'_> {
    type Item = Table;

    fn next(&mut self) -> Option<Table> {
        loop {
            let region = &self.maps.region.area;
            let area = if self.in_list { &self.maps.list.as_ref()?.area } else { region };
            let keys = area.keys(self.level);
            let key = self.key.max(keys.start);
            if key >= keys.end {
                (self.key, self.level) = (0, self.level - 1);
                if self.level == 0 {
                    if self.in_list {
                        // Stay at the end.
                        (self.level, self.key) = (1, u64::MAX);
                        return None;
                    }
                    (self.in_list, self.level) = (true, 4);
                }
                continue;
            }
            self.key = key + 1;
            if self.in_list && region.keys(self.level).contains(&key) {
                continue;
            }
            let va = key_va(self.level, key);
            let pfn = self.maps.table(self.level, va)?;
            return Some(Table { level: self.level, pfn, va });
        }
    }
}
