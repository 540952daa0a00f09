//! Good kernels are understood as Xen understands them, every bad one is told what is wrong, and none does harm.

use super::*;
use alloc::string::ToString;
use alloc::{string::String, vec::Vec};
use oxen_abi::elfnote::*;
use proptest::prelude::*;

const BASE: u64 = 0xffff_ffff_8000_0000;
/// The ELF header's entry in every file here.
const HEADER_ENTRY: u64 = BASE + 0x10_0020;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_PROGBITS: u32 = 1;
const SHT_NOTE: u32 = 7;

/// An ELF file in the making: segments as (type, flags, physical address, bytes of the file, bytes in memory),
/// sections as (name, type, contents).
#[derive(Clone, Default)]
struct File {
    notes: Vec<u8>,
    loads: Vec<(u32, u64, u64, u64)>,
    sections: Vec<(&'static str, u32, Vec<u8>)>,
}

/// A note of owner "Xen".
fn note(kind: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = [4, value.len() as u32, kind].map(u32::to_le_bytes).concat();
    bytes.extend_from_slice(b"Xen\0");
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn word(kind: u32, value: u64) -> Vec<u8> {
    note(kind, &value.to_le_bytes())
}

impl File {
    fn bytes(&self) -> Vec<u8> {
        let segments = 1 + self.loads.len();
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([2u16, 62].map(u16::to_le_bytes).concat());
        file.extend(1u32.to_le_bytes());
        file.extend([HEADER_ENTRY, 64, 0].map(u64::to_le_bytes).concat());
        file.extend(0u32.to_le_bytes());
        file.extend([64u16, 56, segments as u16, 64, 0, 0].map(u16::to_le_bytes).concat());
        let notes_at = 64 + 56 * segments as u64;
        let mut header = |kind: u32, flags: u32, fields: [u64; 6]| {
            file.extend([kind, flags].map(u32::to_le_bytes).concat());
            file.extend(fields.map(u64::to_le_bytes).concat());
        };
        let size = self.notes.len() as u64;
        header(PT_NOTE, 4, [notes_at, 0, 0, size, size, 4]);
        for &(flags, physical, bytes, memory) in &self.loads {
            header(PT_LOAD, flags, [0, physical, physical, bytes, memory, 4096]);
        }
        file.extend(&self.notes);
        if !self.sections.is_empty() {
            self.add_sections(&mut file);
        }
        file
    }

    /// Contents, names, then the table: section 0, those asked for, the names.
    fn add_sections(&self, file: &mut Vec<u8>) {
        let mut names = b"\0.shstrtab\0".to_vec();
        let mut headers = Vec::from([[0u8; 64].to_vec()]);
        let header = |name: usize, kind: u32, at: usize, size: usize| {
            let mut bytes = [name as u32, kind].map(u32::to_le_bytes).concat();
            bytes.extend([0, 0, at as u64, size as u64, 0, 4, 0].map(u64::to_le_bytes).concat());
            bytes
        };
        for (name, kind, contents) in &self.sections {
            headers.push(header(names.len(), *kind, file.len(), contents.len()));
            names.extend(name.as_bytes());
            names.push(0);
            file.extend(contents);
        }
        headers.push(header(1, 3, file.len(), names.len()));
        file.extend(&names);
        let table = file.len() as u64;
        file[40..48].copy_from_slice(&table.to_le_bytes());
        file[60..62].copy_from_slice(&(headers.len() as u16).to_le_bytes());
        file[62..64].copy_from_slice(&(headers.len() as u16 - 1).to_le_bytes());
        file.extend(headers.concat());
    }
}

/// What every kernel says, and one segment of 100 bytes in three pages at 1 MiB.
fn with(notes: &[Vec<u8>]) -> File {
    let mut all = note(XEN_ELFNOTE_LOADER, b"generic\0");
    all.extend(note(XEN_ELFNOTE_XEN_VERSION, b"xen-3.0\0"));
    all.extend(notes.concat());
    File { notes: all, loads: Vec::from([(7, 0x10_0000, 100, 0x3000)]), sections: Vec::new() }
}

fn good() -> File {
    with(&[word(XEN_ELFNOTE_ENTRY, BASE + 0x10_0010), word(XEN_ELFNOTE_VIRT_BASE, BASE)])
}

fn good_and(note: Vec<u8>) -> File {
    let mut file = good();
    file.notes.extend(note);
    file
}

fn good_with_loads(loads: &[(u32, u64, u64, u64)]) -> File {
    File { loads: loads.to_vec(), ..good() }
}

fn old_section(text: &str) -> File {
    let section = ("__xen_guest", SHT_PROGBITS, [text.as_bytes(), b"\0"].concat());
    File { notes: Vec::new(), sections: Vec::from([section]), ..good() }
}

fn image(file: &File) -> Image {
    Image::parse(&file.bytes()).unwrap()
}

fn refusal(file: &File) -> String {
    Image::parse(&file.bytes()).unwrap_err().to_string()
}

#[test]
fn a_kernel_is_understood() {
    let found = image(&good_and(word(XEN_ELFNOTE_INIT_P2M, 0x80_0000_0000)));
    assert_eq!((found.start, found.end, found.entry), (BASE + 0x10_0000, BASE + 0x10_3000, BASE + 0x10_0010));
    assert_eq!((found.virt_base, found.init_p2m, found.module_by_pfn), (BASE, Some(0x80_0000_0000), false));
    assert_eq!(found.segments, [Segment { start: BASE + 0x10_0000, memory: 0x3000, offset: 0, bytes: 100 }]);
    assert_eq!((found.hypercall_page, found.refuses_dom0, found.file_end()), (None, false, 100));
    assert!(image(&good_and(word(XEN_ELFNOTE_MOD_START_PFN, 1))).module_by_pfn);
    // A number may have any usual width, and one of another counts as 0.
    assert!(image(&good_and(note(XEN_ELFNOTE_MOD_START_PFN, &[1]))).module_by_pfn);
    assert!(!image(&good_and(note(XEN_ELFNOTE_MOD_START_PFN, &[1, 0, 0]))).module_by_pfn);
}

#[test]
fn the_linux_of_other_loaders_is_a_kernel_too() {
    let mut file = good();
    file.notes = [
        note(XEN_ELFNOTE_GUEST_OS, b"linux\0"),
        note(XEN_ELFNOTE_XEN_VERSION, b"xen-3.0\0"),
        word(XEN_ELFNOTE_VIRT_BASE, BASE),
    ]
    .concat();
    assert_eq!(image(&file).entry, HEADER_ENTRY);
}

#[test]
fn without_a_note_entry_the_header_s_counts() {
    assert_eq!(image(&with(&[word(XEN_ELFNOTE_VIRT_BASE, BASE)])).entry, HEADER_ENTRY);
    let mut file = with(&[word(XEN_ELFNOTE_VIRT_BASE, BASE)]);
    file.loads[0].1 = 0x20_0000;
    assert!(refusal(&file).contains("the ELF header's entry (there is no note ENTRY) is 0xffffffff80100020"));
}

#[test]
fn without_a_base_virtual_addresses_are_physical_ones() {
    let found = image(&with(&[word(XEN_ELFNOTE_ENTRY, 0x10_0000)]));
    assert_eq!((found.virt_base, found.start), (0, 0x10_0000));
    assert!(refusal(&with(&[word(XEN_ELFNOTE_PADDR_OFFSET, 0)])).contains("PADDR_OFFSET (without VIRT_BASE)"));
}

#[test]
fn physical_addresses_count_from_the_offset() {
    let mut file = good_and(word(XEN_ELFNOTE_PADDR_OFFSET, BASE));
    file.loads[0].1 = BASE + 0x10_0000;
    assert_eq!(image(&file).start, BASE + 0x10_0000);
}

#[test]
fn notes_are_found_in_sections_where_segments_have_none() {
    let mut file = good();
    file.sections.push((".text", SHT_PROGBITS, Vec::from([1; 10])));
    file.sections.push((".note.gnu", SHT_NOTE, [&[4u8, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0][..], b"GNU\0"].concat()));
    let notes = core::mem::take(&mut file.notes);
    assert!(refusal(&file).contains("no Xen notes"));
    let mut stripped = file.bytes();
    stripped.truncate(stripped.len() - 64);
    assert_eq!(Image::parse(&stripped), Err(Refusal::NoXenNotes));
    file.sections.push((".notes", SHT_NOTE, notes));
    assert_eq!(image(&file).entry, BASE + 0x10_0010);
}

#[test]
fn the_old_section_is_understood() {
    let text = "GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,ELF_PADDR_OFFSET=0x0,\
                VIRT_ENTRY=0xffffffff80100010,HYPERCALL_PAGE=0x101,FEATURES=writable_page_tables|!dom0,\
                PAE=yes,LOADER=generic";
    let found = image(&old_section(text));
    assert_eq!((found.virt_base, found.entry, found.hypercall_page), (BASE, BASE + 0x10_0010, Some(BASE + 0x10_1000)));
    // Its physical addresses are virtual ones unless it says otherwise.
    let mut file = old_section("XEN_VER=xen-3.0,LOADER=generic,VIRT_BASE=0xffffffff80000000");
    file.loads[0].1 = BASE + 0x10_0000;
    assert_eq!((image(&file).start, image(&file).entry), (BASE + 0x10_0000, HEADER_ENTRY));
}

#[test]
fn kernels_for_something_else_are_told_apart() {
    let phys32 = word(XEN_ELFNOTE_PHYS32_ENTRY, 0x100_0000);
    assert!(refusal(&with(core::slice::from_ref(&phys32))).contains("hardware virtual machines (PVH)"));
    image(&good_and(phys32.clone()));
    let only = |notes: Vec<u8>| refusal(&File { notes, ..good() });
    assert!(only(phys32).contains("only PHYS32_ENTRY"));
    assert!(only(Vec::new()).contains("CONFIG_XEN_PV"));
    assert!(only(word(XEN_ELFNOTE_VIRT_BASE, BASE)).contains("LOADER says \"\" and GUEST_OS \"\""));
    assert!(only(note(XEN_ELFNOTE_LOADER, b"generic\0")).contains("XEN_VERSION says \"\""));
    let features = note(XEN_ELFNOTE_FEATURES, b"x|!writable_page_tables|!flying\0");
    assert!(refusal(&good_and(features)).contains("`flying`"));
}

#[test]
fn a_kernel_says_whether_it_can_be_dom0() {
    let refuses = |bits: u32| image(&good_and(note(XEN_ELFNOTE_SUPPORTED_FEATURES, &bits.to_le_bytes()))).refuses_dom0;
    assert!(refuses(1));
    assert!(!refuses(1 << 11));
    assert!(!image(&good_and(note(XEN_ELFNOTE_FEATURES, b"pae_pgdir_above_4gb\0"))).refuses_dom0);
}

#[test]
fn each_refusal_names_its_check() {
    assert_eq!(Image::parse(b"hello").unwrap_err(), Refusal::NotElf);
    let bytes = good().bytes();
    for length in 0..bytes.len() {
        assert!(Image::parse(&bytes[..length]).is_err(), "cut to {length}");
    }
    let changed = |at: usize, value: u8| {
        let mut file = bytes.clone();
        file[at] = value;
        Image::parse(&file).unwrap_err().to_string()
    };
    assert!(changed(4, 1).contains("of another word size, class (1)"));
    assert!(changed(5, 2).contains("of another byte order"));
    assert!(changed(18, 183).contains("for another processor, machine (183)"));
    assert!(changed(39, 1).contains("the program headers"));
    assert!(changed(54, 32).contains("32 bytes instead of 56"));
    assert!(refusal(&good_with_loads(&[])).contains("no segment"));
    assert!(refusal(&good_with_loads(&[(0, 0x10_0000, 100, 100)])).contains("no segment"));
    let many: Vec<_> = (0..65).map(|n| (4, n << 12, 1, 1)).collect();
    assert!(refusal(&good_with_loads(&many)).contains("65 segments"));
    assert!(refusal(&good_with_loads(&[(7, 0, 16, 8)])).contains("more bytes in the file"));
    assert!(refusal(&good_with_loads(&[(7, 0, 1 << 20, 1 << 20)])).contains("beyond the end of the file"));
    assert!(refusal(&good_with_loads(&[(7, 0, 0, 4097), (7, 4096, 0, 1)])).contains("overlaps"));
    assert!(refusal(&good_with_loads(&[(7, 0x7fff_ffff, 0, 0x1_0000)])).contains("does not fit"));
    assert!(refusal(&good_with_loads(&[(7, 0, 0, u64::MAX)])).contains("does not fit"));
    assert!(refusal(&good_with_loads(&[(7, 0, 16, 16)])).contains("Xen note ENTRY is"));
    let low = with(&[word(XEN_ELFNOTE_VIRT_BASE, 0)]);
    assert!(refusal(&File { loads: Vec::from([(7, (1 << 47) - 8, 0, 16)]), ..low }).contains("the hypervisor"));
    let wrong = |kind: u32, value: u64| refusal(&good_and(word(kind, value)));
    assert!(wrong(XEN_ELFNOTE_VIRT_BASE, BASE + 1).contains("VIRT_BASE has the impossible value"));
    assert!(wrong(XEN_ELFNOTE_HYPERCALL_PAGE, BASE + 0x10_3000).contains("HYPERCALL_PAGE is"));
    assert!(wrong(XEN_ELFNOTE_HYPERCALL_PAGE, BASE + 0x10_0001).contains("impossible"));
    assert!(wrong(XEN_ELFNOTE_INIT_P2M, 0xffff_8000_0000_0000).contains("INIT_P2M"));
    assert!(wrong(XEN_ELFNOTE_INIT_P2M, BASE + 0x10_1000).contains("INIT_P2M"));
    assert!(wrong(XEN_ELFNOTE_INIT_P2M, 0x80_0000_0001).contains("INIT_P2M"));
}

#[test]
fn pieces_of_the_file_go_where_their_segments_are() {
    let mut found = image(&good());
    found.segments.push(Segment { start: BASE + 0x20_0000, memory: 50, offset: 60, bytes: 50 });
    let piece = [1; 40];
    let lengths = |at| found.parts(at, &piece).map(|(address, part)| (address - BASE, part.len())).collect::<Vec<_>>();
    assert_eq!(lengths(40), [(0x10_0028, 40), (0x20_0000, 20)]);
    assert_eq!(lengths(80), [(0x10_0050, 20), (0x20_0014, 30)]);
    assert_eq!(lengths(110), []);
}

/// Files that reach every part of the reader.
fn any_good_file() -> impl Strategy<Value = Vec<u8>> {
    let mut in_sections = good_and(word(XEN_ELFNOTE_HYPERCALL_PAGE, BASE + 0x10_1000));
    in_sections.sections = Vec::from([(".notes", SHT_NOTE, core::mem::take(&mut in_sections.notes))]);
    let old =
        old_section("XEN_VER=xen-3.0,LOADER=generic,VIRT_BASE=0xffffffff80000000,ELF_PADDR_OFFSET=0,FEATURES=!dom0");
    let files = [good_and(word(XEN_ELFNOTE_INIT_P2M, 0x80_0000_0000)), in_sections, old].map(|file| file.bytes());
    proptest::sample::select(files.to_vec())
}

proptest! {
    #[test]
    fn damaged_kernels_never_hurt(
        mut file in any_good_file(), changes in proptest::collection::vec((0usize..900, any::<u8>()), 0..8)
    ) {
        for (at, value) in changes {
            let at = at % file.len();
            file[at] = value;
        }
        if let Ok(image) = Image::parse(&file) {
            prop_assert!(image.start <= image.entry && image.entry <= image.end);
            for s in &image.segments {
                prop_assert!(s.offset + s.bytes <= file.len() && s.bytes as u64 <= s.memory);
                prop_assert!(s.start >= image.virt_base && s.start.checked_add(s.memory).is_some());
            }
        }
        if let Ok(image) = Image::parse_head(&file) {
            for (address, part) in image.parts(7, &file) {
                prop_assert!(address.checked_add(part.len() as u64).is_some());
            }
        }
    }

    #[test]
    fn no_bytes_at_all_hurt(bytes in proptest::collection::vec(any::<u8>(), 0..600), is_elf: bool) {
        let mut file = bytes;
        if is_elf {
            file.splice(..file.len().min(7), *b"\x7fELF\x02\x01\x01");
        }
        let _ = Image::parse(&file);
        let _ = Kernel::open(&file, 1 << 20);
    }
}
