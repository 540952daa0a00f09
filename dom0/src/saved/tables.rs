//! Page tables that name pages instead of frames, and back.

use anyhow::{Context, Result};

/// Words of a table.
pub const ENTRIES: usize = 512;
/// A table.
pub type Table = [u64; ENTRIES];

const PRESENT: u64 = 1;
/// The frame in an entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Slots of a root that are the hypervisor's.
const HYPERVISORS: core::ops::Range<usize> = 256..272;

/// What an entry leads to; `None` for one that is not present.
pub const fn target(entry: u64) -> Option<u64> {
    if entry & PRESENT == 0 { None } else { Some((entry & FRAME) >> 12) }
}

/// Replaces what each entry leads to by what `other` says it is; the slots that are the hypervisor's are emptied.
///
/// # Errors
/// What `other` says of an entry, with its place.
pub fn translate(level: u8, table: &mut Table, mut other: impl FnMut(u64) -> Result<u64>) -> Result<()> {
    for (index, entry) in table.iter_mut().enumerate() {
        if level == 4 && HYPERVISORS.contains(&index) {
            *entry = 0;
        } else if let Some(target) = target(*entry) {
            let target = other(target).with_context(|| alloc::format!("L{level} entry {index}"))?;
            *entry = *entry & !FRAME | target << 12 & FRAME;
        }
    }
    Ok(())
}
