//! `iret`: back to where an exception or event came from (`struct iret_context`, `arch-x86/xen-x86_64.h`).

use crate::{
    addr::GuestAddr,
    caller::Caller,
    domain::flags,
    machine::Machine,
    mem::shadow::translated::Mode,
    reply::{Args, Fault, Reply, Stop},
};
use oxen_abi::{segments::ContextFlags, vm_assist::Assists};
use x86_64::registers::rflags::RFlags;

impl<M: Machine> Caller<'_, M> {
    /// Returns to the context at the caller's stack pointer; the value for RAX comes from there.
    ///
    /// # Errors
    /// Never: a context that cannot be read or used ends the guest.
    #[inline]
    pub fn iret(&mut self, _: &mut Args) -> Reply {
        const UNREADABLE: Stop = Stop::Fatal(Fault::IretUnreadable);
        let frame = GuestAddr::new(self.regs.rsp).words::<9>().ok_or(UNREADABLE)?;
        let context = self.hv.machine().read_guest_words(frame).map_err(|_| UNREADABLE)?;
        let [rax, r11, rcx, context_flags, rip, cs, rflags, rsp, ss] = context;
        let regs = &mut *self.regs;
        regs.rip = rip;
        regs.cs = cs & 0xffff | 3;
        regs.rflags = flags::for_guest(rflags);
        regs.rsp = rsp;
        regs.ss = ss & 0xffff | 3;
        if !ContextFlags::from_word(context_flags).contains(ContextFlags::IN_SYSCALL) {
            regs.entry_vector = 0;
            regs.r11 = r11;
            regs.rcx = rcx;
        }
        self.state.info.set_upcall_mask(!RFlags::from_bits_retain(rflags).contains(RFlags::INTERRUPT_FLAG));
        if self.domain.assists(Assists::ARCHITECTURAL_IOPL) {
            self.state.iopl = flags::iopl_of(rflags);
        }
        if cs & 3 == 3 {
            if self.state.user_root.is_none() && !self.has_numbered_root(Mode::User) {
                return Err(Stop::Fatal(Fault::NoUserTables));
            }
            self.state.in_kernel = false;
            self.hv.machine().switch_mode(self.state);
        }
        Ok(rax)
    }
}
