//! What UEFI firmware leaves behind: its system table and its map of memory. The control domain asks for both
//! (`XEN_FW_EFI_INFO`), since on such a machine nothing in low memory leads to ACPI's tables. Nobody calls
//! the firmware's runtime services.

use super::memory_map::{Kind, MemoryMap};
use super::{BootMemory, number};
use heapless::Vec;

/// Characters of the firmware's name that are kept, the zero at its end included.
const MAX_VENDOR: usize = 64;
const PAGE: u64 = 4096;

/// The firmware.
#[derive(Clone, Debug, Default)]
pub struct Efi {
    /// Revision of the system table, which is the version of UEFI.
    pub version: u32,
    /// The maker's name in UTF-16, with a zero at its end.
    pub vendor: Vec<u16, MAX_VENDOR>,
    /// The maker's own count.
    pub vendor_revision: u32,
    /// Machine address of the configuration tables' list.
    pub tables: u64,
    /// How many they are.
    pub table_count: u32,
    /// The map of memory as it was when the boot services ended.
    pub memory: EfiMemory,
}

/// The map of memory: descriptors of a size that the firmware chooses (UEFI 7.2.3).
#[derive(Clone, Copy, Debug, Default)]
pub struct EfiMemory {
    /// The descriptors, in the loader's information.
    pub bytes: &'static [u8],
    size: usize,
}

/// A range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// `EFI_MEMORY_TYPE`.
    pub kind: u32,
    /// Where it begins.
    pub start: u64,
    /// The first byte beyond.
    pub end: u64,
    /// `EFI_MEMORY_*`.
    pub attributes: u64,
}

/// `EFI_MEMORY_WB`: it can be cached, as memory can.
const WRITE_BACK: u64 = 1 << 3;

impl Descriptor {
    /// What the range is once the boot services are over. The firmware's own runtime memory stays untouched.
    fn kind(&self) -> Kind {
        match self.kind {
            // The loader's and the boot services' code and data, and what nobody had.
            1..=4 | 7 if self.attributes & WRITE_BACK != 0 => Kind::Ram,
            8 => Kind::Unusable,
            9 => Kind::Acpi,
            10 => Kind::AcpiNvs,
            _ => Kind::Reserved,
        }
    }
}

impl EfiMemory {
    /// Reads tag 17 of Multiboot 2, behind its kind and size.
    pub(super) fn of_tag(tag: &'static [u8]) -> Option<Self> {
        let size = usize::try_from(number::<4>(tag, 0)?).ok().filter(|&size| size >= 40)?;
        Some(Self { bytes: tag.get(8..)?, size })
    }

    /// The descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = Descriptor> + use<> {
        self.bytes.chunks_exact(self.size.max(1)).filter_map(|descriptor| {
            let (start, pages) = (number::<8>(descriptor, 8)?, number::<8>(descriptor, 24)?);
            let kind = u32::try_from(number::<4>(descriptor, 0)?).ok()?;
            let end = start.saturating_add(pages.saturating_mul(PAGE));
            Some(Descriptor { kind, start, end, attributes: number::<8>(descriptor, 32)? })
        })
    }

    /// The descriptor that an address lies in, and how much of `size` bytes from there on lies in it too.
    #[must_use]
    pub fn find(&self, address: u64, size: u64) -> Option<(Descriptor, u64)> {
        let found = self.descriptors().find(|it| (it.start..it.end).contains(&address))?;
        Some((found, size.min(found.end - address)))
    }

    /// Adds all of it to a map that the loader has left empty.
    pub(super) fn add_to(&self, map: &mut MemoryMap) {
        for descriptor in self.descriptors() {
            map.add(descriptor.start..descriptor.end, descriptor.kind());
        }
    }
}

/// Reads the system table of 64-bit firmware (UEFI 4.3). `None` where there is none.
pub(super) fn read(memory: &impl BootMemory, system_table: u64) -> Option<Efi> {
    let table = memory.bytes(system_table, 120).filter(|table| table.starts_with(b"IBI SYST"))?;
    let name = number::<8>(table, 24)?;
    let mut vendor = Vec::new();
    for index in 0..MAX_VENDOR as u64 - 1 {
        let letter = name.checked_add(index * 2).and_then(|at| number::<2>(memory.bytes(at, 2)?, 0));
        let Some(letter) = letter.filter(|&letter| letter != 0) else { break };
        let _ = vendor.push(letter as u16);
    }
    let _ = vendor.push(0);
    Some(Efi {
        version: u32::try_from(number::<4>(table, 8)?).ok()?,
        vendor,
        vendor_revision: u32::try_from(number::<4>(table, 32)?).ok()?,
        tables: number::<8>(table, 112)?,
        table_count: u32::try_from(number::<8>(table, 104)?).ok()?,
        memory: EfiMemory::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Image(&'static [u8]);

    impl BootMemory for Image {
        fn bytes(&self, start: u64, length: usize) -> Option<&'static [u8]> {
            let start = usize::try_from(start).ok()?;
            self.0.get(start..start.checked_add(length)?)
        }
    }

    /// A system table at 0, its vendor's name behind it.
    fn firmware() -> std::vec::Vec<u8> {
        let mut image = vec![0_u8; 120];
        image[..8].copy_from_slice(b"IBI SYST");
        image[8..12].copy_from_slice(&0x2_0046_u32.to_le_bytes());
        image[24..32].copy_from_slice(&120_u64.to_le_bytes());
        image[32..36].copy_from_slice(&0x10000_u32.to_le_bytes());
        image[104..112].copy_from_slice(&9_u64.to_le_bytes());
        image[112..120].copy_from_slice(&0x1f9e_c018_u64.to_le_bytes());
        image.extend("EDK II\0".encode_utf16().flat_map(u16::to_le_bytes));
        image
    }

    #[test]
    fn the_system_table_is_read() {
        let efi = read(&Image(firmware().leak()), 0).unwrap();
        assert_eq!((efi.version, efi.vendor_revision), (0x2_0046, 0x10000));
        assert_eq!((efi.tables, efi.table_count), (0x1f9e_c018, 9));
        assert_eq!(std::string::String::from_utf16(&efi.vendor).unwrap(), "EDK II\0");
    }

    #[test]
    fn what_is_no_system_table_is_none() {
        assert!(read(&Image(&[]), 0).is_none() && read(&Image(&[0; 200]), u64::MAX).is_none());
        assert!(read(&Image(&[0; 200]), 0).is_none());
        // A name that runs into the end of memory is cut, and so is one without an end.
        let mut image = firmware();
        image.truncate(124);
        assert_eq!(read(&Image(image.leak()), 0).unwrap().vendor.as_slice(), [u16::from(b'E'), u16::from(b'D'), 0]);
        let mut image = firmware();
        image.resize(600, b'x');
        image[132..].fill(b'x');
        assert_eq!(read(&Image(image.leak()), 0).unwrap().vendor.len(), MAX_VENDOR);
    }

    #[test]
    fn the_firmwares_own_memory_is_not_ram() {
        let mut tag = [48_u32, 1].map(u32::to_le_bytes).concat();
        for (kind, start, pages, attributes) in [
            (7_u32, 0x10_0000_u64, 16_u64, 0xf_u64),
            (6, 0x11_0000, 1, 0xf),
            (9, 0x11_1000, 1, 0xf),
            (7, 0x11_2000, 1, 1),
            (11, u64::MAX, u64::MAX, 0),
        ] {
            let words = [kind.into(), start, 0, pages, attributes, 0];
            tag.extend(words.map(u64::to_le_bytes).concat());
        }
        tag.extend([7; 47]);
        let memory = EfiMemory::of_tag(tag.leak()).unwrap();
        assert_eq!(memory.descriptors().count(), 5);
        let mut map = MemoryMap::default();
        memory.add_to(&mut map);
        assert!(map.ram().eq(core::iter::once(0x10_0000..0x11_0000)));
        assert!(map.regions().any(|region| region.range == (0x11_1000..0x11_2000) && region.kind == Kind::Acpi));
        let found = |address, size| memory.find(address, size).map(|(found, size)| (found.kind, size));
        assert_eq!((found(0x11_0800, 0x100), found(0x11_0800, u64::MAX)), (Some((6, 0x100)), Some((6, 0x800))));
        assert_eq!((found(0xf_ffff, 1), found(0x11_3000, 1)), (None, None));
        assert!(EfiMemory::of_tag(&[0; 16]).is_none() && EfiMemory::of_tag(&[48]).is_none());
        assert_eq!(EfiMemory::default().descriptors().count(), 0);
    }
}
