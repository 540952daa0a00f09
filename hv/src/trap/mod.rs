//! Everything that brings a guest into the hypervisor other than a hypercall, and the way back.
//!
//! An exception of the guest is either something that the hypervisor does for it ([`emulate`], a write to a page table)
//! or goes to the guest's own handler ([`bounce`]).

pub mod bounce;
pub mod decode;
pub mod emulate;
pub mod ldt;
pub mod msr;
pub mod page_fault;
pub mod ports;
pub mod strings;

use crate::{
    caller::Caller,
    domain::{counters::Counted, crash_by_exception, debug::STATUS_FIXED, flags, vcpu::Callback},
    machine::Machine,
    sched::work,
};
use core::sync::atomic::Ordering;

/// Vectors of exceptions (Intel SDM vol. 3A, table 6-1).
#[expect(missing_docs, reason = "the manual's own names")]
pub mod vector {
    pub const DEBUG: u8 = 1;
    pub const BREAKPOINT: u8 = 3;
    pub const OVERFLOW: u8 = 4;
    pub const INVALID_OPCODE: u8 = 6;
    pub const DEVICE_NOT_AVAILABLE: u8 = 7;
    pub const INVALID_TSS: u8 = 10;
    pub const SEGMENT_NOT_PRESENT: u8 = 11;
    pub const STACK_FAULT: u8 = 12;
    pub const GENERAL_PROTECTION: u8 = 13;
    pub const PAGE_FAULT: u8 = 14;
    pub const ALIGNMENT_CHECK: u8 = 17;
}

/// The CPU stopped at a breakpoint or after a step of the guest.
#[inline(never)]
fn raise_debug<M: Machine>(caller: &mut Caller<'_, M>, status: u64) {
    caller.state.debug_status = caller.state.debug_status & STATUS_FIXED & !0xf | status | STATUS_FIXED;
    inject(caller, vector::DEBUG, None);
}

/// An exception that the CPU raised in guest code, other than a page fault.
#[inline]
pub fn exception<M: Machine>(caller: &mut Caller<'_, M>, vector: u8, error_code: u32) {
    match vector {
        vector::GENERAL_PROTECTION => emulate::general_protection(caller, error_code),
        vector::INVALID_OPCODE => emulate::invalid_opcode(caller),
        vector::DEBUG => {
            let status = caller.hv.machine().take_debug_status();
            raise_debug(caller, status);
        }
        vector::DEVICE_NOT_AVAILABLE => {
            caller.state.task_switched = false;
            caller.hv.machine().set_task_switched(false);
            inject(caller, vector, None);
        }
        _ => inject(caller, vector, has_error_code(vector).then_some(error_code)),
    }
}

/// Whether the CPU pushes an error code with this exception.
#[must_use]
pub const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

/// Hands an exception to the guest's handler.
#[inline]
pub fn inject<M: Machine>(caller: &mut Caller<'_, M>, vector: u8, error_code: Option<u32>) {
    caller.domain.counters.count(Counted::Exception);
    let handler = caller.state.traps.handler(vector);
    if handler.address == 0 {
        return crash_by_exception(caller, vector, error_code);
    }
    bounce::enter(caller, handler.callback(), error_code);
}

/// `int n` of the guest, for a vector that is not the CPU's own: to its handler if the privilege suffices.
#[must_use = "a refused interrupt is a general protection fault"]
pub fn software_interrupt<M: Machine>(caller: &mut Caller<'_, M>, vector: u8) -> bool {
    let handler = caller.state.traps.handler(vector);
    let needed = if caller.state.in_kernel { 1 } else { 3 };
    if handler.address == 0 || handler.privilege() < needed {
        return false;
    }
    bounce::enter(caller, handler.callback(), None);
    true
}

/// `syscall` from the guest's user mode, to its kernel's callback.
#[inline]
pub fn user_syscall<M: Machine>(caller: &mut Caller<'_, M>) {
    enter_by_syscall(caller, caller.state.syscall_callback);
}

/// `syscall` from 32-bit user mode.
pub fn user_syscall32<M: Machine>(caller: &mut Caller<'_, M>) {
    enter_by_syscall(caller, caller.state.syscall32_callback);
}

/// `sysenter` from user mode, which tells neither where it was nor on which stack: user mode and kernel agreed on that.
pub fn user_sysenter<M: Machine>(caller: &mut Caller<'_, M>) {
    let callback = caller.state.sysenter_callback;
    caller.regs.rflags |= flags::IF;
    if callback.address == 0 || caller.state.in_kernel {
        return inject(caller, vector::GENERAL_PROTECTION, Some(0));
    }
    bounce::enter(caller, callback, None);
}

#[inline]
fn enter_by_syscall<M: Machine>(caller: &mut Caller<'_, M>, callback: Callback) {
    if callback.address == 0 {
        caller.regs.rip = caller.regs.rip.wrapping_sub(2);
        return inject(caller, vector::INVALID_OPCODE, None);
    }
    bounce::enter_at_once(caller, callback, None);
}

/// What must still happen before the guest goes on: selectors and an NMI first, then the events that wait and are not masked.
#[inline]
pub fn deliver_pending<M: Machine>(caller: &mut Caller<'_, M>) {
    if caller.vcpu.work.load(Ordering::Relaxed) != 0 && do_work(caller) {
        return;
    }
    if caller.state.info.wants_upcall() {
        let callback = Callback { masks_events: true, ..caller.state.event_callback };
        bounce::enter_at_once(caller, callback, None);
    }
}

/// Does what the vcpu's own work asks for; says whether that entered the guest's kernel.
#[cold]
fn do_work<M: Machine>(caller: &mut Caller<'_, M>) -> bool {
    if caller.vcpu.work.fetch_and(!work::SELECTORS, Ordering::Relaxed) & work::SELECTORS != 0 && !load_selectors(caller)
    {
        failsafe(caller);
        return true;
    }
    if caller.vcpu.work.load(Ordering::Relaxed) & work::NMI != 0 && caller.state.nmi_callback.address != 0 {
        caller.vcpu.work.fetch_and(!work::NMI, Ordering::Relaxed);
        let callback = Callback { masks_events: true, ..caller.state.nmi_callback };
        bounce::enter(caller, callback, None);
        return true;
    }
    false
}

/// Loads the selectors that wait, now that the LDT's pages which they need can be taken. Says whether the CPU has them.
fn load_selectors<M: Machine>(caller: &mut Caller<'_, M>) -> bool {
    caller.state.selectors_wait = false;
    for selector in caller.state.selectors {
        ldt::take_for(caller, selector.into());
    }
    caller.hv.machine().load_segments(caller.state)
}

/// The guest's descriptors do not allow its selectors any more: the failsafe callback hears which they were.
fn failsafe<M: Machine>(caller: &mut Caller<'_, M>) {
    let selectors = caller.state.selectors;
    let callback = caller.state.failsafe_callback;
    if callback.address == 0 {
        return inject(caller, vector::GENERAL_PROTECTION, Some(0));
    }
    bounce::enter(caller, callback, None);
    bounce::push_selectors(caller, selectors);
}

/// The CPU refused to return to the guest by its frame, with this exception: the guest's own, as if its code had met it.
pub fn refused_return<M: Machine>(caller: &mut Caller<'_, M>, vector: u8, error_code: u32) {
    let (cs, ss) = (caller.regs.cs, caller.regs.ss);
    // A segment of the LDT may only not have been used yet.
    if !ldt::take_for(caller, cs) && !ldt::take_for(caller, ss) {
        inject(caller, vector, has_error_code(vector).then_some(error_code));
    }
}
