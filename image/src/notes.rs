//! What a kernel says to its builder: ELF notes (`elfnote.h`) or, older, the section `__xen_guest`.

use alloc::string::String;
use elf::abi::{PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::note::{Note, NoteIterator};
use oxen_abi::{elfnote, features};

use crate::Refusal;
use crate::headers::Headers;

/// The names of features in notes, by bit (`features.h`).
const FEATURES: [(&str, u32); 6] = [
    ("writable_page_tables", features::XENFEAT_WRITABLE_PAGE_TABLES),
    ("writable_descriptor_tables", features::XENFEAT_WRITABLE_DESCRIPTOR_TABLES),
    ("auto_translated_physmap", features::XENFEAT_AUTO_TRANSLATED_PHYSMAP),
    ("supervisor_mode_kernel", features::XENFEAT_SUPERVISOR_MODE_KERNEL),
    ("pae_pgdir_above_4gb", features::XENFEAT_PAE_PGDIR_ABOVE_4GB),
    ("dom0", features::XENFEAT_DOM0),
];

/// The notes that matter to a builder, as found.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) entry: Option<u64>,
    pub(crate) virt_base: Option<u64>,
    pub(crate) paddr_offset: Option<u64>,
    pub(crate) hypercall_page: Option<u64>,
    pub(crate) init_p2m: Option<u64>,
    pub(crate) module_by_pfn: bool,
    pub(crate) has_phys32_entry: bool,
    pub(crate) guest_os: String,
    pub(crate) loader: String,
    pub(crate) version: String,
    /// Bits of the features that it can use.
    pub(crate) supported: u32,
    /// It has the note SUPPORTED_FEATURES, so that what is not in there is not supported.
    pub(crate) tells_all_supported: bool,
    /// They stand in the section `__xen_guest`.
    pub(crate) is_section: bool,
    unknown_feature: Option<String>,
    count: usize,
}

impl Notes {
    /// Finds them where Xen's builders look: in the segments of notes, else in the sections of notes,
    /// else in the section `__xen_guest`.
    pub(crate) fn find(elf: &Headers<'_>) -> Result<Self, Refusal> {
        let mut notes = Self::default();
        // Old linkers leave the offset of a segment of notes at 0.
        for header in elf.program().filter(|header| header.p_type == PT_NOTE && header.p_offset != 0) {
            notes.read(elf.bytes(header.p_offset, header.p_filesz, "the notes")?);
        }
        if notes.count == 0 {
            for section in elf.sections()?.iter().filter(|section| section.sh_type == SHT_NOTE) {
                notes.read(elf.bytes(section.sh_offset, section.sh_size, "the notes")?);
            }
        }
        if notes.count == 0 {
            let Some(section) = elf.section(b"__xen_guest")? else { return Err(Refusal::NoXenNotes) };
            notes.read_section(elf.bytes(section.sh_offset, section.sh_size, "section __xen_guest")?);
        }
        match notes.unknown_feature.take() {
            Some(name) => Err(Refusal::UnknownFeature(name)),
            None => Ok(notes),
        }
    }

    /// Xen's notes among those of a segment or section. They are aligned to 4, whatever the header says.
    fn read(&mut self, bytes: &[u8]) {
        for note in NoteIterator::new(LittleEndian, Class::ELF64, 4, bytes) {
            let Note::Unknown(note) = note else { continue };
            if note.name.strip_suffix(b"\0").unwrap_or(note.name) == elfnote::XEN_ELFNOTE_NAME {
                self.count += 1;
                self.take(u32::try_from(note.n_type).unwrap_or(u32::MAX), note.desc);
            }
        }
    }

    fn take(&mut self, kind: u32, value: &[u8]) {
        match kind {
            elfnote::XEN_ELFNOTE_ENTRY => self.entry = Some(number(value)),
            elfnote::XEN_ELFNOTE_VIRT_BASE => self.virt_base = Some(number(value)),
            elfnote::XEN_ELFNOTE_PADDR_OFFSET => self.paddr_offset = Some(number(value)),
            elfnote::XEN_ELFNOTE_HYPERCALL_PAGE => self.hypercall_page = Some(number(value)),
            elfnote::XEN_ELFNOTE_INIT_P2M => self.init_p2m = Some(number(value)),
            elfnote::XEN_ELFNOTE_MOD_START_PFN => self.module_by_pfn = number(value) != 0,
            elfnote::XEN_ELFNOTE_PHYS32_ENTRY => self.has_phys32_entry = true,
            elfnote::XEN_ELFNOTE_GUEST_OS => self.guest_os = text(value),
            elfnote::XEN_ELFNOTE_LOADER => self.loader = text(value),
            elfnote::XEN_ELFNOTE_XEN_VERSION => self.version = text(value),
            elfnote::XEN_ELFNOTE_FEATURES => self.take_features(&text(value)),
            elfnote::XEN_ELFNOTE_SUPPORTED_FEATURES => {
                self.tells_all_supported = true;
                self.supported |= value.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            }
            _ => {}
        }
    }

    /// A list of names; those with `!` before them are required.
    fn take_features(&mut self, list: &str) {
        for word in list.split('|').filter(|word| !word.is_empty()) {
            let name = word.strip_prefix('!').unwrap_or(word);
            match FEATURES.iter().find(|(known, _)| *known == name) {
                Some((_, bit)) => self.supported |= 1 << bit,
                None if word.starts_with('!') => self.unknown_feature = Some(name.into()),
                None => {}
            }
        }
    }

    /// `KEY=VALUE` fields parted by commas, up to a zero byte.
    fn read_section(&mut self, bytes: &[u8]) {
        self.is_section = true;
        let list = text(bytes);
        let mut page = None;
        for field in list.split(',') {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            match key {
                "LOADER" => self.loader = value.into(),
                "GUEST_OS" => self.guest_os = value.into(),
                "XEN_VER" => self.version = value.into(),
                "VIRT_BASE" => self.virt_base = Some(number_of(value)),
                "VIRT_ENTRY" => self.entry = Some(number_of(value)),
                "ELF_PADDR_OFFSET" => self.paddr_offset = Some(number_of(value)),
                "HYPERCALL_PAGE" => page = Some(number_of(value)),
                "FEATURES" => self.take_features(value),
                _ => {}
            }
        }
        // Here it is the number of a page from the base on.
        self.hypercall_page = page.map(|page| self.virt_base.unwrap_or(0).wrapping_add(page << 12));
    }
}

/// A little-endian number of 1, 2, 4 or 8 bytes; what has another size counts as 0.
fn number(value: &[u8]) -> u64 {
    match value.len() {
        1 | 2 | 4 | 8 => value.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)),
        _ => 0,
    }
}

/// Text up to the first zero byte.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|&byte| byte == 0).next().unwrap_or_default()).into()
}

/// A number as C writes them, as far as its digits go.
fn number_of(text: &str) -> u64 {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    let digits = digits.chars().map_while(|digit| digit.to_digit(radix));
    digits.fold(0, |number: u64, digit| number.saturating_mul(radix.into()).saturating_add(digit.into()))
}
