//! The tables of an ELF64 file (System V ABI, chapter 4), of which only the beginning may be here.

use elf::abi::{EI_CLASS, EI_DATA, EI_NIDENT, ELFCLASS64, ELFDATA2LSB, EM_X86_64};
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader};
use elf::section::{SectionHeader, SectionHeaderTable};
use elf::segment::{ProgramHeader, SegmentTable};

use crate::Refusal;

/// Bytes of a program header and of a section header.
const PROGRAM_HEADER: u16 = 56;
const SECTION_HEADER: u16 = 64;

/// What a file lacks that was cut behind its last segment.
pub(crate) const SECTION_HEADERS: &str = "the section headers";

/// The headers of an ELF file for this processor.
pub(crate) struct Headers<'a> {
    file: &'a [u8],
    header: FileHeader<LittleEndian>,
    program: SegmentTable<'a, LittleEndian>,
}

impl<'a> Headers<'a> {
    pub(crate) fn of(file: &'a [u8]) -> Result<Self, Refusal> {
        if !file.starts_with(b"\x7fELF") {
            return Err(Refusal::NotElf);
        }
        let short = |_| Refusal::Cut { what: "the ELF header", end: 64 };
        let ident = |at: usize| file.get(at).copied().unwrap_or_default();
        if ident(EI_CLASS) != ELFCLASS64 {
            return Err(Refusal::NotX86_64("of another word size, class", ident(EI_CLASS).into()));
        }
        if ident(EI_DATA) != ELFDATA2LSB {
            return Err(Refusal::NotX86_64("of another byte order, encoding", ident(EI_DATA).into()));
        }
        let tail = file.get(EI_NIDENT..).unwrap_or_default();
        let header = FileHeader::parse_tail((LittleEndian, Class::ELF64, 0, 0), tail).map_err(short)?;
        if header.e_machine != EM_X86_64 {
            return Err(Refusal::NotX86_64("for another processor, machine", header.e_machine));
        }
        if header.e_phnum != 0 && header.e_phentsize != PROGRAM_HEADER {
            return Err(Refusal::HeaderSize(header.e_phentsize));
        }
        let size = u64::from(header.e_phnum) * u64::from(PROGRAM_HEADER);
        let table = bytes(file, header.e_phoff, size, "the program headers")?;
        Ok(Self { file, header, program: SegmentTable::new(LittleEndian, Class::ELF64, table) })
    }

    /// Where the program starts, unless a note says otherwise.
    pub(crate) fn entry(&self) -> u64 {
        self.header.e_entry
    }

    pub(crate) fn program(&self) -> impl Iterator<Item = ProgramHeader> {
        self.program.iter()
    }

    /// A part of the file, `what` for people to read.
    ///
    /// # Errors
    /// `Cut` where the file ends before it does.
    pub(crate) fn bytes(&self, offset: u64, size: u64, what: &'static str) -> Result<&'a [u8], Refusal> {
        bytes(self.file, offset, size, what)
    }

    /// The section headers; stripped files have none.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub(crate) fn sections(&self) -> Result<SectionHeaderTable<'a, LittleEndian>, Refusal> {
        let count = if self.header.e_shentsize == SECTION_HEADER { self.header.e_shnum } else { 0 };
        let size = u64::from(count) * u64::from(SECTION_HEADER);
        let table = self.bytes(self.header.e_shoff, size, SECTION_HEADERS);
        let table = if count == 0 { &[] } else { table? };
        Ok(SectionHeaderTable::new(LittleEndian, Class::ELF64, table))
    }

    /// The first section of this name.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub(crate) fn section(&self, name: &[u8]) -> Result<Option<SectionHeader>, Refusal> {
        let sections = self.sections()?;
        let Ok(strings) = sections.get(self.header.e_shstrndx.into()) else { return Ok(None) };
        let names = self.bytes(strings.sh_offset, strings.sh_size, "the sections' names")?;
        let is_named = |section: &SectionHeader| {
            let rest = usize::try_from(section.sh_name).ok().and_then(|at| names.get(at..));
            rest.and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.first() == Some(&0))
        };
        Ok(sections.iter().find(is_named))
    }
}

fn bytes<'a>(file: &'a [u8], offset: u64, size: u64, what: &'static str) -> Result<&'a [u8], Refusal> {
    let end = offset.saturating_add(size);
    let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
    range.and_then(|(start, end)| file.get(start..end)).ok_or(Refusal::Cut { what, end })
}
