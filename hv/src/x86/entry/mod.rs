//! Ways into the hypervisor: from the boot loader, from guests, from the CPU's own faults; and the one way back.

mod boot;
pub(crate) mod defend;
pub(crate) mod descriptors;
mod exception;
mod fixup;
pub(crate) mod secondary;
mod stubs;
pub(crate) mod syscall;

use super::running::CpuBlock;
use core::arch::asm;

/// What must be done before a guest goes on: the CPU's own work, which may put another vcpu on it, then what waits for
/// that vcpu.
///
/// # Safety
/// On the way out; no reference to anything of the block lives.
#[inline(never)]
unsafe extern "sysv64" fn finish(block: &CpuBlock) {
    loop {
        if block.has_work() {
            // SAFETY: the caller's word.
            unsafe { block.reschedule() }
        }
        // SAFETY: likewise; the reference ends here.
        unsafe { block.caller() }.deliver_pending();
        if !block.has_work() {
            return;
        }
    }
}

/// Finishes if there is anything to do.
///
/// # Safety
/// As [`finish`].
#[inline]
unsafe fn leave(block: &CpuBlock) {
    // SAFETY: the caller's word.
    unsafe {
        if block.has_work() || block.caller().state.info.wants_upcall() {
            finish(block);
        }
    }
}

/// Leaves the boot, or the way in of a CPU, for the first guest.
///
/// # Safety
/// `block` is this CPU's and open.
pub(crate) unsafe fn enter_guests(block: &'static CpuBlock) -> ! {
    // SAFETY: this is the way out; nothing of the stack above is used again, and the frame is this CPU's.
    unsafe {
        block.reschedule();
        finish(block);
        asm!("mov rsp, {}", "jmp leave", in(reg) block, options(noreturn));
    }
}
