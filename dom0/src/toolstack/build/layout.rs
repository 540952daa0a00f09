//! Where everything of a new guest goes in its memory, and the page tables that say so.
//!
//! ```text
//!   virt_base ┬ image ┬ (ramdisk) ┬ (p2m) ┬ start_info, store, console ┬ tables ┬ stack ┬ slack ┐ 4 MiB
//!             │       only where the kernel does not say             L4 first                   │
//!             └──────────────────────── one mapping, page by page ──────────────────────────────┘
//!   then, outside this mapping: the ramdisk by page number, the p2m at INIT_P2M and its tables
//! ```

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use core::ops::Range;

use crate::toolstack::image::Image;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// What the end of the initial mapping is rounded up to.
const MAPPING_UNIT: u64 = 4 << 20;
/// What is mapped at least behind the stack.
const SLACK: u64 = 512 << 10;

/// Present, writable, for user mode (where guests run), accessed.
const ENTRY: u64 = 0x27;
/// As [`ENTRY`], and dirty: for the tables.
const TABLE: u64 = 0x67;
const WRITABLE: u64 = 2;

/// A page table by its place: level 1–4, and the virtual address over the bytes that it covers.
type Place = (u32, u64);

/// Where everything goes; pages are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Pages that the guest has.
    pub pages: u64,
    /// The virtual address of page 0.
    pub virt_base: u64,
    /// Pages of the ramdisk.
    pub ramdisk: Range<u64>,
    /// Whether the ramdisk is in the initial mapping.
    pub ramdisk_mapped: bool,
    /// Pages of the p2m list.
    pub p2m: Range<u64>,
    /// Its virtual address.
    pub p2m_address: u64,
    /// The page of start_info.
    pub start_info: u64,
    /// The page of the store's ring.
    pub store: u64,
    /// The page of the console's ring.
    pub console: u64,
    /// Pages of the tables of the initial mapping; the first is the L4.
    pub tables: Range<u64>,
    /// Pages of further tables, for the p2m.
    pub p2m_tables: Range<u64>,
    /// The page of the boot stack.
    pub stack: u64,
    /// Virtual address behind the initial mapping.
    pub mapping_end: u64,
    /// Pages that were needed.
    pub used: u64,
    places: BTreeMap<Place, u64>,
}

impl Layout {
    /// Lays a guest out in `pages` pages, or says how many MiB it needs.
    pub fn new(image: &Image, ramdisk_bytes: u64, pages: u64) -> Result<Self, String> {
        let layout = Self::place(image, ramdisk_bytes, pages)?;
        if layout.used <= pages {
            return Ok(layout);
        }
        // The list of pages grows with the memory that holds it: try with what was needed until it fits.
        let mut enough = layout.used;
        while let Ok(larger) = Self::place(image, ramdisk_bytes, enough)
            && larger.used > enough
        {
            enough = larger.used;
        }
        let mib = |pages: u64| (pages * PAGE).div_ceil(1 << 20);
        Err(format!(
            "{} MiB are too little memory: kernel, ramdisk and tables need {} MiB; set memory = {} or more",
            mib(pages),
            mib(enough),
            mib(enough) + 1
        ))
    }

    fn place(image: &Image, ramdisk_bytes: u64, pages: u64) -> Result<Self, String> {
        let pfn = |address: u64| (address - image.virt_base).div_ceil(PAGE);
        let mut next = pfn(image.end);
        let mut take = |count: u64| {
            let range = next..next + count;
            next = range.end;
            range
        };
        let ramdisk_pages = ramdisk_bytes.div_ceil(PAGE);
        let p2m_pages = (pages * 8).div_ceil(PAGE);
        let ramdisk_mapped = !image.module_by_pfn && ramdisk_pages != 0;
        let mut ramdisk = take(if ramdisk_mapped { ramdisk_pages } else { 0 });
        let mut p2m = take(if image.init_p2m.is_none() { p2m_pages } else { 0 });
        let (start_info, store, console) = (take(1).start, take(1).start, take(1).start);
        let first_table = next;
        let (tables, mapping_end) = tables_behind(image.virt_base, first_table)?;
        let stack = first_table + tables.len() as u64;
        let mut places: BTreeMap<Place, u64> = tables.into_iter().zip(first_table..).collect();
        let mut next = pfn(mapping_end);
        if image.module_by_pfn {
            ramdisk = next..next + ramdisk_pages;
            next = ramdisk.end;
        }
        let mut p2m_tables = next..next;
        let mut p2m_address = image.virt_base + p2m.start * PAGE;
        if let Some(address) = image.init_p2m {
            p2m_address = address;
            p2m = next..next + p2m_pages;
            let range = address..address.saturating_add(p2m_pages * PAGE);
            if range.start < mapping_end && image.virt_base < range.end || range.end > u64::MAX - PAGE {
                return Err(format!("INIT_P2M {address:#x} collides with the kernel's own mapping"));
            }
            let more: Vec<Place> = tables_of(&range).filter(|place| !places.contains_key(place)).collect();
            p2m_tables = p2m.end..p2m.end + more.len() as u64;
            places.extend(more.into_iter().zip(p2m_tables.clone()));
        }
        // The slack behind the stack is mapped as far as there are pages; nothing needs it.
        let end = |range: &Range<u64>| if range.is_empty() { 0 } else { range.end };
        let used = [&ramdisk, &p2m, &p2m_tables].map(end).into_iter().fold(stack + 1, u64::max);
        Ok(Self {
            pages,
            virt_base: image.virt_base,
            ramdisk,
            ramdisk_mapped,
            p2m,
            p2m_address,
            start_info,
            store,
            console,
            tables: first_table..stack,
            p2m_tables,
            stack,
            mapping_end,
            used,
            places,
        })
    }

    /// The virtual address of a page in the initial mapping.
    pub fn address(&self, pfn: u64) -> u64 {
        self.virt_base + pfn * PAGE
    }

    /// The tables with their pages and contents; `mfn` tells the frame behind a page.
    pub fn table_contents<'a>(
        &'a self,
        mfn: &'a dyn Fn(u64) -> u64,
    ) -> impl Iterator<Item = (u64, [u64; 512])> + use<'a> {
        self.places.iter().map(move |(&(level, index), &pfn)| {
            let entry = |slot: u64| {
                let below = index << 9 | slot;
                if level > 1 {
                    let table = self.places.get(&(level - 1, below));
                    return table.map_or(0, |&table| mfn(table) << 12 | TABLE);
                }
                let Some(page) = self.page_at(sign_extended(below << 12)) else { return 0 };
                let is_table = self.tables.contains(&page) || self.p2m_tables.contains(&page);
                mfn(page) << 12 | if is_table { ENTRY & !WRITABLE } else { ENTRY }
            };
            (pfn, core::array::from_fn(|slot| entry(slot as u64)))
        })
    }

    /// Which page stands at a virtual address at the start.
    fn page_at(&self, address: u64) -> Option<u64> {
        if (self.virt_base..self.mapping_end).contains(&address) {
            return Some((address - self.virt_base) / PAGE).filter(|&pfn| pfn < self.pages);
        }
        let offset = address.checked_sub(self.p2m_address)? / PAGE;
        (offset < self.p2m.end - self.p2m.start).then_some(self.p2m.start + offset)
    }
}

fn sign_extended(address: u64) -> u64 {
    if address >> 47 & 1 == 1 { address | 0xffff << 48 } else { address }
}

/// The tables that map everything from `base` to behind the stack, which follows these tables, which start
/// at page `first`; and where the mapping ends.
fn tables_behind(base: u64, first: u64) -> Result<(Vec<Place>, u64), String> {
    let mut count = 4;
    loop {
        let end = base
            .checked_add((first + count + 1) * PAGE + SLACK)
            .and_then(|end| end.checked_next_multiple_of(MAPPING_UNIT))
            .filter(|&end| end < u64::MAX - MAPPING_UNIT)
            .ok_or("the image and what must be mapped behind it reach beyond the end of the address space")?;
        let tables: Vec<Place> = tables_of(&(base..end)).collect();
        if tables.len() as u64 <= count {
            return Ok((tables, end));
        }
        count = tables.len() as u64;
    }
}

/// The tables that map a range, from the L4 down.
fn tables_of(range: &Range<u64>) -> impl Iterator<Item = Place> + use<> {
    let Range { start, end } = range.clone();
    let low = |address: u64| address & ((1 << 48) - 1);
    (1..=4u32).rev().flat_map(move |level| {
        let shift = 12 + 9 * level;
        let (first, last) = (low(start) >> shift, low(end - 1) >> shift);
        (first..=last).map(move |index| (level, index))
    })
}

#[cfg(test)]
mod tests;
