//! What the stubs call: exceptions of guests, of the hypervisor itself, and device interrupts.

use oxen_hv::domain::regs::Regs;

/// An exception in a guest. Returns to it by `iretq` with the registers as they then are.
pub(super) extern "sysv64" fn guest_exception(regs: &mut Regs, vector: u32) {
    regs.entry_vector = vector;
    panic!("guest exception {vector}: {regs:x?}");
}

/// An exception inside the hypervisor: either one that was foreseen where it happened, or the end.
pub(super) extern "sysv64" fn hypervisor_exception(regs: &mut Regs, vector: u32) {
    if let Some(fixup) = super::fixup::find(regs.rip) {
        regs.rip = fixup;
        regs.rflags |= 1;
        return;
    }
    regs.entry_vector = vector;
    super::super::panic::fault(regs);
}

/// A device interrupt, in a guest or while the CPU idled.
pub(super) extern "sysv64" fn interrupt(regs: &mut Regs) {
    let vector = regs.error_code;
    panic!("interrupt {vector}");
}

/// The CPU refused to return to the guest with these registers.
pub(super) extern "sysv64" fn refused_return(regs: &mut Regs) {
    panic!("refused return {regs:x?}");
}
