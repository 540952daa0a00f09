//! Into the guest's own handlers: the frame on its kernel stack, and the registers it starts with.
//!
//! From the stack pointer up: RCX, R11, the error code if the vector has one, RIP, CS with the saved event mask in its
//! upper half, RFLAGS, RSP, SS (`arch-x86/xen-x86_64.h`). A CS with privilege level 0 tells the guest's kernel that it
//! interrupted itself.

use crate::{
    addr::GuestAddr,
    caller::Caller,
    domain::{crash, flags, vcpu::Callback},
    machine::Machine,
};
use oxen_abi::{
    segments::{FLAT_KERNEL_CS, FLAT_KERNEL_SS},
    vm_assist::VMASST_TYPE_ARCHITECTURAL_IOPL,
};

/// Flags that the CPU clears on the way into a handler (Intel SDM vol. 3A, 6.14), and the privilege that is ours.
const CLEARED_ON_ENTRY: u64 = flags::AC | flags::VM | flags::RF | flags::NT | flags::IOPL | flags::TF;

/// Enters the guest's kernel at `to`. A guest whose stack takes no frame, or that registered no handler, is ended.
#[inline(never)]
pub fn enter<M: Machine>(caller: &mut Caller<'_, M>, to: Callback, error_code: Option<u32>) {
    enter_at_once(caller, to, error_code);
}

/// [`enter`], inside its caller: for the ways that guests take often.
#[inline(always)]
pub fn enter_at_once<M: Machine>(caller: &mut Caller<'_, M>, to: Callback, error_code: Option<u32>) {
    if to.address == 0 {
        return crash(caller, "an event for which the guest registered no handler");
    }
    let was_kernel = caller.state.in_kernel;
    let top = if was_kernel { caller.regs.rsp } else { caller.state.kernel_sp } & !15;
    if !was_kernel {
        caller.state.in_kernel = true;
        caller.hv.machine().switch_mode(caller.state);
    }
    let Some(rsp) = push_frame(caller, top, was_kernel, error_code) else {
        return crash(caller, "the guest's kernel stack cannot be written");
    };
    if to.masks_events {
        caller.state.info.set_upcall_mask(true);
    }
    let regs = &mut *caller.regs;
    regs.rip = to.address;
    regs.cs = u64::from(FLAT_KERNEL_CS);
    regs.rflags = regs.rflags & !CLEARED_ON_ENTRY | flags::IF;
    regs.rsp = rsp;
    regs.ss = u64::from(FLAT_KERNEL_SS);
    regs.entry_vector = crate::domain::regs::Regs::SYSCALL_VECTOR;
}

/// Pushes the frame under `top`; the new stack pointer, or `None` where the guest has no such stack. In small parts, which
/// stay in registers.
#[inline(always)]
fn push_frame<M: Machine>(caller: &Caller<'_, M>, top: u64, was_kernel: bool, error_code: Option<u32>) -> Option<u64> {
    let (machine, regs) = (caller.hv.machine(), &*caller.regs);
    let (rsp, rest) = match error_code {
        Some(code) => {
            let frame = GuestAddr(top.wrapping_sub(64)).words::<8>()?;
            machine.write_guest_words(frame.part::<0, 3>(), [regs.rcx, regs.r11, code.into()]).ok()?;
            (frame.start(), frame.part::<3, 5>())
        }
        None => {
            let frame = GuestAddr(top.wrapping_sub(56)).words::<7>()?;
            machine.write_guest_words(frame.part::<0, 2>(), [regs.rcx, regs.r11]).ok()?;
            (frame.start(), frame.part::<2, 5>())
        }
    };
    let masked = caller.state.info.upcall_mask();
    let privilege = if was_kernel { 0 } else { regs.cs & 3 };
    let cs = regs.cs & 0xfffc | privilege | u64::from(masked) << 32;
    machine.write_guest_words(rest.part::<0, 2>(), [regs.rip, cs]).ok()?;
    let mut rflags = regs.rflags & !(flags::IF | flags::IOPL) | if masked { 0 } else { flags::IF };
    if caller.domain.assists(VMASST_TYPE_ARCHITECTURAL_IOPL) {
        rflags |= u64::from(caller.state.iopl) << 12;
    }
    machine.write_guest_words(rest.part::<2, 3>(), [rflags, regs.rsp, regs.ss]).ok()?;
    Some(rsp.0)
}

/// Pushes words under `top`; the new stack pointer, or `None` where the guest has no such stack.
#[inline]
fn push<M: Machine, const N: usize>(caller: &Caller<'_, M>, top: u64, frame: [u64; N]) -> Option<u64> {
    let place = GuestAddr(top.wrapping_sub(8 * N as u64)).words()?;
    caller.hv.machine().write_guest_words(place, frame).ok()?;
    Some(place.start().0)
}

/// Pushes DS, ES, FS and GS under the frame of the failsafe callback (`xen.h`, "failsafe_callback").
pub fn push_selectors<M: Machine>(caller: &mut Caller<'_, M>, [ds, es, fs, gs]: [u16; 4]) {
    match push(caller, caller.regs.rsp, [ds.into(), es.into(), fs.into(), gs.into()]) {
        Some(rsp) => caller.regs.rsp = rsp,
        None => crash(caller, "the guest's kernel stack cannot be written"),
    }
}
