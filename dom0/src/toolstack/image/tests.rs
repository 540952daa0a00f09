//! Good kernels are understood, every bad one is told what is wrong.

use super::*;
use alloc::{string::ToString, vec};
use proptest::prelude::*;

const BASE: u64 = 0xffff_ffff_8000_0000;

/// A little ELF file: one note segment with `notes`, then the given (paddr, file bytes, memory bytes).
fn elf(notes: &[(u32, u64)], loads: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut data = Vec::new();
    for &(kind, value) in notes {
        data.extend_from_slice(&[4u32, 8, kind].map(u32::to_le_bytes).concat());
        data.extend_from_slice(b"Xen\0");
        data.extend_from_slice(&value.to_le_bytes());
    }
    let headers = 64 + 56 * (loads.len() + 1);
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend_from_slice(&[2u16, 62].map(u16::to_le_bytes).concat());
    file.extend_from_slice(&1u32.to_le_bytes());
    file.extend_from_slice(&[BASE, 64, 0].map(u64::to_le_bytes).concat());
    file.extend_from_slice(&0u32.to_le_bytes());
    file.extend_from_slice(&[64u16, 56, loads.len() as u16 + 1, 64, 0, 0].map(u16::to_le_bytes).concat());
    let header = |kind: u32, offset: u64, paddr: u64, bytes: u64, memory: u64| {
        let rest = [offset, paddr, paddr, bytes, memory, 4096].map(u64::to_le_bytes).concat();
        [[kind, 7].map(u32::to_le_bytes).concat(), rest].concat()
    };
    file.extend(header(4, headers as u64, 0, data.len() as u64, data.len() as u64));
    for &(paddr, bytes, memory) in loads {
        file.extend(header(1, 0, paddr, bytes, memory));
    }
    file.extend_from_slice(&data);
    file
}

const GOOD: [(u32, u64); 3] = [
    (elfnote::XEN_ELFNOTE_ENTRY, BASE + 0x10_0010),
    (elfnote::XEN_ELFNOTE_VIRT_BASE, BASE),
    (elfnote::XEN_ELFNOTE_PADDR_OFFSET, 0),
];

fn with(note: (u32, u64)) -> Vec<u8> {
    let mut notes: Vec<_> = GOOD.into_iter().filter(|(kind, _)| *kind != note.0).collect();
    notes.push(note);
    elf(&notes, &[(0x10_0000, 100, 0x3000)])
}

fn refusal(file: &[u8]) -> String {
    Image::parse(file).unwrap_err().to_string()
}

#[test]
fn a_kernel_is_understood() {
    let image = Image::parse(&with((elfnote::XEN_ELFNOTE_INIT_P2M, 0x80_0000_0000))).unwrap();
    assert_eq!((image.start, image.end, image.entry), (BASE + 0x10_0000, BASE + 0x10_3000, BASE + 0x10_0010));
    assert_eq!((image.virt_base, image.init_p2m, image.module_by_pfn), (BASE, Some(0x80_0000_0000), false));
    assert_eq!(image.segments, [Segment { start: BASE + 0x10_0000, memory: 0x3000, offset: 0, bytes: 100 }]);
    assert!(Image::parse(&with((elfnote::XEN_ELFNOTE_MOD_START_PFN, 1))).unwrap().module_by_pfn);
}

#[test]
fn each_refusal_names_its_check() {
    assert!(refusal(b"hello").contains("magic number"));
    assert!(refusal(&elf(&GOOD, &[(0, 0, 16)])[..40]).starts_with("not an ELF file"));
    let mut narrow = elf(&GOOD, &[(0, 0, 16)]);
    narrow[4] = 1;
    assert!(refusal(&narrow).contains("32-bit"));
    let mut arm = elf(&GOOD, &[(0, 0, 16)]);
    arm[18] = 183;
    assert!(refusal(&arm).contains("machine 183"));
    assert!(refusal(&elf(&[], &[(0, 0, 16)])).contains("no Xen notes"));
    assert!(refusal(&elf(&GOOD[1..], &[(0, 0, 16)])).contains("no ENTRY"));
    assert!(refusal(&elf(&GOOD, &[])).contains("nothing is to be loaded"));
    assert!(refusal(&elf(&GOOD, &[(0, 16, 8)])).contains("more bytes in the file"));
    assert!(refusal(&elf(&GOOD, &[(0, 1 << 20, 1 << 20)])).contains("beyond the end of the file"));
    assert!(refusal(&elf(&GOOD, &[(0, 0, 4097), (4096, 0, 1)])).contains("overlaps"));
    assert!(refusal(&elf(&GOOD, &[(0x7fff_ffff, 0, 0x1_0000)])).contains("does not fit"));
    assert!(refusal(&elf(&GOOD, &[(0, 0, u64::MAX)])).contains("does not fit"));
    assert!(refusal(&elf(&GOOD, &[(0, 0, 16)])).contains("ENTRY names"));
    assert!(refusal(&with((elfnote::XEN_ELFNOTE_VIRT_BASE, BASE + 1))).contains("VIRT_BASE"));
    assert!(refusal(&with((elfnote::XEN_ELFNOTE_HYPERCALL_PAGE, BASE))).contains("HYPERCALL_PAGE names"));
    assert!(refusal(&with((elfnote::XEN_ELFNOTE_HYPERCALL_PAGE, BASE + 0x10_0001))).contains("impossible"));
    assert!(refusal(&with((elfnote::XEN_ELFNOTE_INIT_P2M, 0xffff_8000_0000_0000))).contains("INIT_P2M"));
    assert!(refusal(&with((elfnote::XEN_ELFNOTE_INIT_P2M, BASE + 0x10_1000))).contains("INIT_P2M"));
}

proptest! {
    #[test]
    fn damaged_kernels_never_hurt(changes in proptest::collection::vec((0usize..500, any::<u8>()), 1..8)) {
        let mut file = with((elfnote::XEN_ELFNOTE_INIT_P2M, 0x80_0000_0000));
        for (at, value) in changes {
            let at = at % file.len();
            file[at] = value;
        }
        if let Ok(image) = Image::parse(&file) {
            prop_assert!(image.start <= image.entry && image.entry < image.end);
            for s in &image.segments {
                prop_assert!(s.offset + s.bytes <= file.len() && s.bytes as u64 <= s.memory);
            }
        }
    }
}
