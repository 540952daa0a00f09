//! `syscall` from a guest: a hypercall from its kernel, a call for its kernel from its user mode.

use oxen_hv::domain::regs::Regs;

/// Returns whether only RAX and argument registers changed, so that `sysret` may go back at once.
pub(super) extern "sysv64" fn guest_syscall(regs: &mut Regs) -> bool {
    panic!("syscall {regs:x?}");
}

/// `syscall` of a 32-bit program.
pub(super) extern "sysv64" fn guest_syscall32(regs: &mut Regs) {
    panic!("syscall {regs:x?}");
}
