//! `iret`: back to where an exception or event came from (`struct iret_context`, `arch-x86/xen-x86_64.h`).

use crate::{
    addr::GuestAddr,
    caller::Caller,
    domain::flags,
    machine::Machine,
    reply::{Args, Fault, Reply, Stop},
};
use oxen_abi::{segments::VGCF_IN_SYSCALL, vm_assist::VMASST_TYPE_ARCHITECTURAL_IOPL};

/// Returns to the context at the caller's stack pointer; the value for RAX comes from there.
///
/// # Errors
/// Never: a context that cannot be read or used ends the guest.
#[inline]
pub fn iret<M: Machine>(caller: &mut Caller<'_, M>, _: &mut Args) -> Reply {
    const UNREADABLE: Stop = Stop::Fatal(Fault::IretUnreadable);
    let frame = GuestAddr(caller.regs.rsp).words::<9>().ok_or(UNREADABLE)?;
    let machine = caller.hv.machine();
    let [rip, cs, rflags, rsp, ss] = machine.read_guest_words(frame.part::<4, 5>()).map_err(|_| UNREADABLE)?;
    let regs = &mut *caller.regs;
    regs.rip = rip;
    regs.cs = cs & 0xffff | 3;
    regs.rflags = flags::for_guest(rflags);
    regs.rsp = rsp;
    regs.ss = ss & 0xffff | 3;
    caller.state.info.set_upcall_mask(rflags & flags::IF == 0);
    if caller.domain.assists(VMASST_TYPE_ARCHITECTURAL_IOPL) {
        caller.state.iopl = flags::iopl_of(rflags);
    }
    let [rax, r11, rcx, context_flags] = machine.read_guest_words(frame.part::<0, 4>()).map_err(|_| UNREADABLE)?;
    if context_flags & u64::from(VGCF_IN_SYSCALL) == 0 {
        regs.entry_vector = 0;
        regs.r11 = r11;
        regs.rcx = rcx;
    }
    if cs & 3 == 3 {
        if caller.state.user_root.is_none() {
            return Err(Stop::Fatal(Fault::NoUserTables));
        }
        caller.state.in_kernel = false;
        caller.hv.machine().switch_mode(caller.state);
    }
    Ok(rax)
}
