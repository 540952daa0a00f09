//! The layouts real Xen and its toolstack make, and what holds for every layout.

use super::{Layout, Leaf, PAGE_SIZE, Refused, Request};

const BASE: u64 = 0xffff_ffff_8000_0000;
const P2M: u64 = 0x80_0000_0000;

/// A Linux guest of 256 MiB with an initrd of 0x482 pages.
const LINUX: Request = Request {
    virt_base: BASE,
    kernel_end: BASE + 0x4a0_0000,
    nr_pages: 0x10000,
    initrd_len: 0x481_123,
    initrd_by_pfn: true,
    init_p2m: Some(P2M),
    split_pages: true,
};

#[test]
fn linux_guest_is_laid_out_as_by_xens_toolstack() {
    let layout = Layout::new(&LINUX).unwrap();
    assert_eq!(layout.start_info, BASE + 0x4a0_0000);
    assert_eq!(layout.xenstore, Some(BASE + 0x4a0_1000));
    assert_eq!(layout.console, Some(BASE + 0x4a0_2000));
    assert_eq!(layout.pt_base, BASE + 0x4a0_3000);
    assert_eq!(layout.nr_pt_frames, 0x29);
    assert_eq!(layout.stack, BASE + 0x4a2_c000);
    assert_eq!(layout.stack_top(), BASE + 0x4a2_d000);
    assert_eq!(layout.end, BASE + 0x4c0_0000);
    assert_eq!(layout.initrd, Some(0x4c00..0x5082));
    assert_eq!(layout.mod_start(), 0x4c00);
    assert_eq!(layout.mfn_list, P2M);
    assert_eq!(layout.p2m, 0x5082..0x5102);
    assert_eq!(layout.p2m_frames, 0x5082..0x5105, "0x83 frames");
    assert_eq!(layout.first_free_pfn, 0x5105);
    assert_eq!(layout.table(4, 0), Some(0x4a03), "the top table comes first");
    assert_eq!(layout.table(4, P2M), Some(0x4a03), "and serves both areas");
    assert_eq!(layout.table(1, P2M), Some(0x5104));
}

#[test]
fn linux_control_domain_is_laid_out_as_by_xen() {
    let layout = Layout::new(&Request { nr_pages: 0x30000, split_pages: false, ..LINUX }).unwrap();
    assert_eq!(layout.start_info, BASE + 0x4a0_0000);
    assert_eq!((layout.xenstore, layout.console), (None, None));
    assert_eq!(layout.pt_base, BASE + 0x4a0_1000);
    assert_eq!(layout.nr_pt_frames, 0x29);
    assert_eq!(layout.stack, BASE + 0x4a2_a000);
    assert_eq!(layout.end, BASE + 0x4c0_0000);
    assert_eq!(layout.p2m_frames.end - layout.p2m_frames.start, 0x183);
}

#[test]
fn a_small_kernel_keeps_everything_in_the_region() {
    let request = Request {
        virt_base: 0,
        kernel_end: 0x12_3456,
        nr_pages: 0x4000,
        initrd_len: 5000,
        initrd_by_pfn: false,
        init_p2m: None,
        split_pages: true,
    };
    let layout = Layout::new(&request).unwrap();
    assert_eq!(layout.initrd, Some(0x124..0x126));
    assert_eq!(layout.mod_start(), 0x12_4000);
    assert_eq!(layout.mfn_list, 0x12_6000);
    assert_eq!(layout.p2m, 0x126..0x146);
    assert_eq!(layout.p2m_frames, 0..0);
    assert_eq!(layout.start_info, 0x14_6000);
    assert_eq!(layout.pt_base, 0x14_9000);
    assert_eq!(layout.nr_pt_frames, 5);
    assert_eq!(layout.stack, 0x14_e000);
    assert_eq!(layout.end, 0x40_0000);
    audit(&request);
}

#[test]
fn the_slack_makes_the_region_longer_when_need_be() {
    // Page tables, stack and start info of this kernel end 512 KiB before the boundary, or one page later.
    let request = |kernel_end| Request { initrd_len: 0, kernel_end: BASE + kernel_end, ..LINUX };
    let fits = 0x4c0_0000 - (512 << 10) - (0x29 + 4) * PAGE_SIZE;
    assert_eq!(Layout::new(&request(fits)).unwrap().end, BASE + 0x4c0_0000);
    assert_eq!(Layout::new(&request(fits + 1)).unwrap().end, BASE + 0x500_0000);
    audit(&request(fits));
    audit(&request(fits + 1));
}

#[test]
fn requests_that_cannot_be_met_are_refused() {
    let refused = |request| Layout::new(&request).unwrap_err();
    assert!(Layout::new(&Request { nr_pages: 0x50ae, ..LINUX }).is_ok());
    assert_eq!(refused(Request { nr_pages: 0x50ad, ..LINUX }), Refused::Memory);
    assert_eq!(refused(Request { nr_pages: u64::MAX, ..LINUX }), Refused::Memory);
    assert_eq!(refused(Request { nr_pages: 0, init_p2m: None, ..LINUX }), Refused::Memory);
    assert_eq!(refused(Request { virt_base: BASE + 1, ..LINUX }), Refused::Address);
    assert_eq!(refused(Request { kernel_end: BASE - 1, ..LINUX }), Refused::Address);
    assert_eq!(refused(Request { kernel_end: u64::MAX, ..LINUX }), Refused::Range);
    assert_eq!(refused(Request { kernel_end: u64::MAX - 0x10_0000, ..LINUX }), Refused::Range);
    assert_eq!(refused(Request { init_p2m: Some(BASE), ..LINUX }), Refused::Overlap);
    assert_eq!(refused(Request { init_p2m: Some(P2M + 8), ..LINUX }), Refused::Address);
    assert_eq!(refused(Request { init_p2m: Some(0xffff_8000_0000_0000), ..LINUX }), Refused::Range);
    assert_eq!(refused(Request { init_p2m: Some(0x7fff_ffff_f000), ..LINUX }), Refused::Range);
    assert_eq!(refused(Request { virt_base: 0, kernel_end: BASE, ..LINUX }), Refused::Range);
    assert_eq!(refused(Request { initrd_len: u64::MAX, ..LINUX }), Refused::Memory);
    assert_eq!(refused(Request { initrd_len: u64::MAX, initrd_by_pfn: false, ..LINUX }), Refused::Range);
}

#[test]
#[cfg_attr(miri, ignore = "it goes through a million tables and shares no memory")]
fn every_layout_is_sound() {
    for nr_pages in [0x6000, 0x10000, 0x40001, 0x10_0000, 0x100_0000] {
        for init_p2m in [None, Some(P2M), Some(BASE - (1 << 30)), Some(BASE - (8 << 20)), Some(BASE + (1 << 30))] {
            for split_pages in [false, true] {
                for initrd_len in [0, 1, 4096, 0x40_0001] {
                    let initrd_by_pfn = init_p2m.is_some();
                    let request = Request { nr_pages, init_p2m, split_pages, initrd_len, initrd_by_pfn, ..LINUX };
                    if Layout::new(&request).is_ok() {
                        audit(&request);
                    }
                }
            }
        }
    }
    // The loop is not empty.
    assert!(Layout::new(&Request { init_p2m: Some(BASE - (8 << 20)), ..LINUX }).is_ok());
}

/// Checks a layout against the rules, and its tables by walking them as a processor would.
fn audit(request: &Request) {
    let layout = Layout::new(request).unwrap();
    assert_eq!(layout.end % (4 << 20), 0);
    assert!(layout.end - layout.stack_top() >= 512 << 10);
    assert!(layout.first_free_pfn <= request.nr_pages);
    assert!(layout.p2m.end - layout.p2m.start >= (request.nr_pages * 8).div_ceil(PAGE_SIZE));
    let tables: std::vec::Vec<_> = layout.tables().collect();
    for (n, table) in tables.iter().enumerate() {
        let region = u64::try_from(n).unwrap();
        if region < layout.nr_pt_frames {
            assert_eq!(Some(table.pfn), layout.pfn(layout.pt_base).map(|first| first + region));
            assert_eq!(
                layout.leaf(layout.virt_base + table.pfn * PAGE_SIZE),
                Some(Leaf { pfn: table.pfn, writable: false })
            );
        } else {
            assert_eq!(table.pfn, layout.p2m.end + region - layout.nr_pt_frames);
        }
        assert_eq!(layout.table(table.level, table.va), Some(table.pfn));
        assert_eq!(layout.table(table.level, table.entry_va(511)), Some(table.pfn));
        // A table without an entry would not have been needed.
        assert!((0..512).any(|index| {
            let va = table.entry_va(index);
            if table.level == 1 { layout.leaf(va).is_some() } else { layout.table(table.level - 1, va).is_some() }
        }));
    }
    let outer = layout.p2m_frames.end.saturating_sub(layout.p2m.end);
    assert_eq!(
        u64::try_from(tables.len()).unwrap(),
        layout.nr_pt_frames + if layout.p2m_frames.is_empty() { 0 } else { outer }
    );
    for (first, pages, pfn) in [
        (layout.virt_base, (layout.end - layout.virt_base) / PAGE_SIZE, 0),
        (layout.mfn_list, layout.p2m.end - layout.p2m.start, layout.p2m.start),
    ] {
        for n in (0..pages).step_by(97).chain([pages - 1]) {
            let va = first + n * PAGE_SIZE;
            assert_eq!(layout.leaf(va).map(|leaf| leaf.pfn), Some(pfn + n));
            assert!((1..=4).all(|level| layout.table(level, va).is_some()));
        }
    }
    assert_eq!(layout.leaf(layout.end), None);
}
