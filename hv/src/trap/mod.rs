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
    domain::{
        counters::Counted,
        debug::STATUS_FIXED,
        traps::{Callback, NMI},
    },
    machine::Machine,
    per_cpu::Work,
};
use core::sync::atomic::Ordering;
use oxen_abi::trace::{OXEN_TRC_UPCALL, TRC_64_FLAG, TRC_PV_TRAP, halves};
use x86_64::registers::debug::Dr6Flags;
use x86_64::registers::rflags::RFlags;

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

/// Bits of a page fault's error code (Intel SDM vol. 3A, 4.7).
mod error {
    use x86_64::structures::idt::PageFaultErrorCode;

    pub(super) const PRESENT: u32 = PageFaultErrorCode::PROTECTION_VIOLATION.bits() as u32;
    pub(super) const WRITE: u32 = PageFaultErrorCode::CAUSED_BY_WRITE.bits() as u32;
    pub(super) const USER: u32 = PageFaultErrorCode::USER_MODE.bits() as u32;
    pub(super) const FETCH: u32 = PageFaultErrorCode::INSTRUCTION_FETCH.bits() as u32;
}

impl<M: Machine> Caller<'_, M> {
    /// The CPU stopped at a breakpoint or after a step of the guest.
    #[inline(never)]
    fn raise_debug(&mut self, status: Dr6Flags) {
        self.state.debug_status = status | STATUS_FIXED;
        self.inject(vector::DEBUG, None);
    }

    /// An exception that the CPU raised in guest code, other than a page fault.
    #[inline]
    pub fn exception(&mut self, vector: u8, error_code: u32) {
        match vector {
            vector::GENERAL_PROTECTION => self.general_protection(error_code),
            vector::INVALID_OPCODE => self.invalid_opcode(),
            vector::DEBUG => {
                let status = self.hv.machine().take_debug_status();
                self.raise_debug(status);
            }
            vector::DEVICE_NOT_AVAILABLE => {
                self.state.task_switched = false;
                self.hv.machine().set_task_switched(false);
                self.inject(vector, None);
            }
            _ => self.inject(vector, has_error_code(vector).then_some(error_code)),
        }
    }

    /// Hands an exception to the guest's handler.
    #[inline]
    pub fn inject(&mut self, vector: u8, error_code: Option<u32>) {
        self.domain.counters.count(Counted::Exception);
        let handler = self.state.traps.handler(vector);
        if handler.address == 0 {
            return self.crash_by_exception(vector, error_code);
        }
        if self.hv.is_traced() {
            return self.inject_noted(handler.callback(), vector, error_code);
        }
        self.enter_kernel(handler.callback(), error_code);
    }

    #[cold]
    #[inline(never)]
    fn inject_noted(&mut self, handler: Callback, vector: u8, error_code: Option<u32>) {
        let [low, high] = halves(self.regs.rip);
        let code = error_code.map_or(0, |code| 1 << 15 | code << 16);
        self.hv.note_words(TRC_PV_TRAP | TRC_64_FLAG, &[low, high, u32::from(vector) | code]);
        self.enter_kernel(handler, error_code);
    }

    /// `int n` of the guest, for a vector that is not the CPU's own: to its handler if the privilege suffices.
    #[must_use = "a refused interrupt is a general protection fault"]
    pub fn software_interrupt(&mut self, vector: u8) -> bool {
        let handler = self.state.traps.handler(vector);
        let needed = if self.state.in_kernel { 1 } else { 3 };
        if handler.address == 0 || handler.privilege() < needed {
            return false;
        }
        self.enter_kernel(handler.callback(), None);
        true
    }

    /// `syscall` from the guest's user mode, to its kernel's callback.
    #[inline]
    pub fn user_syscall(&mut self) {
        self.enter_by_syscall(self.state.syscall_callback);
    }

    /// `syscall` from 32-bit user mode.
    pub fn user_syscall32(&mut self) {
        self.enter_by_syscall(self.state.syscall32_callback);
    }

    /// `sysenter` from user mode, which tells neither where it was nor on which stack: user mode and kernel agreed on
    /// that.
    pub fn user_sysenter(&mut self) {
        let callback = self.state.sysenter_callback;
        self.regs.rflags |= RFlags::INTERRUPT_FLAG;
        if callback.address == 0 || self.state.in_kernel {
            return self.inject(vector::GENERAL_PROTECTION, Some(0));
        }
        self.enter_kernel(callback, None);
    }

    #[inline]
    fn enter_by_syscall(&mut self, callback: Callback) {
        if callback.address == 0 {
            self.regs.rip = self.regs.rip.wrapping_sub(2);
            return self.inject(vector::INVALID_OPCODE, None);
        }
        self.enter_kernel_inline(callback, None);
    }

    /// What must still happen before the guest goes on: selectors and an NMI first, then the events that wait and are
    /// not masked.
    #[inline]
    pub fn deliver_pending(&mut self) {
        if !self.vcpu.work.load(Ordering::Relaxed).is_empty() && self.do_work() {
            return;
        }
        if self.state.info.wants_upcall() {
            let callback = Callback { masks_events: true, ..self.state.event_callback };
            if self.hv.is_traced() {
                self.hv.note_words(OXEN_TRC_UPCALL, &[self.domain.id.0.into(), self.vcpu.id]);
            }
            self.enter_kernel_inline(callback, None);
        }
    }

    /// Does what the vcpu's own work asks for; returns whether that entered the guest's kernel.
    #[cold]
    fn do_work(&mut self) -> bool {
        if self.vcpu.work.remove(Work::SELECTORS, Ordering::Relaxed).contains(Work::SELECTORS) && !self.load_selectors()
        {
            self.enter_failsafe();
            return true;
        }
        // Who has no handler yet loses it.
        if self.vcpu.work.remove(Work::NMI, Ordering::Relaxed).contains(Work::NMI) {
            let handler = self.state.traps.handler(NMI);
            if handler.address != 0 {
                self.enter_kernel(handler.callback(), None);
                return true;
            }
        }
        false
    }

    /// Loads the selectors that wait, now that the LDT's pages which they need can be taken.
    /// Returns whether the CPU has them.
    fn load_selectors(&mut self) -> bool {
        self.state.selectors_wait = false;
        for selector in self.state.selectors {
            self.take_ldt_page_of(selector.into());
        }
        self.hv.machine().load_segments(self.state)
    }

    /// The guest's descriptors do not allow its selectors any more: the failsafe callback hears which they were.
    fn enter_failsafe(&mut self) {
        let selectors = self.state.selectors;
        let callback = self.state.failsafe_callback;
        if callback.address == 0 {
            return self.inject(vector::GENERAL_PROTECTION, Some(0));
        }
        self.enter_kernel(callback, None);
        self.insert_selectors(selectors);
    }

    /// The CPU refused to return to the guest by its frame, with this exception: the guest's own, as if its code had
    /// met it.
    pub fn refused_return(&mut self, vector: u8, error_code: u32) {
        let (cs, ss) = (self.regs.cs, self.regs.ss);
        // A segment of the LDT may only not have been used yet.
        if !self.take_ldt_page_of(cs) && !self.take_ldt_page_of(ss) {
            self.inject(vector, has_error_code(vector).then_some(error_code));
        }
    }
}

/// Whether the CPU pushes an error code with this exception.
#[must_use]
pub const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}
