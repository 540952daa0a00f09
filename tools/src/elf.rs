//! As much of ELF64 as building needs: the symbols of an image, and an image without what no boot reads.

use anyhow::{Context, Result, bail, ensure};

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;
const SHT_SYMTAB: u32 = 2;

/// A program header that describes nothing.
pub const PT_NULL: u32 = 0;
/// A segment that is loaded.
pub const PT_LOAD: u32 = 1;
/// Among a segment's flags: it can be read.
pub const PF_R: u32 = 4;

const STT_FUNC: u8 = 2;

/// A little-endian ELF64 file, read by offset.
#[derive(Clone, Copy, Debug)]
pub struct Elf<'a> {
    bytes: &'a [u8],
}

/// A program header: what is loaded, and from where in the file.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where its header begins in the file, in bytes.
    pub header: usize,
    /// `p_type`.
    pub kind: u32,
    /// Its link address.
    pub address: u64,
    /// How much memory it takes, in bytes.
    pub memory_size: u64,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// How much of it stands in the file, in bytes.
    pub file_size: u64,
}

/// A section header.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// Its name.
    pub name: &'a str,
    kind: u32,
    link: u32,
    /// Where in the file it begins, in bytes.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
}

/// A function of the symbol table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its link address.
    pub address: u64,
    /// Its mangled name.
    pub name: String,
}

impl<'a> Elf<'a> {
    /// Takes a file that begins as a little-endian ELF64 does.
    ///
    /// # Errors
    /// Fails for anything else.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        ensure!(bytes.len() >= HEADER && bytes.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
        Ok(Self { bytes })
    }

    fn u16(&self, at: usize) -> Result<u16> {
        read(self.bytes, at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Result<u32> {
        read(self.bytes, at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64> {
        read(self.bytes, at).map(u64::from_le_bytes)
    }

    fn word(&self, at: usize) -> Result<usize> {
        usize::try_from(self.u64(at)?).context("an offset beyond this machine's memory")
    }

    /// The program headers, in the file's order.
    ///
    /// # Errors
    /// Fails when the table lies outside the file.
    pub fn segments(&self) -> Result<Vec<Segment>> {
        let (table, count) = (self.word(32)?, usize::from(self.u16(56)?));
        (0..count)
            .map(|index| {
                let at = table + index * PROGRAM_HEADER;
                Ok(Segment {
                    header: at,
                    kind: self.u32(at)?,
                    offset: self.u64(at + 8)?,
                    address: self.u64(at + 16)?,
                    file_size: self.u64(at + 32)?,
                    memory_size: self.u64(at + 40)?,
                })
            })
            .collect()
    }

    /// The section headers, in the file's order.
    ///
    /// # Errors
    /// Fails when a table lies outside the file.
    pub fn sections(&self) -> Result<Vec<Section<'a>>> {
        let (table, count) = (self.word(40)?, usize::from(self.u16(60)?));
        let at = |index: usize| table + index * SECTION_HEADER;
        if count == 0 {
            return Ok(Vec::new());
        }
        let names = self.word(at(usize::from(self.u16(62)?)) + 24)?;
        (0..count)
            .map(|index| {
                let at = at(index);
                Ok(Section {
                    name: text(self.bytes, names + self.u32(at)? as usize)?,
                    kind: self.u32(at + 4)?,
                    link: self.u32(at + 40)?,
                    offset: self.word(at + 24)?,
                    size: self.word(at + 32)?,
                })
            })
            .collect()
    }

    /// Every function that the symbol table names, by rising address, one name per address.
    ///
    /// # Errors
    /// Fails when there is no symbol table, or a table lies outside the file.
    pub fn functions(&self) -> Result<Vec<Function>> {
        let sections = self.sections()?;
        let table = sections.iter().find(|s| s.kind == SHT_SYMTAB).context("the image has no symbol table")?;
        let strings = sections.get(table.link as usize).context("the symbol table names no string table")?;
        let mut functions = Vec::new();
        for index in 0..table.size / SYMBOL {
            let at = table.offset + index * SYMBOL;
            let [info] = read::<1>(self.bytes, at + 4)?;
            if info & 0xf == STT_FUNC {
                let name = text(self.bytes, strings.offset + self.u32(at)? as usize)?.to_owned();
                functions.push(Function { address: self.u64(at + 8)?, name });
            }
        }
        functions.sort_by(|a, b| a.address.cmp(&b.address).then_with(|| a.name.cmp(&b.name)));
        functions.dedup_by_key(|f| f.address);
        Ok(functions)
    }

    /// The file up to the end of its last segment, without section headers: what a loader reads.
    ///
    /// # Errors
    /// Fails when a segment lies outside the file.
    pub fn without_sections(&self) -> Result<Vec<u8>> {
        let headers = self.word(32)? + usize::from(self.u16(56)?) * PROGRAM_HEADER;
        let mut end = headers.max(HEADER);
        for segment in self.segments()? {
            end = end.max(usize::try_from(segment.offset.saturating_add(segment.file_size))?);
        }
        let Some(kept) = self.bytes.get(..end) else { bail!("a segment lies outside the file") };
        let mut kept = kept.to_vec();
        // e_shoff, then e_shnum and e_shstrndx.
        for range in [40..48, 60..64] {
            if let Some(field) = kept.get_mut(range) {
                field.fill(0);
            }
        }
        Ok(kept)
    }
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|b| <[u8; N]>::try_from(b).ok());
    found.with_context(|| format!("a table lies outside the file (offset {at:#x})"))
}

fn text(bytes: &[u8], at: usize) -> Result<&str> {
    let rest = bytes.get(at..).context("a name lies outside the file")?;
    let end = rest.iter().position(|&b| b == 0).context("a name without an end")?;
    Ok(std::str::from_utf8(rest.get(..end).unwrap_or_default())?)
}

#[cfg(test)]
mod tests {
    use super::Elf;

    fn ourselves() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn the_functions_of_this_program_are_found_in_order() {
        let bytes = ourselves();
        let functions = Elf::new(&bytes).unwrap().functions().unwrap();
        assert!(functions.iter().any(|f| f.name.contains("the_functions_of_this_program_are_found_in_order")));
        assert!(functions.windows(2).all(|pair| pair[0].address < pair[1].address));
    }

    #[test]
    fn a_stripped_file_keeps_its_segments_and_loses_its_sections() {
        let bytes = ourselves();
        let elf = Elf::new(&bytes).unwrap();
        let stripped = elf.without_sections().unwrap();
        assert!(stripped.len() < bytes.len());
        let stripped = Elf::new(&stripped).unwrap();
        assert!(stripped.sections().unwrap().is_empty());
        assert_eq!(stripped.segments().unwrap().len(), elf.segments().unwrap().len());
    }

    #[test]
    fn what_is_no_elf_or_is_cut_short_is_refused() {
        assert!(Elf::new(b"#!/bin/sh\n").is_err());
        let bytes = ourselves();
        assert!(Elf::new(&bytes[..200]).unwrap().functions().is_err());
        assert!(Elf::new(&bytes[..200]).unwrap().without_sections().is_err());
    }
}
