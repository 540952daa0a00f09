//! What the stubs call: exceptions of guests, of the hypervisor itself, and device interrupts.

use super::super::device::apic::vector;
use super::super::memory::window::Window;
use super::super::running::{self, CpuBlock};
use super::super::watchdog;
use super::super::{cpu, panic, percpu};
use super::{finish, fixup, leave};
use core::sync::atomic::Ordering;
use oxen_hv::domain::regs::Regs;
use x86_64::registers::rflags::RFlags;
use x86_64::structures::idt::{ExceptionVector, PageFaultErrorCode};

/// Vectors of the CPU's exceptions.
const DEBUG: u32 = ExceptionVector::Debug as u32;
const NMI: u32 = ExceptionVector::NonMaskableInterrupt as u32;
const PAGE_FAULT: u32 = ExceptionVector::Page as u32;
const DOUBLE_FAULT: u32 = ExceptionVector::Double as u32;
const MACHINE_CHECK: u32 = ExceptionVector::MachineCheck as u32;

/// A page fault in a guest. The stub looks for what waits, and returns with the registers as they then are.
pub(super) extern "sysv64" fn guest_page_fault(block: &CpuBlock) {
    // SAFETY: this is the way in, and the reference ends before the way out.
    let caller = unsafe { block.caller() };
    let error_code = caller.regs.error_code;
    let address = cpu::fault_address();
    match ldt_offset(address, error_code) {
        None => caller.page_fault(address, error_code),
        Some(offset) => caller.ldt_fault(offset, error_code),
    }
}

/// How far into the LDT a fault was that the CPU took while it looked for a descriptor: not as user, in ring 3.
#[inline]
fn ldt_offset(address: u64, error_code: u32) -> Option<u64> {
    const USER: u64 = PageFaultErrorCode::USER_MODE.bits();
    if u64::from(error_code) & USER != 0 {
        return None;
    }
    Window::of(percpu::this().number)?.ldt_offset(address)
}

/// Another exception in a guest, likewise.
pub(super) extern "sysv64" fn guest_exception(block: &CpuBlock, vector: u32) {
    // SAFETY: this is the way in, and the reference ends before the way out.
    let caller = unsafe { block.caller() };
    let error_code = caller.regs.error_code;
    caller.exception(vector as u8, error_code);
}

/// An exception in a guest for which the CPU has a stack of its own. Returns to it by `iretq`.
pub(super) extern "sysv64" fn guest_exception_on_own_stack(block: &CpuBlock, vector: u32) {
    // It comes and goes: until the guest goes on no other can come, so nothing that may take long is done here.
    if vector == NMI {
        return nmi(None);
    }
    if matches!(vector, DOUBLE_FAULT | MACHINE_CHECK) {
        // SAFETY: this is the way in; there is no way out.
        end(unsafe { block.caller() }.regs, vector);
    }
    guest_exception(block, vector);
    // SAFETY: no reference is left.
    unsafe { leave(block) };
}

unsafe extern "C" {
    safe static return_refused: u8;
}

/// An exception inside the hypervisor: either one that was foreseen where it happened, or the end.
///
/// What the instruction at RIP did not cause comes first: a breakpoint comes after the instruction that hit it, an NMI,
/// a double fault or a machine check between any two, and RIP may be at one that may fault by chance.
pub(super) extern "sysv64" fn hypervisor_exception(regs: &mut Regs, vector: u32) {
    match vector {
        // A guest's breakpoint on data that the hypervisor touched for it, or put off to the first instruction here.
        // Or a step of a program that ended in `sysenter`, which leaves the trap flag as it is; the program loses it.
        DEBUG => {
            let _ = cpu::take_debug_status();
            regs.rflags -= RFlags::TRAP_FLAG;
        }
        NMI => nmi(Some(regs)),
        DOUBLE_FAULT | MACHINE_CHECK => end(regs, vector),
        // The guest's memory, which shadows did not show yet: what was to be done with it is done again.
        PAGE_FAULT if fixup::find(regs.rip).is_some() && running::shows(cpu::fault_address(), regs.error_code) => {}
        _ => match fixup::find(regs.rip) {
            Some(target) => {
                if target == &raw const return_refused as u64 {
                    running::note_refusal(vector, regs.error_code);
                }
                regs.rip = target;
                // How the code learns of it, and guest memory closed (SMAP), as it may not come by the instruction that
                // closes it.
                regs.rflags = (regs.rflags - RFlags::ALIGNMENT_CHECK) | RFlags::CARRY_FLAG;
            }
            None => end(regs, vector),
        },
    }
}

/// Another CPU has found a bug, or it is the watchdog.
fn nmi(inside: Option<&Regs>) {
    panic::halt_if_stopping();
    watchdog::nmi(inside);
}

fn end(regs: &mut Regs, vector: u32) -> ! {
    regs.entry_vector = vector;
    panic::fault(regs);
}

/// A device interrupt in a guest. The stub left the vector in the error code's place.
pub(super) extern "sysv64" fn guest_interrupt(block: &CpuBlock) {
    // SAFETY: this is the way in, and no reference is kept.
    unsafe {
        serve((*block.frame.get()).error_code);
        finish(block);
    }
}

/// A device interrupt while the CPU idled.
pub(super) extern "sysv64" fn idle_interrupt(regs: &Regs) {
    serve(regs.error_code);
}

/// Does what an interrupt asks for at once, and leaves a note of the rest.
fn serve(raised: u32) {
    let Some(hv) = running::HYPERVISOR.get() else { return };
    match raised {
        vector::SPURIOUS => return,
        vector::TIMER => {
            let number = percpu::this().number;
            if let Some(shared) = hv.cpus.get(number) {
                shared.work.insert(oxen_hv::per_cpu::Work::TIMER, Ordering::Relaxed);
            }
        }
        vector::FLUSH => hv.machine().serve_shootdown(),
        vector::FIRST_PIRQ..vector::END_PIRQ => {
            let pirq = raised - vector::FIRST_PIRQ;
            if pirq == hv.machine().console_gsi {
                hv.receive_input();
            } else {
                hv.raise_pirq(pirq);
            }
        }
        _ => {}
    }
    hv.machine().apic.end_of_interrupt();
}

/// The CPU refused to return to the guest with the registers in its frame.
pub(super) extern "sysv64" fn refused_return(block: &CpuBlock) {
    // SAFETY: this is the way in, and the reference ends before the way out.
    unsafe {
        let (vector, error_code) = block.refusal();
        block.caller().refused_return(vector, error_code);
        finish(block);
    }
}
