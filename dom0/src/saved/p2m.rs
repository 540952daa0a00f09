//! Where a guest keeps its p2m: as one array that a root of its own maps, or as a tree of lists (`arch-x86/xen.h`,
//! `arch_shared_info`).

use alloc::{format, vec::Vec};

use anyhow::{Context, Result, ensure};
use oxen_abi::shared_info::ArchSharedInfo;
use oxen_domu_lib::memory::Mfn;

use super::tables::{self, ENTRIES, Table};

/// The most pages that a guest can have here: 1 TiB.
pub const MAX_PAGES: u64 = 1 << 28;

/// How many pages a guest's p2m tells of.
///
/// # Errors
/// None, or more than any has.
pub fn pages(arch: &ArchSharedInfo) -> Result<u64> {
    let pages = arch.max_pfn;
    ensure!(pages != 0, "the guest has not told of its p2m: its kernel does not know how to be saved");
    ensure!(pages <= MAX_PAGES, "the guest's p2m claims {pages} pages");
    Ok(pages)
}

/// The frames that hold the p2m, in order; `read` gives a frame's words.
///
/// # Errors
/// The guest says of its p2m what cannot be; what `read` says.
pub fn find(arch: &ArchSharedInfo, mut read: impl FnMut(Mfn) -> Result<Table>) -> Result<Vec<Mfn>> {
    let count = usize::try_from(pages(arch)?.div_ceil(ENTRIES as u64))?;
    if arch.p2m_cr3 != 0 {
        return find_linear(arch, count, read);
    }
    let top = arch.pfn_to_mfn_frame_list_list;
    ensure!(top != 0 && top != u64::MAX, "the guest has not said where its p2m is");
    let mut frames = Vec::with_capacity(count);
    let lists = read(Mfn::new(top)).context("the top of the p2m")?;
    for list in lists.map(Mfn::new).into_iter().take(count.div_ceil(ENTRIES)) {
        let list = read(list).context("a list of the p2m")?;
        frames.extend(list.map(Mfn::new).into_iter().take(count - frames.len()));
    }
    ensure!(frames.len() == count, "the p2m's tree is too small for {} pages", arch.max_pfn);
    Ok(frames)
}

fn find_linear(arch: &ArchSharedInfo, count: usize, mut read: impl FnMut(Mfn) -> Result<Table>) -> Result<Vec<Mfn>> {
    ensure!(arch.p2m_vaddr.is_multiple_of(4096), "the p2m's address {:#x} is not that of a page", arch.p2m_vaddr);
    let mut frames = Vec::with_capacity(count);
    // The last table of each level that was read, by its frame.
    let mut kept: [Option<(Mfn, Table)>; 4] = [None; 4];
    for page in 0..count as u64 {
        let address = arch.p2m_vaddr.wrapping_add(page << 12);
        let mut frame = Mfn::new(arch.p2m_cr3 >> 12);
        for (level, kept) in (1..=4_u32).rev().zip(&mut kept) {
            if kept.is_none_or(|(known, _)| known != frame) {
                *kept = Some((frame, read(frame).context("a table of the p2m's")?));
            }
            let slot = (address >> (3 + 9 * level)) as usize % ENTRIES;
            let entry = kept.as_ref().and_then(|(_, table)| table.get(slot)).copied().unwrap_or_default();
            let missing = || format!("nothing is mapped at {address:#x}, where the guest's p2m is said to be");
            frame = tables::target(entry).map(Mfn::new).with_context(missing)?;
        }
        frames.push(frame);
    }
    Ok(frames)
}
