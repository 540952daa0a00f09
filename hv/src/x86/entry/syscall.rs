//! `syscall` from a guest: a hypercall from its kernel, a call for its kernel from its user mode.

use super::super::{msr, percpu};
use super::descriptors::{HYPERVISOR_CS, RESERVED_SELECTORS};
use super::finish;
use core::sync::atomic::Ordering;
use oxen_hv::domain::regs::Regs;
use oxen_hv::{addr::GuestAddr, hypercall, trap};

/// `syscall` of a 64-bit guest. Returns whether `sysret` may go back at once: nothing changed but what it restores.
pub(super) extern "sysv64" fn guest_syscall(regs: &mut Regs) -> bool {
    // SAFETY: this is the way in, and the reference ends with it.
    let running = unsafe { percpu::running() };
    let mut caller = running.caller(regs);
    if caller.state.in_kernel {
        hypercall::execute(&mut caller);
    } else {
        trap::user_syscall(&mut caller);
    }
    let is_wanted = caller.vcpu.work.load(Ordering::Relaxed) != 0 || caller.state.info.wants_upcall();
    if is_wanted || running.shared.work.load(Ordering::Relaxed) != 0 {
        finish(running, regs);
        return false;
    }
    regs.entry_vector == Regs::SYSCALL_VECTOR && GuestAddr(regs.rip).is_canonical()
}

/// `syscall` of a 32-bit program.
pub(super) extern "sysv64" fn guest_syscall32(regs: &mut Regs) {
    // SAFETY: this is the way in, and the reference ends with it.
    let running = unsafe { percpu::running() };
    trap::user_syscall32(&mut running.caller(regs));
    finish(running, regs);
}

unsafe extern "C" {
    safe static boot_cpu_syscall: u8;
    safe static boot_cpu_syscall32: u8;
}

/// EFER: `syscall` is there; no-execute is.
const SYSCALL_ENABLE: u64 = 1 << 0;
/// RFLAGS that `syscall` clears: AC, NT, DF, IF, TF and the privilege level of I/O.
const CLEARED: u64 = 1 << 18 | 1 << 14 | 1 << 12 | 1 << 13 | 1 << 10 | 1 << 9 | 1 << 8;

/// Points `syscall` on the boot CPU to its stubs. `sysret` then loads 0xe033 and 0xe02b, the ABI's flat selectors.
///
/// # Safety
/// Once, on the boot CPU, when its block is open.
pub(crate) unsafe fn enable_on_boot_cpu() {
    // `sysret` adds 16 for CS and 8 for SS to the upper selector, `syscall` 0 and 8 to the lower.
    let upper = u64::from(RESERVED_SELECTORS | 0x23);
    // SAFETY: every 64-bit CPU has these; the stubs are this CPU's.
    unsafe {
        msr::write(msr::STAR, upper << 48 | u64::from(HYPERVISOR_CS) << 32);
        msr::write(msr::LSTAR, &raw const boot_cpu_syscall as u64);
        msr::write(msr::CSTAR, &raw const boot_cpu_syscall32 as u64);
        msr::write(msr::SFMASK, CLEARED);
        msr::write(msr::EFER, msr::read(msr::EFER) | SYSCALL_ENABLE);
    }
}
