//! The kernel that becomes dom0: an ELF file with Xen's notes, or the check that it fails.

use super::number as fixed;
use crate::layout::{HYPERVISOR_END, LOWER_HALF_END};
use oxen_abi::elfnote;

/// Loadable segments at most.
pub const MAX_SEGMENTS: usize = 16;
const MACHINE_X86_64: u64 = 62;
const PAGE: u64 = crate::addr::PAGE_SIZE;

/// Why a kernel is refused, for the user to read; the number is what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which check failed.
    pub why: &'static str,
    /// What was found there.
    pub found: u64,
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} ({:#x})", self.why, self.found)
    }
}

/// A little-endian number of at most eight bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    match size {
        2 => fixed::<2>(bytes, at),
        4 => fixed::<4>(bytes, at),
        8 => fixed::<8>(bytes, at),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    fixed::<4>(bytes, at).and_then(|n| u32::try_from(n).ok())
}

const fn refuse<T>(why: &'static str, found: u64) -> Result<T, Refused> {
    Err(Refused { why, found })
}

/// A part of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// First virtual address in the initial mapping.
    pub start: u64,
    /// Bytes in memory; those beyond `bytes` are zero.
    pub length: u64,
    /// What the file gives.
    pub bytes: &'a [u8],
}

/// A kernel that can be built into a domain.
#[derive(Clone, Debug, Default)]
pub struct Image<'a> {
    /// Where it starts.
    pub entry: u64,
    /// Virtual address of pfn 0.
    pub virt_base: u64,
    /// First virtual address after the image.
    pub end: u64,
    /// The page for hypercall stubs.
    pub hypercall_page: Option<u64>,
    /// Where it wants its p2m list.
    pub init_p2m: Option<u64>,
    /// Whether the ramdisk may stay unmapped.
    pub module_by_pfn: bool,
    /// What is loaded.
    pub segments: heapless::Vec<Segment<'a>, MAX_SEGMENTS>,
}

#[derive(Default)]
struct Notes {
    any: bool,
    entry: Option<u64>,
    virt_base: u64,
    physical_offset: u64,
    hypercall_page: Option<u64>,
    init_p2m: Option<u64>,
    module_by_pfn: bool,
}

/// Header fields of a segment (System V ABI, "Program Header").
struct ProgramHeader {
    kind: u32,
    offset: u64,
    physical: u64,
    file_size: u64,
    memory_size: u64,
}

impl<'a> Image<'a> {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn parse(file: &'a [u8]) -> Result<Self, Refused> {
        if !file.starts_with(b"\x7fELF") {
            return refuse("not an ELF file: it does not begin with the magic number", number(file, 0, 4).unwrap_or(0));
        }
        if file.get(4..6) != Some(&[2, 1]) {
            return refuse("not a 64-bit little-endian ELF file", number(file, 4, 2).unwrap_or(0));
        }
        let machine = number(file, 18, 2).unwrap_or(0);
        if machine != MACHINE_X86_64 {
            return refuse("an ELF file for another processor", machine);
        }
        let notes = Notes::collect(file)?;
        if !notes.any {
            return refuse("no Xen notes: the kernel was not built to run paravirtual (CONFIG_XEN_PV)", 0);
        }
        let Some(entry) = notes.entry else {
            return refuse("no note ENTRY: the kernel runs in hardware virtual machines only", 0);
        };
        if notes.virt_base % PAGE != 0 {
            return refuse("note VIRT_BASE is not the address of a page", notes.virt_base);
        }
        let mut image = Self {
            entry,
            virt_base: notes.virt_base,
            hypercall_page: notes.hypercall_page,
            init_p2m: notes.init_p2m,
            module_by_pfn: notes.module_by_pfn,
            ..Self::default()
        };
        for header in program_headers(file)? {
            if header.kind == 1 && header.memory_size != 0 {
                image.add_segment(file, &header, notes.virt_base.wrapping_sub(notes.physical_offset))?;
            }
        }
        image.check()
    }

    fn add_segment(&mut self, file: &'a [u8], header: &ProgramHeader, shift: u64) -> Result<(), Refused> {
        let start = header.physical.wrapping_add(shift);
        let range = usize::try_from(header.offset).ok().zip(usize::try_from(header.file_size).ok());
        let bytes = range.and_then(|(at, n)| file.get(at..at.checked_add(n)?));
        let Some(bytes) = bytes.filter(|b| b.len() as u64 <= header.memory_size) else {
            return refuse("a segment lies beyond the end of the file, or is longer there than in memory", start);
        };
        let Some(end) = start.checked_add(header.memory_size).filter(|_| start >= self.virt_base) else {
            return refuse("a segment does not fit above VIRT_BASE", start);
        };
        let in_one_half = end <= LOWER_HALF_END || start >= HYPERVISOR_END;
        if !in_one_half || end > u64::MAX - PAGE {
            return refuse("a segment lies in the hypervisor's part of the address space", start);
        }
        if self.segments.iter().any(|s| start < s.start + s.length && s.start < end) {
            return refuse("two segments overlap", start);
        }
        self.end = self.end.max(end);
        let segment = Segment { start, length: header.memory_size, bytes };
        self.segments.push(segment).or(refuse("too many segments", MAX_SEGMENTS as u64))
    }

    fn check(self) -> Result<Self, Refused> {
        let inside = |va: u64| self.segments.iter().any(|s| va >= s.start && va - s.start < s.length);
        if self.segments.is_empty() {
            return refuse("no segment is to be loaded", 0);
        }
        if !inside(self.entry) {
            return refuse("note ENTRY lies outside the image", self.entry);
        }
        match self.hypercall_page {
            Some(page) if page % PAGE != 0 || !inside(page) => {
                refuse("note HYPERCALL_PAGE does not name a page of the image", page)
            }
            _ => Ok(self),
        }
    }
}

impl Notes {
    fn collect(file: &[u8]) -> Result<Self, Refused> {
        let mut notes = Self::default();
        for header in program_headers(file)? {
            if header.kind != 4 {
                continue;
            }
            let range = usize::try_from(header.offset).ok().zip(usize::try_from(header.file_size).ok());
            let Some(bytes) = range.and_then(|(at, n)| file.get(at..at.checked_add(n)?)) else {
                return refuse("the notes lie beyond the end of the file", header.offset);
            };
            notes.read(bytes);
        }
        Ok(notes)
    }

    /// A note is three words (name size, descriptor size, type), the name and the descriptor, each padded to four bytes.
    fn read(&mut self, mut bytes: &[u8]) {
        while let (Some(name_size), Some(size), Some(kind)) = (u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8)) {
            let value_at = 12 + (name_size as usize).next_multiple_of(4);
            let next = value_at.saturating_add((size as usize).next_multiple_of(4));
            let name = bytes.get(12..12 + name_size as usize).unwrap_or(&[]);
            let value = bytes.get(value_at..value_at.saturating_add(size as usize)).unwrap_or(&[]);
            if name.strip_suffix(&[0]) == Some(elfnote::XEN_ELFNOTE_NAME) {
                self.any = true;
                self.take(kind, number(value, 0, value.len().min(8)).unwrap_or(0));
            }
            bytes = bytes.get(next..).unwrap_or(&[]);
        }
    }

    const fn take(&mut self, kind: u32, value: u64) {
        match kind {
            elfnote::XEN_ELFNOTE_ENTRY => self.entry = Some(value),
            elfnote::XEN_ELFNOTE_HYPERCALL_PAGE => self.hypercall_page = Some(value),
            elfnote::XEN_ELFNOTE_VIRT_BASE => self.virt_base = value,
            elfnote::XEN_ELFNOTE_PADDR_OFFSET => self.physical_offset = value,
            elfnote::XEN_ELFNOTE_INIT_P2M => self.init_p2m = Some(value),
            elfnote::XEN_ELFNOTE_MOD_START_PFN => self.module_by_pfn = value != 0,
            _ => {}
        }
    }
}

fn program_headers(file: &[u8]) -> Result<impl Iterator<Item = ProgramHeader>, Refused> {
    let place = number(file, 32, 8).and_then(|n| usize::try_from(n).ok());
    let (size, count) = (number(file, 54, 2).unwrap_or(0) as usize, number(file, 56, 2).unwrap_or(0) as usize);
    let table = place.and_then(|at| file.get(at..at.checked_add(size * count)?));
    let Some(table) = table.filter(|_| size >= 56) else {
        return refuse("the program headers lie beyond the end of the file", place.unwrap_or(0) as u64);
    };
    Ok(table.chunks_exact(size).filter_map(|h| {
        Some(ProgramHeader {
            kind: u32_at(h, 0)?,
            offset: number(h, 8, 8)?,
            physical: number(h, 24, 8)?,
            file_size: number(h, 32, 8)?,
            memory_size: number(h, 40, 8)?,
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// One segment of 16 bytes in two pages at 2 MiB, and its notes.
    fn file(notes: &[(u32, u64)]) -> Vec<u8> {
        let mut file = Vec::from(*b"\x7fELF\x02\x01\x01");
        file.resize(64, 0);
        file[18] = 62;
        file[32] = 64;
        file[54] = 56;
        file[56] = 2;
        let mut body = Vec::new();
        for &(kind, value) in notes {
            for word in [4, 8, kind] {
                body.extend(word.to_le_bytes());
            }
            body.extend(b"Xen\0");
            body.extend(value.to_le_bytes());
        }
        let mut header = |kind: u32, at: u64, physical: u64, size: u64, memory: u64| {
            file.extend(kind.to_le_bytes());
            file.extend(0_u32.to_le_bytes());
            for field in [at, 0, physical, size, memory, 0] {
                file.extend(field.to_le_bytes());
            }
        };
        header(1, 0, 0x20_0000, 16, 0x2000);
        header(4, 64 + 112, 0, body.len() as u64, 0);
        file.extend(body);
        file
    }

    const BASE: u64 = 0xffff_ffff_8000_0000;
    const GOOD: [(u32, u64); 3] = [
        (elfnote::XEN_ELFNOTE_VIRT_BASE, BASE),
        (elfnote::XEN_ELFNOTE_ENTRY, BASE + 0x20_0010),
        (elfnote::XEN_ELFNOTE_HYPERCALL_PAGE, BASE + 0x20_1000),
    ];

    #[test]
    fn a_good_image_is_placed_by_its_physical_addresses() {
        let file = file(&GOOD);
        let image = Image::parse(&file).unwrap();
        assert_eq!((image.segments[0].start, image.end), (BASE + 0x20_0000, BASE + 0x20_2000));
        assert_eq!(image.segments[0].bytes.len(), 16);
    }

    #[test]
    fn each_refusal_names_its_check() {
        let why = |file: &[u8]| Image::parse(file).unwrap_err().why;
        assert!(why(b"MZ").contains("magic"));
        assert!(why(&file(&[])).contains("no Xen notes"));
        assert!(why(&file(&GOOD[..1])).contains("ENTRY"));
        let mut outside = GOOD;
        outside[1].1 = BASE;
        assert!(why(&file(&outside)).contains("outside the image"));
        outside = GOOD;
        outside[2].1 += 8;
        assert!(why(&file(&outside)).contains("HYPERCALL_PAGE"));
        outside = GOOD;
        outside[0].1 = crate::layout::HYPERVISOR_START - 0x20_1000;
        assert!(why(&file(&outside)).contains("hypervisor's part"));
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_or_whole() {
        let whole = file(&GOOD);
        for length in 0..whole.len() {
            assert!(Image::parse(&whole[..length]).is_err(), "cut to {length}");
        }
    }
}
