//! Each CPU's own root for guests that are kept apart (XPTI, XSA-254): of the hypervisor it shows the ways in and what
//! the CPU looks at on them. The guest's slots are written on each way out (`entry/defend.s`).
//!
//! What it shows: the pages of the stubs, the interrupt descriptor table, this CPU's stacks with the block, the
//! registers and the task state on them, and the table of windows that this CPU's window on descriptors is in.

use super::super::percpu::{GUARD_OFFSET, STACK_BYTES};
use super::tables::{self, Table};
use oxen_hv::layout::CPU_WINDOW_START;

const PAGE: u64 = 4096;

unsafe extern "C" {
    safe static entry_start: u8;
    safe static entry_end: u8;
}

/// Frames that a root takes at most: a table of each level, one of level 1 for the image and one for a stack behind it,
/// one of level 2 for the windows.
pub(crate) const FRAMES: usize = 6;

/// Makes the root of the CPU with this number, whose stacks begin at `area`, showing `idt` as well. Returns its machine
/// address.
///
/// # Safety
/// `frames` gives zeroed frames of the direct map, for good; all that is shown is mapped for good.
pub(crate) unsafe fn build(number: usize, area: u64, idt: u64, mut frames: impl FnMut() -> u64) -> u64 {
    let root = frames();
    // SAFETY: the frame was just taken, for a table.
    let table: &Table = unsafe { tables::table_at(root) };
    let text = &raw const entry_start as u64 & !(PAGE - 1)..&raw const entry_end as u64;
    let stacks = (area..area + STACK_BYTES as u64).step_by(PAGE as usize);
    let stacks = stacks.filter(|address| *address != area + GUARD_OFFSET as u64);
    for address in text.step_by(PAGE as usize).chain([idt]).chain(stacks) {
        // SAFETY: the tables below the root are its own, and what is shown has the rights that it has.
        unsafe { tables::show_alike(table, address, &mut frames) };
    }
    let window = CPU_WINDOW_START + (number * tables::WINDOW_PAGES) as u64 * PAGE;
    // SAFETY: likewise; the windows' table stays, and what is put into it is shown here as well.
    unsafe { tables::share_window(table, window, &mut frames) };
    root
}
