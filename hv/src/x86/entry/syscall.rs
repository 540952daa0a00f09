//! `syscall` from a guest: a hypercall from its kernel, a call for its kernel from its user mode.
//!
//! The straight line of a hypercall is in `stubs`: it calls the handler out of the table that [`CpuBlock::entries`]
//! names, and comes here only when more is to do than answer.

use super::super::segments::{HYPERVISOR_CS, RESERVED_SELECTORS};
use super::super::{
    msr,
    running::{self, CpuBlock},
};
use super::{finish, leave};
use oxen_hv::config::MAX_CPUS;
use oxen_hv::hypercall::Next;
use x86_64::registers::{model_specific::EferFlags, rflags::RFlags};

/// A hypercall that has no answer yet, or none at all.
pub(super) extern "sysv64" fn unanswered(block: &CpuBlock, next: Next) {
    // SAFETY: this is the way in, and the references end before the way out.
    unsafe {
        block.caller().settle_hypercall(next, &*block.args.get());
        finish(block);
    }
}

/// Hands an event to the guest on its way out. RBX, RBP and R12 to R15 of the frame are not the guest's here.
pub(super) extern "sysv64" fn deliver(block: &CpuBlock) {
    // SAFETY: this is the way out, and the reference ends with the call.
    unsafe { block.caller() }.deliver_pending();
}

/// `syscall` of 64-bit user mode. The frame is as for [`deliver`].
pub(super) extern "sysv64" fn user_syscall(block: &CpuBlock) {
    // SAFETY: this is the way in, and the reference ends with the call.
    unsafe { block.caller() }.user_syscall();
}

/// `syscall` of a 32-bit program.
pub(super) extern "sysv64" fn user_syscall32(block: &CpuBlock) {
    // SAFETY: this is the way in, and the reference ends before the way out.
    unsafe {
        block.caller().user_syscall32();
        leave(block);
    }
}

/// `sysenter` of a program.
pub(super) extern "sysv64" fn user_sysenter(block: &CpuBlock) {
    // SAFETY: this is the way in, and the reference ends before the way out.
    unsafe {
        block.caller().user_sysenter();
        leave(block);
    }
}

/// Bytes of each of the two stubs of a CPU that is not the boot CPU.
pub(super) const SECONDARY_STUB_BYTES: usize = 32;

unsafe extern "C" {
    safe static boot_cpu_syscall: u8;
    safe static boot_cpu_syscall32: u8;
    safe static sysenter_entry: u8;
    safe static secondary_syscalls: u8;
}

/// Where `syscall` enters on a CPU, from 64-bit and from 32-bit code; `None` for a CPU beyond the limit.
fn stubs(number: usize) -> Option<[u64; 2]> {
    let Some(index) = number.checked_sub(1) else {
        return Some([&raw const boot_cpu_syscall as u64, &raw const boot_cpu_syscall32 as u64]);
    };
    let first = &raw const secondary_syscalls as u64 + (2 * index * SECONDARY_STUB_BYTES) as u64;
    (number < MAX_CPUS).then_some([first, first + SECONDARY_STUB_BYTES as u64])
}

/// RFLAGS that `syscall` clears.
const CLEARED: RFlags = RFlags::ALIGNMENT_CHECK
    .union(RFlags::NESTED_TASK)
    .union(RFlags::IOPL_LOW)
    .union(RFlags::IOPL_HIGH)
    .union(RFlags::DIRECTION_FLAG)
    .union(RFlags::INTERRUPT_FLAG)
    .union(RFlags::TRAP_FLAG);

/// Points `syscall` and `sysenter` on this CPU to their stubs; returns whether there are any for it. `sysret` then
/// loads 0xe033 and 0xe02b, the ABI's flat selectors.
///
/// # Safety
/// Once per CPU, on the CPU with this number, when its block is filled.
pub(crate) unsafe fn enable(number: usize) -> bool {
    let Some([stub, stub32]) = stubs(number) else { return false };
    // `sysret` adds 16 for CS and 8 for SS to the upper selector, `syscall` 0 and 8 to the lower.
    let upper = u64::from(RESERVED_SELECTORS | 0x23);
    // SAFETY: every 64-bit CPU has these; the stubs are this CPU's.
    unsafe {
        msr::write(msr::STAR, upper << 48 | u64::from(HYPERVISOR_CS) << 32);
        msr::write(msr::LSTAR, stub);
        msr::write(msr::CSTAR, stub32);
        msr::write(msr::SFMASK, CLEARED.bits());
        msr::write(msr::SYSENTER_CS, HYPERVISOR_CS.into());
        msr::write(msr::SYSENTER_ESP, running::frame_end());
        msr::write(msr::SYSENTER_EIP, &raw const sysenter_entry as u64);
        msr::write(msr::EFER, msr::read(msr::EFER) | EferFlags::SYSTEM_CALL_EXTENSIONS.bits());
    }
    true
}
