//! A guest's kernel as its ELF headers and Xen's notes describe it, or the check that it fails.

use alloc::vec::Vec;
use core::ops::Range;

use elf::abi::{PF_R, PF_W, PF_X, PT_LOAD};
use oxen_abi::features::{XENFEAT_AUTO_TRANSLATED_PHYSMAP, XENFEAT_DOM0};
use oxen_abi::segments::HYPERVISOR_VIRT_END;

use crate::Refusal;
use crate::headers::{Headers, SECTION_HEADERS};
use crate::notes::Notes;

/// Bytes of a page.
const PAGE: u64 = oxen_abi::start_of_day::PAGE_SIZE;
/// Loadable segments at most; kernels have five.
const MAX_SEGMENTS: usize = 64;
/// What no guest can map: the addresses that are not canonical, then the hypervisor's own.
const FORBIDDEN: Range<u64> = 1 << 47..HYPERVISOR_VIRT_END;
/// The last page of all addresses ends where numbers do.
const LAST_PAGE: u64 = u64::MAX - (PAGE - 1);

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The virtual address of page 0.
    pub virt_base: u64,
    /// The first virtual address of the image.
    pub start: u64,
    /// The first virtual address behind it.
    pub end: u64,
    /// Where it starts running.
    pub entry: u64,
    /// The page that the hypervisor fills with calls, where there is one.
    pub hypercall_page: Option<u64>,
    /// Where it wants the p2m list mapped; behind the image if it does not say.
    pub init_p2m: Option<u64>,
    /// It takes the ramdisk by page number, unmapped.
    pub module_by_pfn: bool,
    /// It says what it supports (SUPPORTED_FEATURES), and to be dom0 is not of that.
    pub refuses_dom0: bool,
    /// It can do where its frames are translated for it (`auto_translated_physmap`).
    pub can_be_translated: bool,
    /// What is loaded.
    pub segments: Vec<Segment>,
}

impl Image {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn parse(file: &[u8]) -> Result<Self, Refusal> {
        Self::of(&Headers::of(file)?, file.len()).map_err(|refusal| match refusal {
            // Whoever strips a file may leave a trace of where its sections were.
            Refusal::Cut { what: SECTION_HEADERS, .. } => Refusal::NoXenNotes,
            refusal => refusal,
        })
    }

    /// Reads the beginning of an ELF file. Whether the rest holds what the headers say shows when it is read.
    ///
    /// # Errors
    /// The first check that fails; `Cut` tells how much of the file is needed to go on.
    pub(crate) fn parse_head(head: &[u8]) -> Result<Self, Refusal> {
        Self::of(&Headers::of(head)?, usize::MAX)
    }

    fn of(elf: &Headers<'_>, length: usize) -> Result<Self, Refusal> {
        let notes = Notes::find(elf)?;
        let is_generic = notes.loader.starts_with("generic") || notes.guest_os.starts_with("linux");
        // Without a base there is no image in virtual memory; the ELF header's entry is a physical one then.
        if notes.has_phys32_entry && notes.entry.is_none() && notes.virt_base.is_none() {
            return Err(Refusal::HardwareOnly);
        }
        if !is_generic {
            return Err(Refusal::OtherLoader(notes.loader, notes.guest_os));
        }
        if !notes.version.starts_with("xen-3.0") {
            return Err(Refusal::OtherInterface(notes.version));
        }
        let virt_base = match (notes.virt_base, notes.paddr_offset) {
            (None, Some(offset)) => return Err(Refusal::BadNote("PADDR_OFFSET (without VIRT_BASE)", offset)),
            (base, _) => base.unwrap_or(0),
        };
        if virt_base % PAGE != 0 {
            return Err(Refusal::BadNote("VIRT_BASE", virt_base));
        }
        // Where the section speaks, physical addresses count from the base as virtual ones do.
        let paddr_offset = notes.paddr_offset.unwrap_or(if notes.is_section { virt_base } else { 0 });
        let segments = load_segments(elf, length, virt_base, virt_base.wrapping_sub(paddr_offset))?;
        let image = Self {
            virt_base,
            start: segments.iter().map(|s| s.start).min().unwrap_or(0),
            end: segments.iter().map(|s| s.start + s.memory).max().unwrap_or(0),
            entry: notes.entry.unwrap_or(elf.entry()),
            hypercall_page: notes.hypercall_page,
            init_p2m: notes.init_p2m,
            module_by_pfn: notes.module_by_pfn,
            refuses_dom0: notes.tells_all_supported && notes.supported & 1 << XENFEAT_DOM0 == 0,
            can_be_translated: notes.supported & 1 << XENFEAT_AUTO_TRANSLATED_PHYSMAP != 0,
            segments,
        };
        image.check(notes.entry.is_some())?;
        Ok(image)
    }

    fn check(&self, has_entry_note: bool) -> Result<(), Refusal> {
        let end = self.end.next_multiple_of(PAGE);
        if !(self.start..=self.end).contains(&self.entry) {
            let name =
                if has_entry_note { "Xen note ENTRY" } else { "the ELF header's entry (there is no note ENTRY)" };
            return Err(Refusal::Outside(name, self.entry));
        }
        if let Some(page) = self.hypercall_page {
            if page % PAGE != 0 {
                return Err(Refusal::BadNote("HYPERCALL_PAGE", page));
            }
            if !(self.virt_base..end).contains(&page) {
                return Err(Refusal::Outside("Xen note HYPERCALL_PAGE", page));
            }
        }
        if let Some(p2m) = self.init_p2m
            && (p2m % PAGE != 0 || FORBIDDEN.contains(&p2m) || (self.start & !(PAGE - 1)..end).contains(&p2m))
        {
            return Err(Refusal::BadNote("INIT_P2M", p2m));
        }
        Ok(())
    }

    /// How many bytes of the file, from its beginning, the segments take.
    #[must_use]
    pub fn file_end(&self) -> usize {
        self.segments.iter().map(|segment| segment.offset.saturating_add(segment.bytes)).max().unwrap_or(0)
    }

    /// What of a piece, which begins at byte `at` of the file, goes where: virtual addresses with their bytes.
    pub fn parts<'a>(&'a self, at: usize, piece: &'a [u8]) -> impl Iterator<Item = (u64, &'a [u8])> {
        self.segments.iter().filter_map(move |segment| {
            let start = segment.offset.max(at);
            let end = segment.offset.saturating_add(segment.bytes).min(at.saturating_add(piece.len()));
            let part = piece.get(start.checked_sub(at)?..end.checked_sub(at)?)?;
            let address = segment.start + (start - segment.offset) as u64;
            (!part.is_empty()).then_some((address, part))
        })
    }
}

/// The loadable segments at their places in the initial mapping (by physical address), none over another.
fn load_segments(elf: &Headers<'_>, length: usize, base: u64, shift: u64) -> Result<Vec<Segment>, Refusal> {
    let is_loaded = |flags: u32| flags & (PF_R | PF_W | PF_X) != 0;
    let mut segments: Vec<Segment> = Vec::new();
    for header in elf.program() {
        if header.p_type != PT_LOAD || header.p_memsz == 0 || !is_loaded(header.p_flags) {
            continue;
        }
        let start = header.p_paddr.wrapping_add(shift);
        let wrong = |why| Err(Refusal::BadSegment(start, why));
        let end = start.checked_add(header.p_memsz).filter(|&end| end < LAST_PAGE);
        let Some(end) = end.filter(|_| start >= base) else {
            return wrong("does not fit above VIRT_BASE");
        };
        if FORBIDDEN.start < end && start < FORBIDDEN.end {
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
        if segments.len() > MAX_SEGMENTS {
            break;
        }
    }
    if segments.is_empty() || segments.len() > MAX_SEGMENTS {
        return Err(Refusal::SegmentCount(segments.len()));
    }
    Ok(segments)
}
