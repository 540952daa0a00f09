//! What the loader and the firmware left in memory: the hand-over, the map of memory, the tables of ACPI and UEFI.

pub mod acpi;
pub mod efi;
pub mod handoff;
pub mod memory_map;

/// Memory as the loader and the firmware left it, asked of the machine while nothing is set up yet.
pub trait BootMemory {
    /// The bytes at a machine address, for good; `None` where the machine cannot show them.
    fn bytes(&self, start: u64, length: usize) -> Option<&'static [u8]>;
}

/// A little-endian number of 1 to 8 bytes at an offset of a table that came from outside.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let found = bytes.get(at..at.checked_add(N)?)?;
    Some(found.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}
