//! A guest's memory laid out, its tables' entries, and what to say where memory is too little.

use anyhow::{Result, anyhow};
use oxen_abi::start_of_day::{Layout, Refused, Request, Table};

use oxen_domu_lib::memory::Mfn;
use oxen_image::Image;
use x86_64::structures::paging::PageTableFlags;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Any entry: present, for user mode (where guests run), accessed.
const ENTRY: PageTableFlags =
    PageTableFlags::PRESENT.union(PageTableFlags::USER_ACCESSIBLE).union(PageTableFlags::ACCESSED);
/// A page that is written.
const WRITABLE: PageTableFlags = ENTRY.union(PageTableFlags::WRITABLE);
/// A table.
const TABLE: PageTableFlags = WRITABLE.union(PageTableFlags::DIRTY);

/// The most pages that a guest can have here: 16 TiB.
const MAX_PAGES: u64 = 1 << 32;

/// Lays a guest out in `pages` pages.
///
/// # Errors
/// The pages are too few (how many MiB would do is said), or the kernel asks for addresses that it cannot have.
pub fn lay_out(image: &Image, ramdisk_bytes: u64, pages: u64) -> Result<Layout> {
    let attempt = |nr_pages: u64| {
        Layout::new(&Request {
            virt_base: image.virt_base,
            kernel_end: image.end,
            nr_pages,
            initrd_len: ramdisk_bytes,
            initrd_by_pfn: image.module_by_pfn,
            init_p2m: image.init_p2m,
            split_pages: true,
        })
    };
    attempt(pages).map_err(|why| match why {
        Refused::Memory => {
            // The list of pages grows with the memory that holds it, so what would do is found by trying.
            let (mut few, mut enough) = (pages, MAX_PAGES);
            while enough - few > 1 {
                let middle = few + (enough - few) / 2;
                *(if attempt(middle).is_ok() { &mut enough } else { &mut few }) = middle;
            }
            let mib = |pages: u64| (pages * PAGE).div_ceil(1 << 20);
            let (has, needs) = (mib(pages), mib(enough));
            anyhow!("{has} MiB are too little memory: kernel, ramdisk and tables need memory = {needs} or more")
        }
        Refused::Address => anyhow!("the kernel's addresses are not canonical, or not aligned to pages"),
        Refused::Range => anyhow!("the kernel and what must be mapped with it reach beyond the guest's addresses"),
        Refused::Overlap => anyhow!("INIT_P2M collides with the kernel's own mapping"),
    })
}

/// The entries of one table; `mfn` tells the frame behind a page.
pub fn entries(layout: &Layout, table: &Table, mfn: &dyn Fn(u64) -> Mfn) -> [u64; 512] {
    core::array::from_fn(|index| {
        let address = table.entry_va(index as u64);
        if table.level > 1 {
            let below = layout.table(table.level - 1, address);
            return below.map_or(0, |pfn| mfn(pfn).entry(TABLE));
        }
        let leaf = layout.leaf(address);
        leaf.map_or(0, |leaf| mfn(leaf.pfn).entry(if leaf.writable { WRITABLE } else { ENTRY }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    const BASE: u64 = 0xffff_ffff_8000_0000;

    fn image(start: u64, size: u64, init_p2m: Option<u64>, module_by_pfn: bool) -> Image {
        Image {
            virt_base: BASE,
            start: BASE + start,
            end: BASE + start + size,
            entry: BASE + start,
            init_p2m,
            module_by_pfn,
            ..Image::default()
        }
    }

    /// Walks the tables as the processor does; frames are page numbers plus 1000 here.
    fn walk(layout: &Layout, tables: &BTreeMap<u64, [u64; 512]>, address: u64) -> Option<(u64, bool)> {
        let mut table = layout.pfn(layout.pt_base)?;
        for level in (1..=4).rev() {
            let entry = tables[&table][(address >> (3 + 9 * level)) as usize & 511];
            if entry & 1 == 0 {
                return None;
            }
            table = (entry >> 12) - 1000;
            if level == 1 {
                return Some((table, entry & PageTableFlags::WRITABLE.bits() != 0));
            }
        }
        None
    }

    #[test]
    fn debians_kernel_is_laid_out_as_xens_own_tools_do_it() {
        let linux = image(0x100_0000, 0x3a0_0000, Some(0x80_0000_0000), true);
        let layout = lay_out(&linux, 0x482 * PAGE + 1, 65536).unwrap();
        let pfns = [layout.start_info, layout.xenstore.unwrap(), layout.console.unwrap(), layout.pt_base, layout.stack];
        assert_eq!(pfns.map(|va| layout.pfn(va).unwrap()), [0x4a00, 0x4a01, 0x4a02, 0x4a03, 0x4a2c]);
        assert_eq!((layout.nr_pt_frames, layout.end), (0x29, 0xffff_ffff_84c0_0000));
        assert_eq!(layout.initrd, Some(0x4c00..0x5083));
        assert_eq!(layout.p2m_frames, 0x5083..0x5083 + 0x83);
    }

    #[test]
    fn too_little_memory_is_refused_with_what_would_do() {
        let linux = image(0x100_0000, 0x3a0_0000, Some(0x80_0000_0000), true);
        let refusal = lay_out(&linux, 0, 16 << 8).unwrap_err().to_string();
        assert!(refusal.starts_with("16 MiB are too little memory") && refusal.contains("memory = 77"), "{refusal}");
        assert!(lay_out(&linux, 0, 77 << 8).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_tables_map_every_page_once_and_themselves_read_only(
            start in 0u64..64, size in 1u64..6000, ramdisk in 0u64..10_000_000, pages in 1u64..20_000,
            p2m in prop_oneof![Just(None), Just(Some(0x80_0000_0000u64))], by_pfn: bool
        ) {
            let image = image(start * 4096, size * 1000, p2m, by_pfn);
            let Ok(layout) = lay_out(&image, ramdisk, pages) else { return Ok(()) };
            let mfn = |pfn: u64| Mfn::new(pfn + 1000);
            let tables: BTreeMap<_, _> = layout.tables().map(|t| (t.pfn, entries(&layout, &t, &mfn))).collect();
            let first = layout.pfn(layout.pt_base).unwrap();
            for pfn in 0..(layout.end - layout.virt_base) / PAGE {
                let is_table = (first..first + layout.nr_pt_frames).contains(&pfn);
                let address = layout.virt_base + pfn * PAGE;
                prop_assert_eq!(walk(&layout, &tables, address), Some((pfn, !is_table)));
            }
            for (i, pfn) in layout.p2m.clone().enumerate() {
                prop_assert_eq!(walk(&layout, &tables, layout.mfn_list + i as u64 * PAGE), Some((pfn, true)));
            }
        }
    }
}
