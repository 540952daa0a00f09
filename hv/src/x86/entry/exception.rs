//! What the stubs call: exceptions of guests, of the hypervisor itself, and device interrupts.

use super::super::device::apic::vector;
use super::super::{cpu, panic, percpu};
use super::{finish, fixup};
use core::sync::atomic::Ordering;
use oxen_hv::domain::regs::Regs;
use oxen_hv::event::pirq;
use oxen_hv::{console, trap};

/// Vectors of the CPU's exceptions.
const DEBUG: u32 = 1;
const NMI: u32 = 2;
const DOUBLE_FAULT: u32 = 8;
const MACHINE_CHECK: u32 = 18;

/// A page fault in a guest. Returns to it by `iretq` with the registers as they then are.
pub(super) extern "sysv64" fn guest_page_fault(regs: &mut Regs) {
    // SAFETY: this is the way in, and the reference ends with it.
    let running = unsafe { percpu::running() };
    let error_code = regs.error_code;
    trap::page_fault::page_fault(&mut running.caller(regs), cpu::fault_address(), error_code);
    finish(running, regs);
}

/// Another exception in a guest.
pub(super) extern "sysv64" fn guest_exception(regs: &mut Regs, vector: u32) {
    // SAFETY: this is the way in, and the reference ends with it.
    let running = unsafe { percpu::running() };
    match vector {
        NMI => {}
        DOUBLE_FAULT | MACHINE_CHECK => {
            regs.entry_vector = vector;
            panic::fault(regs);
        }
        _ => {
            let error_code = regs.error_code;
            trap::exception(&mut running.caller(regs), vector as u8, error_code);
        }
    }
    finish(running, regs);
}

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
    let is_from_guest = regs.cs & 3 != 0;
    let raised = regs.error_code;
    if is_from_guest {
        // SAFETY: this is the way in, and the reference ends with it.
        let running = unsafe { percpu::running() };
        serve(raised);
        finish(running, regs);
    } else {
        serve(raised);
    }
}

/// Does what an interrupt asks for at once, and leaves a note of the rest.
fn serve(raised: u32) {
    let Some(hv) = percpu::HYPERVISOR.get() else { return };
    match raised {
        vector::SPURIOUS => return,
        vector::TIMER => {
            let number = percpu::with_hardware(|cpu| cpu.number);
            if let Some(shared) = hv.cpus.get(number) {
                shared.work.fetch_or(trap::work::TIMER, Ordering::Relaxed);
            }
        }
        vector::FIRST_GSI..vector::END_GSI => {
            let gsi = raised - vector::FIRST_GSI;
            if gsi == hv.machine.console_gsi {
                console::receive(hv);
            } else {
                pirq::raise(hv, gsi);
            }
        }
        _ => {}
    }
    hv.machine.apic.end_of_interrupt();
}

/// The CPU refused to return to the guest with these registers.
pub(super) extern "sysv64" fn refused_return(regs: &mut Regs) {
    // SAFETY: this is the way in, and the reference ends with it.
    let running = unsafe { percpu::running() };
    trap::failsafe(&mut running.caller(regs));
    finish(running, regs);
}
