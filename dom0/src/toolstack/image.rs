//! A guest's kernel as its ELF file and Xen notes describe it, or the check that it fails.

use alloc::{format, string::String, vec::Vec};
use core::fmt;

use elf::abi::{EI_NIDENT, EM_X86_64, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::note::{Note, NoteIterator};
use elf::parse::ParseAt;
use elf::segment::{ProgramHeader, SegmentTable};
use oxen_abi::elfnote;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// The farthest end of notes in a packed file: up to there it stands in dom0's memory.
const MOST_HEAD: usize = 256 << 20;

/// Why a kernel is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The file has no ELF header, or it is damaged.
    NotElf(String),
    /// It is an ELF file for another processor or word size.
    NotX86_64(String),
    /// No note of owner "Xen".
    NoXenNotes,
    /// Notes, but no entry point for paravirtual guests.
    NotParavirtual,
    /// A note has a value that cannot be.
    BadNote(&'static str, u64),
    /// Segments overlap, wrap around, or lie beyond the file.
    BadSegment(String),
    /// An address that a note names lies outside the image.
    Outside(&'static str, u64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf(why) => write!(f, "not an ELF file: {why}"),
            Self::NotX86_64(why) => write!(f, "{why}; only 64-bit x86 kernels can be guests"),
            Self::NoXenNotes => f.write_str(
                "the ELF file has no Xen notes: the kernel was not built to run paravirtual on Xen (CONFIG_XEN_PV)",
            ),
            Self::NotParavirtual => f.write_str(
                "the Xen notes have no ENTRY: the kernel runs in hardware virtual machines only (PVH), not paravirtual",
            ),
            Self::BadNote(name, value) => write!(f, "Xen note {name} has the impossible value {value:#x}"),
            Self::BadSegment(why) => write!(f, "program headers: {why}"),
            Self::Outside(name, value) => write!(f, "Xen note {name} names {value:#x}, which lies outside the image"),
        }
    }
}

/// A part of the image: where it goes and what of the file goes there; the rest is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First virtual address in the initial mapping.
    pub start: u64,
    /// Bytes in memory.
    pub memory: u64,
    /// Offset in the file.
    pub offset: usize,
    /// Bytes from the file, at most `memory`.
    pub bytes: usize,
}

/// A kernel that can be built into a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The virtual address of page 0.
    pub virt_base: u64,
    /// The first virtual address of the image.
    pub start: u64,
    /// Behind its last.
    pub end: u64,
    /// Where it starts running.
    pub entry: u64,
    /// The page that the hypervisor fills with calls, where there is one.
    pub hypercall_page: Option<u64>,
    /// Where it wants the p2m list mapped; behind the image if it does not say.
    pub init_p2m: Option<u64>,
    /// It takes the ramdisk by page number, unmapped.
    pub module_by_pfn: bool,
    /// What it says it is.
    pub guest_os: String,
    /// What is loaded.
    pub segments: Vec<Segment>,
}

/// The notes that matter, as found.
#[derive(Default)]
struct Notes {
    any: bool,
    entry: Option<u64>,
    virt_base: Option<u64>,
    paddr_offset: Option<u64>,
    hypercall_page: Option<u64>,
    init_p2m: Option<u64>,
    module_by_pfn: bool,
    guest_os: String,
}

impl Image {
    /// Reads an ELF file.
    pub fn parse(file: &[u8]) -> Result<Self, Refusal> {
        Self::of(&Headers::of(file)?, file.len())
    }

    /// Reads the beginning of an ELF file, as far as [`Self::notes_end`] or farther. Whether the rest holds what the
    /// headers say shows when it is read.
    pub fn parse_head(head: &[u8]) -> Result<Self, Refusal> {
        Self::of(&Headers::of(head)?, usize::MAX)
    }

    /// How many bytes of a file, whose beginning this is, hold its headers and notes.
    pub fn notes_end(head: &[u8]) -> Result<usize, Refusal> {
        let headers = Headers::of(head)?;
        let notes = headers.program.iter().filter(|header| header.p_type == PT_NOTE);
        let end = notes.map(|header| header.p_offset.saturating_add(header.p_filesz)).max().unwrap_or(0);
        match usize::try_from(end) {
            Ok(end) if end <= MOST_HEAD => Ok(end),
            _ => Err(Refusal::BadSegment(format!("the notes end at {end:#x} of the file"))),
        }
    }

    fn of(elf: &Headers<'_>, length: usize) -> Result<Self, Refusal> {
        let notes = Notes::collect(elf)?;
        if !notes.any {
            return Err(Refusal::NoXenNotes);
        }
        let entry = notes.entry.ok_or(Refusal::NotParavirtual)?;
        let virt_base = notes.virt_base.unwrap_or(0);
        if virt_base % PAGE != 0 {
            return Err(Refusal::BadNote("VIRT_BASE", virt_base));
        }
        let shift = virt_base.wrapping_sub(notes.paddr_offset.unwrap_or(0));
        let segments = load_segments(elf, length, virt_base, shift)?;
        let start = segments.iter().map(|s| s.start).min().unwrap_or(0);
        let end = segments.iter().map(|s| s.start + s.memory).max().unwrap_or(0);
        let image = Self {
            virt_base,
            start: start & !(PAGE - 1),
            end,
            entry,
            hypercall_page: notes.hypercall_page,
            init_p2m: notes.init_p2m,
            module_by_pfn: notes.module_by_pfn,
            guest_os: notes.guest_os,
            segments,
        };
        image.check()?;
        Ok(image)
    }

    fn check(&self) -> Result<(), Refusal> {
        if !(self.start..self.end).contains(&self.entry) {
            return Err(Refusal::Outside("ENTRY", self.entry));
        }
        if let Some(page) = self.hypercall_page {
            if page % PAGE != 0 {
                return Err(Refusal::BadNote("HYPERCALL_PAGE", page));
            }
            if page < self.start || page.saturating_add(PAGE) > self.end.next_multiple_of(PAGE) {
                return Err(Refusal::Outside("HYPERCALL_PAGE", page));
            }
        }
        if let Some(p2m) = self.init_p2m {
            let end = self.end.next_multiple_of(PAGE);
            let is_guests = !(1 << 47..0xffff_8800_0000_0000).contains(&p2m);
            if p2m % PAGE != 0 || !is_guests || (self.start..end).contains(&p2m) {
                return Err(Refusal::BadNote("INIT_P2M", p2m));
            }
        }
        Ok(())
    }
}

/// What is read of an ELF file. Its sections are nobody's business here, and stripped kernels have none.
struct Headers<'a> {
    file: &'a [u8],
    program: SegmentTable<'a, LittleEndian>,
}

impl<'a> Headers<'a> {
    /// Those of an ELF file for this processor.
    fn of(file: &'a [u8]) -> Result<Self, Refusal> {
        if !file.starts_with(b"\x7fELF") {
            return Err(Refusal::NotElf("it does not start with the ELF magic number".into()));
        }
        if file.get(4) == Some(&1) {
            return Err(Refusal::NotX86_64("the file is a 32-bit ELF".into()));
        }
        let damaged = |error| Refusal::NotElf(format!("{error}"));
        let short = || Refusal::NotElf("its headers lie beyond its end".into());
        let ident = parse_ident::<LittleEndian>(file).map_err(damaged)?;
        let header = FileHeader::parse_tail(ident, file.get(EI_NIDENT..).unwrap_or_default()).map_err(damaged)?;
        if header.e_machine != EM_X86_64 {
            return Err(Refusal::NotX86_64(format!("the file is for machine {}", header.e_machine)));
        }
        let size = ProgramHeader::validate_entsize(Class::ELF64, header.e_phentsize.into()).map_err(damaged)?;
        let start = usize::try_from(header.e_phoff).map_err(|_| short())?;
        let table = start.checked_add(size * usize::from(header.e_phnum)).and_then(|end| file.get(start..end));
        let program = SegmentTable::new(LittleEndian, Class::ELF64, table.ok_or_else(short)?);
        Ok(Self { file, program })
    }
}

/// The loadable segments at their places in the initial mapping (by physical address), none over another.
fn load_segments(elf: &Headers<'_>, length: usize, base: u64, shift: u64) -> Result<Vec<Segment>, Refusal> {
    let mut segments: Vec<Segment> = Vec::new();
    for header in elf.program.iter() {
        if header.p_type != PT_LOAD || header.p_memsz == 0 {
            continue;
        }
        let wrong =
            |why: &str| Err(Refusal::BadSegment(format!("the one for physical address {:#x} {why}", header.p_paddr)));
        let start = header.p_paddr.wrapping_add(shift);
        let Some(end) = start.checked_add(header.p_memsz).filter(|&end| start >= base && end < 0xffff_ffff_ffff_f000)
        else {
            return wrong("does not fit above VIRT_BASE");
        };
        if (0xffff_8000_0000_0000..0xffff_8800_0000_0000).contains(&start) || (start < 1 << 47) != (end <= 1 << 47) {
            return wrong("lies where the hypervisor is, or at no address at all");
        }
        let range = usize::try_from(header.p_offset).ok().zip(usize::try_from(header.p_filesz).ok());
        let inside = range.filter(|&(at, n)| at.checked_add(n).is_some_and(|end| end <= length));
        let Some((offset, bytes)) = inside else { return wrong("lies beyond the end of the file") };
        if header.p_filesz > header.p_memsz {
            return wrong("has more bytes in the file than in memory");
        }
        if segments.iter().any(|s| start < s.start + s.memory && s.start < end) {
            return wrong("overlaps another");
        }
        segments.push(Segment { start, memory: header.p_memsz, offset, bytes });
    }
    if segments.is_empty() {
        return Err(Refusal::BadSegment("nothing is to be loaded".into()));
    }
    Ok(segments)
}

impl Notes {
    fn collect(elf: &Headers<'_>) -> Result<Self, Refusal> {
        let mut notes = Self::default();
        for header in elf.program.iter() {
            if header.p_type != PT_NOTE {
                continue;
            }
            let start = usize::try_from(header.p_offset).ok();
            let end =
                start.zip(usize::try_from(header.p_filesz).ok()).and_then(|(start, size)| start.checked_add(size));
            let data = start.zip(end).and_then(|(start, end)| elf.file.get(start..end));
            let data = data.ok_or_else(|| Refusal::BadSegment("the notes lie beyond the end of the file".into()))?;
            // Notes of kernels are aligned to 4 whatever the header says.
            for note in NoteIterator::new(LittleEndian, Class::ELF64, 4, data) {
                if let Note::Unknown(note) = note
                    && note.name.strip_suffix(b"\0").unwrap_or(note.name) == b"Xen"
                {
                    notes.take(note.n_type, note.desc);
                }
            }
        }
        Ok(notes)
    }

    fn take(&mut self, kind: u64, value: &[u8]) {
        self.any = true;
        let number = || {
            let mut wide = [0; 8];
            wide.get_mut(..value.len())?.copy_from_slice(value);
            Some(u64::from_le_bytes(wide))
        };
        match u32::try_from(kind).unwrap_or(u32::MAX) {
            elfnote::XEN_ELFNOTE_ENTRY => self.entry = number(),
            elfnote::XEN_ELFNOTE_VIRT_BASE => self.virt_base = number(),
            elfnote::XEN_ELFNOTE_PADDR_OFFSET => self.paddr_offset = number(),
            elfnote::XEN_ELFNOTE_HYPERCALL_PAGE => self.hypercall_page = number(),
            elfnote::XEN_ELFNOTE_INIT_P2M => self.init_p2m = number(),
            elfnote::XEN_ELFNOTE_MOD_START_PFN => self.module_by_pfn = number().is_some_and(|n| n != 0),
            elfnote::XEN_ELFNOTE_GUEST_OS => {
                self.guest_os = String::from_utf8_lossy(value).trim_end_matches('\0').into();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
