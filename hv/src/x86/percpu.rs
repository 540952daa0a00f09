//! What each CPU has for itself, found at the top of its stack, and the few words that all CPUs share.

use super::entry::descriptors::{Gdt, Idt, Tss};
use core::arch::asm;
use oxen_hv::domain::regs::Regs;

/// Bytes of a CPU's stack area, and its alignment: from any address inside it, masking finds its ends.
///
/// From the bottom: four 4 KiB stacks for double fault, NMI, machine check and debug; a guard page, not mapped; the stack.
pub(crate) const STACK_BYTES: usize = 64 << 10;
/// Where the guest's registers stand in the area.
pub(crate) const FRAME_OFFSET: usize = STACK_BYTES - size_of::<CpuBlock>() + core::mem::offset_of!(CpuBlock, frame);
/// Bytes of each of the stacks that the CPU takes for the faults that may find RSP anywhere.
pub(crate) const FAULT_STACK_BYTES: usize = 4096;
/// Where the guard page lies in the area.
pub(crate) const GUARD_OFFSET: usize = 4 * FAULT_STACK_BYTES;

/// The top of a CPU's stack area.
#[repr(C, align(64))]
pub(crate) struct CpuBlock {
    /// So that `frame` ends at a multiple of 16, to which the CPU aligns its stack before it pushes.
    padding: u64,
    /// What the CPU and the entry paths push when they come from a guest.
    pub frame: Regs,
    /// Which CPU this is, from 0.
    pub number: usize,
    /// Where the CPU finds its stacks.
    pub tss: Tss,
    /// The hypervisor's page of its GDT.
    pub gdt: &'static mut Gdt,
    /// Whether the running vcpu's breakpoints are on.
    pub has_breakpoints: bool,
}

const _: () = assert!((FRAME_OFFSET + size_of::<Regs>()).is_multiple_of(16));

/// The block of the CPU that asks.
#[inline]
pub(crate) fn block() -> *mut CpuBlock {
    let stack: usize;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) }
    ((stack & !(STACK_BYTES - 1)) + STACK_BYTES - size_of::<CpuBlock>()) as *mut CpuBlock
}

/// Fills a CPU's block for the first time.
///
/// # Safety
/// `block` is the top of a stack area that only this CPU uses, and was not filled before.
pub(crate) unsafe fn fill(block: *mut CpuBlock, number: usize, gdt: &'static mut Gdt) {
    let tss = Tss::of(block);
    // SAFETY: the caller's duty.
    unsafe {
        block.write(CpuBlock { padding: 0, frame: Regs::default(), number, tss, gdt, has_breakpoints: false });
        (*block).gdt.set_tss(&raw const (*block).tss);
    }
}

/// Works on the block of the CPU that asks.
#[inline]
pub(crate) fn with_block<R>(work: impl FnOnce(&mut CpuBlock) -> R) -> R {
    // SAFETY: the block is this CPU's alone, was filled when it came up, and `work` does not come here again.
    work(unsafe { &mut *block() })
}

/// The boot CPU's descriptor table page.
pub(crate) static mut BOOT_GDT: Gdt = Gdt::EMPTY;

/// The shared interrupt descriptor table.
pub(crate) static mut IDT: Idt = Idt::EMPTY;

unsafe extern "C" {
    safe static boot_cpu_stack: u8;
}

/// What stands on the stack of this CPU from `rsp` to its end; `None` if `rsp` is not in its area.
pub(crate) fn stack_from(rsp: u64) -> Option<&'static [u64]> {
    let end = block() as u64 + size_of::<CpuBlock>() as u64;
    let start = rsp.next_multiple_of(8);
    if !(end - STACK_BYTES as u64..end).contains(&start) {
        return None;
    }
    // SAFETY: the range lies in this CPU's stack area, above what is pushed while it is looked at.
    Some(unsafe { core::slice::from_raw_parts(start as *const u64, (end - start) as usize / 8) })
}
