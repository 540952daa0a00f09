//! The layout's own laws: nothing overlaps, everything is reachable, no table is writable.

use super::*;
use crate::toolstack::image::Segment;
use proptest::prelude::*;

const LINUX_BASE: u64 = 0xffff_ffff_8000_0000;

fn image(virt_base: u64, start: u64, size: u64, init_p2m: Option<u64>, module_by_pfn: bool) -> Image {
    Image {
        virt_base,
        start: virt_base + start,
        end: virt_base + start + size,
        entry: virt_base + start,
        hypercall_page: None,
        init_p2m,
        module_by_pfn,
        guest_os: String::new(),
        segments: Vec::from([Segment { start: virt_base + start, memory: size, offset: 0, bytes: 0 }]),
    }
}

/// Walks the tables as the processor does; frames are page numbers plus 1000 here.
fn walk(layout: &Layout, tables: &BTreeMap<u64, [u64; 512]>, address: u64) -> Option<(u64, bool)> {
    let mut table = layout.tables.start;
    for level in (1..=4).rev() {
        let entry = tables[&table][(address >> (3 + 9 * level)) as usize & 511];
        if entry & 1 == 0 {
            return None;
        }
        table = (entry >> 12) - 1000;
        if level == 1 {
            return Some((table, entry & WRITABLE != 0));
        }
    }
    None
}

fn check(layout: &Layout) {
    let mfn = |pfn: u64| pfn + 1000;
    let tables: BTreeMap<u64, [u64; 512]> = layout.table_contents(&mfn).collect();
    let table_pages: Vec<u64> = layout.tables.clone().chain(layout.p2m_tables.clone()).collect();
    assert_eq!(tables.keys().copied().collect::<Vec<_>>(), {
        let mut sorted = table_pages.clone();
        sorted.sort_unstable();
        sorted
    });
    assert!(layout.used <= layout.pages);
    let single = [layout.start_info, layout.store, layout.console, layout.stack].map(|p| p..p + 1);
    let mut parts: Vec<Range<u64>> = single.to_vec();
    parts.extend([&layout.ramdisk, &layout.p2m, &layout.tables, &layout.p2m_tables].map(Clone::clone));
    parts.retain(|r| !r.is_empty());
    parts.sort_by_key(|r| r.start);
    assert!(parts.windows(2).all(|w| w[0].end <= w[1].start), "{parts:?}");
    for pfn in [0, layout.start_info, layout.store, layout.console, layout.stack] {
        assert_eq!(walk(layout, &tables, layout.address(pfn)), Some((pfn, true)));
    }
    for &pfn in &table_pages {
        let address = layout.address(pfn);
        if address < layout.mapping_end {
            assert_eq!(walk(layout, &tables, address), Some((pfn, false)), "tables are read-only");
        }
    }
    for (i, pfn) in layout.p2m.clone().enumerate() {
        assert_eq!(walk(layout, &tables, layout.p2m_address + i as u64 * PAGE), Some((pfn, true)));
    }
    assert!(layout.mapping_end >= layout.address(layout.stack) + PAGE + SLACK);
    assert_eq!(layout.mapping_end % MAPPING_UNIT, layout.virt_base % MAPPING_UNIT);
}

#[test]
fn debians_kernel_is_laid_out_as_xens_own_tools_do_it() {
    let linux = image(LINUX_BASE, 0x100_0000, 0x3a0_0000, Some(0x80_0000_0000), true);
    let layout = Layout::new(&linux, 0x482 * PAGE + 1, 65536).unwrap();
    check(&layout);
    assert_eq!((layout.start_info, layout.store, layout.console), (0x4a00, 0x4a01, 0x4a02));
    assert_eq!(layout.tables, 0x4a03..0x4a03 + 0x29);
    assert_eq!(layout.stack, 0x4a2c);
    assert_eq!(layout.mapping_end, 0xffff_ffff_84c0_0000);
    assert_eq!(layout.ramdisk.start, 0x4c00);
    assert_eq!((layout.p2m.start, layout.p2m_tables.end - layout.p2m.start), (0x5083, 0x83));
}

#[test]
fn a_small_kernel_without_wishes_fits_into_little() {
    let layout = Layout::new(&image(LINUX_BASE, 0, 0x3_0000, None, false), 5000, 512).unwrap();
    check(&layout);
    assert!(layout.ramdisk_mapped && layout.used < 512);
    assert_eq!(layout.p2m_address, layout.address(layout.p2m.start));
}

#[test]
fn too_little_memory_is_refused_with_what_would_do() {
    let linux = image(LINUX_BASE, 0x100_0000, 0x3a0_0000, Some(0x80_0000_0000), true);
    let refusal = Layout::new(&linux, 0, 16 << 8).unwrap_err();
    assert!(refusal.starts_with("16 MiB are too little memory") && refusal.contains("need 77 MiB"), "{refusal}");
    assert!(Layout::new(&linux, 0, 77 << 8).is_ok());
}

#[test]
fn what_collides_is_refused() {
    let clash = image(LINUX_BASE, 0, 0x1000, Some(LINUX_BASE + 0x10_0000), true);
    assert!(Layout::new(&clash, 0, 4096).unwrap_err().contains("INIT_P2M"));
    let top = image(LINUX_BASE, 0x7fb0_0000, 0x10_0000, None, false);
    assert!(Layout::new(&top, 1 << 20, 1 << 22).unwrap_err().contains("end of the address space"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_guest_obeys_the_laws(
        base in prop_oneof![Just(0u64), Just(LINUX_BASE), Just(0xffff_8800_0000_0000)],
        start in 0u64..64, size in 1u64..6000, ramdisk in 0u64..10_000_000, pages in 1u64..20_000,
        p2m in prop_oneof![Just(None), Just(Some(0x80_0000_0000u64)), Just(Some(0x40_0000_0000u64))], by_pfn: bool
    ) {
        let image = image(base, start * 4096, size * 1000, p2m, by_pfn);
        match Layout::new(&image, ramdisk, pages) {
            Ok(layout) => check(&layout),
            Err(why) => prop_assert!(why.contains("too little memory"), "{}", why),
        }
    }
}
