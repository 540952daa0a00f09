//! Page tables and a vcpu's registers that name pages instead of frames, and back.

use anyhow::{Context, Result, ensure};
use oxen_abi::guest_context::VcpuGuestContext;

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

/// Replaces what a vcpu's context leads to, its GDT and its roots, by what `other` says it is. The lowest bit of the
/// user root says that there is one, as libxc has it.
///
/// # Errors
/// The GDT has more entries than any; what `other` says, with the place.
pub fn translate_context(context: &mut VcpuGuestContext, other: impl Fn(u64) -> Result<u64>) -> Result<()> {
    let used = usize::try_from(context.gdt_ents.div_ceil(ENTRIES as u64))?;
    ensure!(used <= context.gdt_frames.len(), "its GDT has {} entries", context.gdt_ents);
    for place in context.gdt_frames.iter_mut().take(used) {
        *place = other(*place).context("its GDT")?;
    }
    let [_, user, _, kernel, ..] = &mut context.ctrlreg;
    *kernel = other(*kernel >> 12).context("its root")? << 12;
    if *user & 1 != 0 {
        *user = other(*user >> 12).context("its user root")? << 12 | 1;
    }
    Ok(())
}
