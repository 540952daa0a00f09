//! Into the guest's own handlers: the frame on its kernel stack, and the registers it starts with.
//!
//! From the stack pointer up: RCX, R11, the error code if the vector has one, RIP, CS with the saved event mask in its
//! upper half, RFLAGS, RSP, SS (`arch-x86/xen-x86_64.h`). A CS with privilege level 0 tells the guest's kernel that it
//! interrupted itself.

use crate::{
    addr::GuestAddr,
    caller::Caller,
    domain::{flags, traps::Callback},
    machine::Machine,
};
use oxen_abi::{
    segments::{FLAT_KERNEL_CS, FLAT_KERNEL_SS},
    vm_assist::VMASST_TYPE_ARCHITECTURAL_IOPL,
};

/// Flags that the CPU clears on the way into a handler (Intel SDM vol. 3A, 6.14), and the privilege that is ours.
const CLEARED_ON_ENTRY: u64 = flags::AC | flags::VM | flags::RF | flags::NT | flags::IOPL | flags::TF;

impl<M: Machine> Caller<'_, M> {
    /// Enters the guest's kernel at `to`. A guest whose stack takes no frame, or that registered no handler, is ended.
    #[inline(never)]
    pub fn enter_kernel(&mut self, to: Callback, error_code: Option<u32>) {
        self.enter_kernel_inline(to, error_code);
    }

    /// `enter`, inside its caller: for the ways that guests take often.
    #[inline(always)]
    pub fn enter_kernel_inline(&mut self, to: Callback, error_code: Option<u32>) {
        if to.address == 0 {
            return self.crash("an event for which the guest registered no handler");
        }
        let was_kernel = self.state.in_kernel;
        let top = if was_kernel { self.regs.rsp } else { self.state.kernel_sp } & !15;
        if !was_kernel {
            self.state.in_kernel = true;
            self.hv.machine().switch_mode(self.state);
        }
        let Some(rsp) = self.push_frame(top, was_kernel, error_code) else {
            return self.crash("the guest's kernel stack cannot be written");
        };
        if to.masks_events {
            self.state.info.set_upcall_mask(true);
        }
        let regs = &mut *self.regs;
        regs.rip = to.address;
        regs.cs = u64::from(FLAT_KERNEL_CS);
        regs.rflags = regs.rflags & !CLEARED_ON_ENTRY | flags::IF;
        regs.rsp = rsp;
        regs.ss = u64::from(FLAT_KERNEL_SS);
        regs.entry_vector = crate::domain::regs::Regs::SYSCALL_VECTOR;
    }

    /// Pushes the frame under `top`; the new stack pointer, or `None` where the guest has no such stack. In small
    /// parts, which stay in registers.
    #[inline(always)]
    fn push_frame(&self, top: u64, was_kernel: bool, error_code: Option<u32>) -> Option<u64> {
        let (machine, regs) = (self.hv.machine(), &*self.regs);
        let (rsp, rest) = match error_code {
            Some(code) => {
                let frame = GuestAddr::new(top.wrapping_sub(64)).words::<8>()?;
                machine.write_guest_words(frame.part::<0, 3>(), [regs.rcx, regs.r11, code.into()]).ok()?;
                (frame.start(), frame.part::<3, 5>())
            }
            None => {
                let frame = GuestAddr::new(top.wrapping_sub(56)).words::<7>()?;
                machine.write_guest_words(frame.part::<0, 2>(), [regs.rcx, regs.r11]).ok()?;
                (frame.start(), frame.part::<2, 5>())
            }
        };
        let masked = self.state.info.upcall_mask();
        let privilege = if was_kernel { 0 } else { regs.cs & 3 };
        let cs = regs.cs & 0xfffc | privilege | u64::from(masked) << 32;
        machine.write_guest_words(rest.part::<0, 2>(), [regs.rip, cs]).ok()?;
        let mut rflags = regs.rflags & !(flags::IF | flags::IOPL) | if masked { 0 } else { flags::IF };
        if self.domain.assists(VMASST_TYPE_ARCHITECTURAL_IOPL) {
            rflags |= u64::from(self.state.iopl) << 12;
        }
        machine.write_guest_words(rest.part::<2, 3>(), [rflags, regs.rsp, regs.ss]).ok()?;
        Some(rsp.as_u64())
    }

    /// Pushes words under `top`; the new stack pointer, or `None` where the guest has no such stack.
    #[inline]
    fn push_words<const N: usize>(&self, top: u64, frame: [u64; N]) -> Option<u64> {
        let place = GuestAddr::new(top.wrapping_sub(8 * N as u64)).words()?;
        self.hv.machine().write_guest_words(place, frame).ok()?;
        Some(place.start().as_u64())
    }

    /// Pushes DS, ES, FS and GS under the frame of the failsafe callback (`xen.h`, "failsafe_callback").
    pub fn push_selectors(&mut self, [ds, es, fs, gs]: [u16; 4]) {
        match self.push_words(self.regs.rsp, [ds.into(), es.into(), fs.into(), gs.into()]) {
            Some(rsp) => self.regs.rsp = rsp,
            None => self.crash("the guest's kernel stack cannot be written"),
        }
    }
}
