//! What the stubs call: exceptions of guests, of the hypervisor itself, and device interrupts.

use super::super::{cpu, panic};
use super::fixup;
use oxen_hv::domain::regs::Regs;

/// An exception in a guest. Returns to it by `iretq` with the registers as they then are.
pub(super) extern "sysv64" fn guest_exception(regs: &mut Regs, vector: u32) {
    regs.entry_vector = vector;
    panic!("guest exception {vector}: {regs:x?}");
}

/// Vectors of the CPU's exceptions.
const DEBUG: u32 = 1;
const NMI: u32 = 2;

/// An exception inside the hypervisor: either one that was foreseen where it happened, or the end.
pub(super) extern "sysv64" fn hypervisor_exception(regs: &mut Regs, vector: u32) {
    if let Some(target) = fixup::find(regs.rip) {
        regs.rip = target;
        regs.rflags |= 1;
        return;
    }
    match vector {
        // A guest's breakpoint on data that the hypervisor touched for it, or put off to the first instruction here.
        DEBUG => drop(cpu::take_debug_status()),
        NMI => {}
        _ => {
            regs.entry_vector = vector;
            panic::fault(regs);
        }
    }
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
