//! `iret`: back to where an exception or event came from (`struct iret_context`, `arch-x86/xen-x86_64.h`).

use crate::{
    addr::GuestAddr,
    caller::{Args, Caller, Refusal, Reply},
    machine::Machine,
    trap::{self, flags},
};
use oxen_abi::segments::VGCF_IN_SYSCALL;

/// Returns to the context at the caller's stack pointer; the value for RAX comes from there.
///
/// # Errors
/// Never: a context that cannot be read or used ends the guest.
#[inline(never)]
pub fn iret<M: Machine>(caller: &mut Caller<'_, M>, _: &mut Args) -> Reply {
    let frame = GuestAddr(caller.regs.rsp);
    let words = if frame.is_guest_range(72) { caller.hv.machine.read_guest_words::<9>(frame).ok() } else { None };
    let Some([rax, r11, rcx, context_flags, rip, cs, rflags, rsp, ss]) = words else {
        return Err(Refusal::Crash(&"iret: the context at RSP cannot be read"));
    };
    if cs & 3 == 3 {
        if caller.state.user_root.is_none() {
            return Err(Refusal::Crash(
                &"iret: to user mode, but no user page tables are set (MMUEXT_NEW_USER_BASEPTR)",
            ));
        }
        caller.state.in_kernel = false;
        caller.hv.machine.switch_mode(caller.state);
    }
    if caller.domain.assists(trap::ARCHITECTURAL_IOPL) {
        caller.state.iopl = flags::iopl_of(rflags);
    }
    let regs = &mut *caller.regs;
    regs.rip = rip;
    regs.cs = cs & 0xffff | 3;
    regs.rflags = flags::for_guest(rflags);
    regs.rsp = rsp;
    regs.ss = ss & 0xffff | 3;
    if context_flags & u64::from(VGCF_IN_SYSCALL) == 0 {
        regs.entry_vector = 0;
        regs.r11 = r11;
        regs.rcx = rcx;
    }
    caller.state.info.set_upcall_mask(rflags & flags::IF == 0);
    Ok(rax)
}
