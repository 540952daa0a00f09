//! What the boot loader hands over: Multiboot 1 (QEMU's `-kernel`) and Multiboot 2 (GRUB), read into one [`BootInfo`].

use super::efi::{self, Efi, EfiMemory};
use super::memory_map::{Kind, MemoryMap};
use super::{BootMemory, number};
use bitflags::bitflags;
use core::ops::Range;
use heapless::Vec;

/// Modules that are looked at.
pub const MAX_MODULES: usize = 8;
/// What EAX holds on entry (Multiboot 1, 3.2; Multiboot 2, 3.2).
const MAGIC_1: u32 = 0x2bad_b002;
const MAGIC_2: u32 = 0x36d7_6289;
/// The longest text that is looked at.
const MAX_TEXT: usize = 4096;
/// The longest table that is believed.
const MAX_TABLE: usize = 1 << 20;

/// A file that the loader put into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Where it lies.
    pub range: Range<u64>,
    /// Its own command line.
    pub command_line: &'static str,
}

/// The hand-over.
#[derive(Clone, Debug)]
pub struct BootInfo {
    /// The hypervisor's command line, the image's name at its beginning taken off.
    pub command_line: &'static str,
    /// The modules, in the loader's order.
    pub modules: Vec<Module, MAX_MODULES>,
    /// What lies where.
    pub memory_map: MemoryMap,
    /// ACPI's root pointer, if the loader passed it.
    pub acpi_root: Option<&'static [u8]>,
    /// The firmware, where it is UEFI.
    pub efi: Option<Efi>,
    /// Who loaded us, as it calls itself.
    pub loader: &'static str,
}

impl BootInfo {
    /// What is read after memory has been divided, wherever the loader left it.
    pub fn kept(&self) -> impl Iterator<Item = &'static [u8]> {
        let texts = [self.command_line, self.loader].into_iter().chain(self.modules.iter().map(|m| m.command_line));
        texts.map(str::as_bytes).chain(self.efi.iter().map(|efi| efi.memory.bytes))
    }
}

/// Why a hand-over could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoffError {
    /// The magic number is neither protocol's.
    UnknownLoader(u32),
    /// The information's own structure lies outside memory or contradicts itself.
    Malformed,
    /// It says nothing of memory.
    NoMemoryMap,
}

/// Reads what the loader left at `info`.
///
/// # Errors
/// See [`HandoffError`].
pub fn read(memory: &impl BootMemory, magic: u32, info: u32) -> Result<BootInfo, HandoffError> {
    let mut out = BootInfo {
        command_line: "",
        modules: Vec::new(),
        memory_map: MemoryMap::default(),
        acpi_root: None,
        efi: None,
        loader: "",
    };
    match magic {
        MAGIC_1 => read_multiboot1(memory, info.into(), &mut out),
        MAGIC_2 => read_multiboot2(memory, info.into(), &mut out),
        other => return Err(HandoffError::UnknownLoader(other)),
    }
    .ok_or(HandoffError::Malformed)?;
    if out.memory_map.end_of_ram() == 0 {
        return Err(HandoffError::NoMemoryMap);
    }
    Ok(out)
}

/// The text at an address, up to its zero byte or the first that is no ASCII.
fn text_at(memory: &impl BootMemory, address: u64) -> &'static str {
    // Text may end where memory does: ask for less until it is there.
    (0..=12).rev().find_map(|shift| memory.bytes(address, (MAX_TEXT >> (12 - shift)).max(1))).map_or("", text_of)
}

fn text_of(bytes: &'static [u8]) -> &'static str {
    let end = bytes.iter().position(|&b| b == 0 || !b.is_ascii()).unwrap_or(bytes.len());
    bytes.get(..end).and_then(|text| core::str::from_utf8(text).ok()).unwrap_or("")
}

/// Takes off the file's name, which Multiboot 1 loaders put first, all but GRUB 2.
fn without_name(loader: &str, line: &'static str) -> &'static str {
    let line = line.trim_start();
    if loader.starts_with("GRUB 2") {
        return without_placeholder(line);
    }
    line.split_once(' ').map_or("", |(_, rest)| rest.trim_start())
}

/// Takes off the word that GRUB's own scripts put where the name once stood.
fn without_placeholder(line: &'static str) -> &'static str {
    match line.trim_start().strip_prefix("placeholder") {
        Some(rest) if rest.is_empty() || rest.starts_with(' ') => rest.trim_start(),
        _ => line.trim_start(),
    }
}

fn add_region(map: &mut MemoryMap, base: u64, length: u64, kind: u32) {
    map.add(base..base.saturating_add(length), Kind::from_raw(kind));
}

fn add_module(info: &mut BootInfo, start: u64, end: u64, command_line: &'static str) {
    if start <= end {
        let _ = info.modules.push(Module { range: start..end, command_line });
    }
}

bitflags! {
    /// What the structure of Multiboot 1 tells.
    #[derive(Clone, Copy)]
    struct Told: u64 {
        /// KiB of lower and upper memory.
        const MEMORY = 1 << 0;
        const COMMAND_LINE = 1 << 2;
        const MODULES = 1 << 3;
        const MEMORY_MAP = 1 << 6;
        /// The boot loader's name.
        const LOADER = 1 << 9;
    }
}

/// The structure of Multiboot 1, 3.3.
fn read_multiboot1(memory: &impl BootMemory, at: u64, out: &mut BootInfo) -> Option<()> {
    let info = memory.bytes(at, 88)?;
    let word = |offset| number::<4>(info, offset);
    let flags = Told::from_bits_retain(word(0)?);
    if flags.contains(Told::LOADER) {
        out.loader = text_at(memory, word(64)?);
    }
    if flags.contains(Told::COMMAND_LINE) {
        out.command_line = without_name(out.loader, text_at(memory, word(16)?));
    }
    if flags.contains(Told::MODULES) {
        let count = usize::try_from(word(20)?).ok()?.min(MAX_MODULES);
        let list = memory.bytes(word(24)?, count * 16)?;
        for module in list.chunks_exact(16) {
            let line = without_name(out.loader, text_at(memory, number::<4>(module, 8)?));
            add_module(out, number::<4>(module, 0)?, number::<4>(module, 4)?, line);
        }
    }
    if flags.contains(Told::MEMORY_MAP) {
        let length = usize::try_from(word(44)?).ok().filter(|&l| l <= MAX_TABLE)?;
        let mut entries = memory.bytes(word(48)?, length)?;
        // Each entry begins with its own size, which does not count itself.
        while entries.len() >= 24 {
            let size = usize::try_from(number::<4>(entries, 0)?).ok()?;
            let kind = u32::try_from(number::<4>(entries, 20)?).ok()?;
            add_region(&mut out.memory_map, number::<8>(entries, 4)?, number::<8>(entries, 12)?, kind);
            entries = entries.get(size.checked_add(4).filter(|&s| s >= 24)?..).unwrap_or(&[]);
        }
    } else if flags.contains(Told::MEMORY) {
        add_region(&mut out.memory_map, 0, word(4)? << 10, Kind::Ram.raw());
        add_region(&mut out.memory_map, 1 << 20, word(8)? << 10, Kind::Ram.raw());
    }
    Some(())
}

/// The tags of Multiboot 2, 3.6.
fn read_multiboot2(memory: &impl BootMemory, at: u64, out: &mut BootInfo) -> Option<()> {
    let mut efi_memory = EfiMemory::default();
    let size = usize::try_from(number::<4>(memory.bytes(at, 8)?, 0)?).ok().filter(|&s| s <= MAX_TABLE)?;
    let mut tags = memory.bytes(at, size)?.get(8..)?;
    loop {
        let (kind, size) = (number::<4>(tags, 0)?, usize::try_from(number::<4>(tags, 4)?).ok()?);
        let tag = tags.get(..size).filter(|_| size >= 8)?;
        match kind {
            0 => break,
            1 => out.command_line = without_placeholder(text_of(tag.get(8..)?)),
            2 => out.loader = text_of(tag.get(8..)?),
            3 => {
                let line = without_placeholder(text_of(tag.get(16..)?));
                add_module(out, number::<4>(tag, 8)?, number::<4>(tag, 12)?, line);
            }
            6 => {
                let entry_size = usize::try_from(number::<4>(tag, 8)?).ok().filter(|&s| s >= 20)?;
                for entry in tag.get(16..)?.chunks_exact(entry_size) {
                    let kind = u32::try_from(number::<4>(entry, 16)?).ok()?;
                    add_region(&mut out.memory_map, number::<8>(entry, 0)?, number::<8>(entry, 8)?, kind);
                }
            }
            12 => out.efi = efi::read(memory, number::<8>(tag, 8)?),
            14 if out.acpi_root.is_none() => out.acpi_root = tag.get(8..),
            15 => out.acpi_root = tag.get(8..),
            17 => efi_memory = EfiMemory::of_tag(tag.get(8..)?)?,
            // The frame buffer and whatever else a loader tells.
            _ => {}
        }
        tags = tags.get(size.next_multiple_of(8)..)?;
    }
    if out.memory_map.regions().next().is_none() {
        efi_memory.add_to(&mut out.memory_map);
    }
    if let Some(efi) = &mut out.efi {
        efi.memory = efi_memory;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Memory from address 0x1000 on.
    struct Image(&'static [u8]);

    impl BootMemory for Image {
        fn bytes(&self, start: u64, length: usize) -> Option<&'static [u8]> {
            let start = usize::try_from(start.checked_sub(0x1000)?).ok()?;
            self.0.get(start..start.checked_add(length)?)
        }
    }

    fn put(image: &mut [u8], at: usize, words: &[u32]) {
        for (i, word) in words.iter().enumerate() {
            image[at - 0x1000 + 4 * i..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }

    fn put_text(image: &mut [u8], at: usize, text: &str) {
        image[at - 0x1000..][..text.len()].copy_from_slice(text.as_bytes());
    }

    #[test]
    fn qemus_hand_over_is_read() {
        let mut image = vec![0_u8; 0x1000];
        put(&mut image, 0x1000, &[0x24d, 640, 0x7fc00, 0, 0x1100, 2, 0x1200]);
        put(&mut image, 0x102c, &[48, 0x1300]);
        put(&mut image, 0x1040, &[0x1400]);
        put_text(&mut image, 0x1100, "target/oxen/hv dom0_mem=256M loglvl=all");
        put(&mut image, 0x1200, &[0x40_0000, 0x50_0000, 0x1500, 0, 0x50_0000, 0x50_1000, 0x1540, 0]);
        put(&mut image, 0x1300, &[20, 0, 0, 0x9_fc00, 0, 1, 20, 0x10_0000, 0, 0x3fee_0000, 0, 1]);
        put_text(&mut image, 0x1400, "qemu");
        put_text(&mut image, 0x1500, "dom0 console=hvc0");
        put_text(&mut image, 0x1540, "ramdisk a  b");
        let info = read(&Image(image.leak()), MAGIC_1, 0x1000).unwrap();
        assert_eq!(info.command_line, "dom0_mem=256M loglvl=all");
        assert_eq!(info.loader, "qemu");
        assert_eq!(info.modules[0], Module { range: 0x40_0000..0x50_0000, command_line: "console=hvc0" });
        assert_eq!(info.modules[1].command_line, "a  b");
        assert_eq!(info.memory_map.end_of_ram(), 0x3ffe_0000);
    }

    #[test]
    fn grubs_hand_over_is_read() {
        let mut image = vec![0_u8; 0x1000];
        put(&mut image, 0x1000, &[200, 0, 1, 17]);
        put_text(&mut image, 0x1010, "noreboot");
        put(&mut image, 0x1020, &[3, 22, 0x40_0000, 0x40_2000]);
        put_text(&mut image, 0x1030, "dom0");
        put(&mut image, 0x1038, &[6, 40, 24, 0, 0x10_0000, 0, 0x700_0000, 0, 1, 0]);
        put(&mut image, 0x1060, &[14, 28]);
        put_text(&mut image, 0x1068, "RSD PTR ");
        put(&mut image, 0x1080, &[0, 8]);
        let info = read(&Image(image.leak()), MAGIC_2, 0x1000).unwrap();
        assert_eq!(info.command_line, "noreboot");
        assert_eq!(info.modules[0].command_line, "dom0");
        assert_eq!(info.memory_map.end_of_ram(), 0x710_0000);
        assert!(info.acpi_root.unwrap().starts_with(b"RSD PTR "));
    }

    /// UEFI's tags alone, with a frame buffer's among them: the map is the firmware's.
    #[test]
    fn uefis_hand_over_is_read() {
        let mut image = vec![0_u8; 0x1000];
        put(&mut image, 0x1000, &[168, 0, 12, 16, 0x1800, 0]);
        put(&mut image, 0x1018, &[8, 32, 0x8000_0000, 0, 3200, 800, 600, 32]);
        put(&mut image, 0x1038, &[17, 112, 48, 1]);
        put(&mut image, 0x1048, &[7, 0, 0x10_0000, 0, 0, 0, 0x7f00, 0, 0xf, 0, 0, 0]);
        put(&mut image, 0x1078, &[6, 0, 0x800_0000, 0, 0, 0, 0x10, 0, 0xf, 0, 0, 0]);
        put(&mut image, 0x10a8, &[0, 8]);
        put_text(&mut image, 0x1800, "IBI SYST");
        put(&mut image, 0x1808, &[0x2_0046]);
        put(&mut image, 0x1868, &[11, 0, 0x7ff_0000]);
        put(&mut image, 0x1000, &[176]);
        let info = read(&Image(image.leak()), MAGIC_2, 0x1000).unwrap();
        assert_eq!(info.memory_map.end_of_ram(), 0x800_0000);
        let efi = info.efi.as_ref().unwrap();
        assert_eq!((efi.version, efi.tables, efi.table_count), (0x2_0046, 0x7ff_0000, 11));
        assert_eq!(efi.memory.descriptors().count(), 2);
        assert!(info.kept().any(|bytes| bytes.len() == 96));
    }

    #[test]
    fn a_list_of_tags_that_cannot_be_is_refused() {
        // What follows the list's own size: without an end, of size 0, cut in its head, longer than the list, endless.
        let lists: [&[u32]; 5] =
            [&[16, 0, 4, 8], &[24, 0, 4, 0, 0, 8], &[12, 0, 4], &[24, 0, 1, 64], &[24, 0, 1, u32::MAX]];
        for list in lists {
            let mut image = vec![0_u8; 0x100];
            put(&mut image, 0x1000, list);
            assert_eq!(read(&Image(image.leak()), MAGIC_2, 0x1000).err(), Some(HandoffError::Malformed), "{list:?}");
        }
        let mut image = vec![0_u8; 0x100];
        put(&mut image, 0x1000, &[u32::MAX]);
        assert_eq!(read(&Image(image.leak()), MAGIC_2, 0x1000).err(), Some(HandoffError::Malformed));
        // Entries of a map that are smaller than what each holds, and a system table outside memory.
        let mut image = vec![0_u8; 0x100];
        put(&mut image, 0x1000, &[48, 0, 6, 32, 0, 0, 1, 2, 3, 4, 0, 8]);
        assert_eq!(read(&Image(image.leak()), MAGIC_2, 0x1000).err(), Some(HandoffError::Malformed));
        let mut image = vec![0_u8; 0x100];
        put(&mut image, 0x1000, &[72, 0, 12, 16, u32::MAX, u32::MAX, 6, 40, 24, 0, 0, 0, 0x10_0000, 0, 1, 0, 0, 8]);
        assert!(read(&Image(image.leak()), MAGIC_2, 0x1000).unwrap().efi.is_none());
    }

    #[test]
    fn what_stands_in_the_names_place_is_taken_off() {
        assert_eq!(without_placeholder(" placeholder dom0_mem=1G"), "dom0_mem=1G");
        assert_eq!(without_placeholder("placeholder"), "");
        assert_eq!(without_placeholder("placeholders"), "placeholders");
        assert_eq!(without_name("GRUB 2.06", "placeholder a"), "a");
        assert_eq!(without_name("qemu", "target/hv a b"), "a b");
    }

    #[test]
    fn another_loader_is_refused() {
        assert_eq!(read(&Image(&[]), 7, 0x1000).err(), Some(HandoffError::UnknownLoader(7)));
        assert_eq!(read(&Image(&[]), MAGIC_1, 0x1000).err(), Some(HandoffError::Malformed));
        assert_eq!(read(&Image(&[0; 256]), MAGIC_1, 0x1000).err(), Some(HandoffError::NoMemoryMap));
    }

    proptest! {
        #[test]
        fn no_hand_over_can_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), v2 in any::<bool>()) {
            let mut bytes = bytes;
            bytes.resize(600, 0);
            if v2 {
                bytes[..8].copy_from_slice(&[88, 2, 0, 0, 0, 0, 0, 0]);
            }
            let _ = read(&Image(bytes.leak()), if v2 { MAGIC_2 } else { MAGIC_1 }, 0x1000);
        }
    }
}
