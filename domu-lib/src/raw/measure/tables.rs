//! Pinning page tables, loading roots, switching contexts.

use core::sync::atomic::Ordering;
use x86_64::structures::paging::PageTableFlags;

use alloc::vec::Vec;

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::hypercall::{Hypercall, MulticallEntry};
use oxen_abi::mmu::{self, MmuextOp};
use oxen_abi::segments;

use super::{multicall, ticks, ticks_if_done};
use crate::memory::Page;
use crate::pages::{Mfn, Pfn, p2m, pool};
use crate::raw::hypercall::call2;
use crate::raw::memory::tables::{self, bits};

fn ext(ops: &[MmuextOp]) -> Result<(), Errno> {
    // SAFETY: the callers pin and unpin tables of their own, and load roots that map the runtime.
    unsafe { tables::mmuext_op(ops, DomId::SELF) }.map_err(|(_, errno)| errno)
}

const fn op(cmd: u32, frame: Mfn) -> MmuextOp {
    MmuextOp { cmd, _pad: 0, arg1: frame.raw(), arg2: 0 }
}

/// Page tables that nothing loads: the user half of a process.
#[derive(Debug)]
pub struct Process {
    /// The tables, the root last.
    tables: Vec<Pfn>,
    pages: Vec<Page>,
}

impl Process {
    /// `leaves` last-level tables of `used` writable entries each, and the tables above them.
    ///
    /// # Errors
    /// Without memory, and what the hypervisor refuses.
    pub fn new(leaves: usize, used: usize, with_root: bool) -> Result<Self, Errno> {
        let mut process = Self { tables: Vec::new(), pages: Vec::new() };
        let mut below = Vec::new();
        for _ in 0..leaves {
            let mut frames = Vec::new();
            for _ in 0..used {
                let page = Page::zeroed().ok_or(Errno::NoMem)?;
                frames.push(page.mfn());
                process.pages.push(page);
            }
            below.push(process.table(&frames, bits::DATA | bits::USER)?);
        }
        if with_root {
            for _ in 2..=4 {
                let next = process.table(&below, bits::TABLE)?;
                below.clear();
                below.push(next);
            }
        }
        Ok(process)
    }

    fn table(&mut self, frames: &[Mfn], flags: PageTableFlags) -> Result<Mfn, Errno> {
        let page = Page::zeroed().ok_or(Errno::NoMem)?;
        for (word, frame) in page.words64().iter().zip(frames) {
            word.store(frame.entry(flags), Ordering::Relaxed);
        }
        let frame = page.mfn();
        let pfn = page.into_pfn();
        self.tables.push(pfn);
        // SAFETY: the page is ours alone and its view is gone.
        unsafe { tables::protect(pfn) }?;
        Ok(frame)
    }

    /// Pinning and unpinning the root (or the only table) as a table of `level`.
    pub fn pin_unpin(&self, level: u32) -> Option<(u64, u64)> {
        let frame = p2m::mfn(*self.tables.last()?)?;
        let run = |cmd| ticks_if_done(|| ext(&[op(cmd, frame)]));
        Some((run(mmu::MMUEXT_PIN_L1_TABLE + level - 1)?, run(mmu::MMUEXT_UNPIN_TABLE)?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for &pfn in self.tables.iter().rev() {
            // SAFETY: nothing refers to a table above the ones that are ordinary pages again.
            if unsafe { tables::unprotect(pfn) }.is_ok() {
                pool::give(pfn, 1);
            } else {
                core::mem::forget(core::mem::take(&mut self.pages));
                return;
            }
        }
    }
}

/// Loading another kernel root, and the way back.
pub fn new_baseptr(other: Mfn) -> Option<u64> {
    let home = tables::root();
    let mut result = Ok(());
    let ticks = ticks(|| result = ext(&[op(mmu::MMUEXT_NEW_BASEPTR, other)]));
    let back = ext(&[op(mmu::MMUEXT_NEW_BASEPTR, home)]);
    (result.is_ok() && back.is_ok()).then_some(ticks)
}

/// A descriptor table of our own, which the hypervisor has loaded, for the part of a context switch that edits it.
#[derive(Debug)]
pub struct Descriptors(Pfn);

impl Descriptors {
    /// Loads a table of 16 empty descriptors; the runtime uses the hypervisor's.
    ///
    /// # Errors
    /// Without memory, and what the hypervisor refuses.
    pub fn new() -> Result<Self, Errno> {
        let page = Page::zeroed().ok_or(Errno::NoMem)?;
        let frame = page.mfn();
        let pfn = page.into_pfn();
        // SAFETY: the page is ours alone and its view is gone.
        unsafe { tables::protect(pfn) }?;
        let frames = [frame.raw()];
        // SAFETY: no selector in use points into the table.
        Errno::check(unsafe { call2::<{ Hypercall::SetGdt as u32 }>(frames.as_ptr() as u64, 16) })?;
        Ok(Self(pfn))
    }

    /// The machine address of descriptor `index`.
    fn address(&self, index: u64) -> u64 {
        p2m::mfn(self.0).map_or(0, Mfn::address) + index * 8
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: no selector in use points into the table.
        unsafe { call2::<{ Hypercall::SetGdt as u32 }>(0, 0) };
        // SAFETY: the table is not loaded any more.
        if unsafe { tables::unprotect(self.0) }.is_ok() {
            pool::give(self.0, 1);
        }
    }
}

/// A context switch as Linux makes it: one multicall that sets the kernel's stack, the descriptors of thread-local
/// storage, the segment bases and both roots.
pub fn context_switch(descriptors: &Descriptors, kernel: Mfn, user: Mfn) -> Option<u64> {
    const DATA_SEGMENT: u64 = 0x00cf_f300_0000_ffff;
    let roots = [op(mmu::MMUEXT_NEW_BASEPTR, kernel), op(mmu::MMUEXT_NEW_USER_BASEPTR, user)];
    let stack = &raw const roots as u64;
    let call = |op: Hypercall, args: [u64; 6]| MulticallEntry { op: op as u64, result: 0, args };
    let describe = |index| call(Hypercall::UpdateDescriptor, [descriptors.address(index), DATA_SEGMENT, 0, 0, 0, 0]);
    let mut list = [
        call(Hypercall::MmuextOp, [roots.as_ptr() as u64, 2, 0, DomId::SELF.0.into(), 0, 0]),
        call(Hypercall::StackSwitch, [segments::FLAT_KERNEL_SS.into(), stack, 0, 0, 0, 0]),
        describe(12),
        describe(13),
        describe(14),
        call(Hypercall::SetSegmentBase, [segments::SEGBASE_FS.into(), 0x1000, 0, 0, 0, 0]),
        call(Hypercall::SetSegmentBase, [segments::SEGBASE_GS_USER.into(), 0x2000, 0, 0, 0, 0]),
    ];
    let home = tables::root();
    let ticks = ticks(|| {
        multicall(&mut list);
    });
    let good = list.iter().all(|entry| entry.result == 0);
    let back = ext(&[op(mmu::MMUEXT_NEW_BASEPTR, home), op(mmu::MMUEXT_NEW_USER_BASEPTR, Mfn::new(0))]);
    (good && back.is_ok()).then_some(ticks)
}
