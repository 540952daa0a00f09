//! The end: what went wrong, where, and a loud stop.

use super::device::{patience, power};
use super::{cpu, percpu, running, symbols};
use crate::log;
use core::arch::asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};
use oxen_hv::domain::regs::Regs;

/// What `isa-debug-exit` is told.
const FAILURE: u32 = 0x11;
/// Words of the stack that a backtrace looks at, and calls that it shows.
const WORDS: usize = 4096;
const CALLS: usize = 24;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let stack: u64;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) }
    announce();
    match info.location() {
        Some(place) => log!("Panic at {}:{}: {}", place.file(), place.line(), info.message()),
        None => log!("Panic: {}", info.message()),
    }
    backtrace(stack);
    stop()
}

/// Ends after an exception in the hypervisor that nobody foresaw.
pub(super) fn fault(regs: &Regs) -> ! {
    announce();
    log!("Exception {} inside the hypervisor, error code {:#x}", regs.entry_vector, regs.error_code);
    end_at(regs)
}

/// Ends, after [`announce`], with where the hypervisor was interrupted.
pub(super) fn end_at(regs: &Regs) -> ! {
    registers(regs);
    if symbols::is_text(regs.rip) {
        frame(regs.rip);
    }
    backtrace(regs.rsp);
    stop()
}

/// Prints the registers and the fault address.
pub(super) fn registers(r: &Regs) {
    let cr2 = cpu::fault_address();
    log!("rip {:04x}:{:016x} flags {:08x} rsp {:04x}:{:016x} cr2 {cr2:016x}", r.cs, r.rip, r.rflags, r.ss, r.rsp);
    log!("rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx);
    log!("rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", r.rsi, r.rdi, r.rbp, r.r8);
    log!("r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", r.r9, r.r10, r.r11, r.r12);
    log!("r13 {:016x} r14 {:016x} r15 {:016x}", r.r13, r.r14, r.r15);
}

/// The CPU that has found the end, if one has.
static STOPPING: AtomicUsize = AtomicUsize::new(NOBODY);
const NOBODY: usize = usize::MAX;

/// An NMI came: it stops this CPU if another one has found a bug.
pub(super) fn halt_if_stopping() {
    let by = STOPPING.load(Ordering::SeqCst);
    if by != NOBODY && by != percpu::this().number {
        power::halt();
    }
}

/// A panic while panicking must not go round, and the other CPUs go no further.
pub(super) fn announce() {
    patience::end();
    match STOPPING.compare_exchange(NOBODY, percpu::this().number, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        // Another one speaks.
        Err(by) if by != percpu::this().number => power::halt(),
        Err(_) => {
            power::debug_exit(FAILURE);
            power::halt();
        }
    }
    if let Some(hv) = running::HYPERVISOR.get() {
        hv.machine().apic.interrupt_others_now();
    }
    log!("\n**** Oxen stops: a bug in the hypervisor");
}

/// Names whatever on the stack looks like a return address: code is built without frame pointers.
fn backtrace(stack: u64) {
    let Some(words) = running::stack_from(stack) else { return log!("rsp is outside the stack") };
    let calls = words.iter().take(WORDS).filter(|&&word| symbols::is_text(word)).take(CALLS);
    calls.for_each(|&word| frame(word));
}

fn frame(address: u64) {
    match symbols::find(address) {
        Some((name, offset)) => log!("  {address:016x} {name}+{offset:#x}"),
        None => log!("  {address:016x}"),
    }
}

fn stop() -> ! {
    power::debug_exit(FAILURE);
    power::halt()
}
