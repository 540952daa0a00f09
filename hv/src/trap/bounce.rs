//! Into the guest's own handlers: the frame on its kernel stack, and the registers it starts with.
//!
//! From the stack pointer up: RCX, R11, the error code if the vector has one, RIP, CS with the saved event mask in its
//! upper half, RFLAGS, RSP, SS (`arch-x86/xen-x86_64.h`). A CS with privilege level 0 tells the guest's kernel that it
//! interrupted itself.

use crate::{
    addr::GuestAddr,
    caller::Caller,
    domain::{flags, regs::Regs, traps::Callback},
    machine::Machine,
    mem::GuestMemory,
};
use oxen_abi::{
    segments::{FLAT_KERNEL_CS, FLAT_KERNEL_SS},
    vm_assist::Assists,
};
use x86_64::registers::rflags::RFlags;

/// The privilege level in the selectors of whatever a guest runs.
const RING_3: u64 = 3;

/// Flags that the CPU clears on the way into a handler (Intel SDM vol. 3A, 6.14), and the privilege that is ours.
const CLEARED_ON_ENTRY: RFlags = RFlags::ALIGNMENT_CHECK
    .union(RFlags::VIRTUAL_8086_MODE)
    .union(RFlags::RESUME_FLAG)
    .union(RFlags::NESTED_TASK)
    .union(flags::IOPL)
    .union(RFlags::TRAP_FLAG);

impl<M: Machine> Caller<'_, M> {
    /// Enters the guest's kernel at `to`. A guest whose stack takes no frame, or that registered no handler, is ended.
    #[inline(never)]
    pub fn enter_kernel(&mut self, to: Callback, error_code: Option<u32>) {
        self.enter_kernel_inline(to, error_code);
    }

    /// The same, inside its caller: for the ways that guests take often.
    #[inline(always)]
    pub fn enter_kernel_inline(&mut self, to: Callback, error_code: Option<u32>) {
        if to.address == 0 {
            return self.crash("an event for which the guest registered no handler");
        }
        let machine = self.hv.machine();
        let (state, regs) = (&mut *self.state, &mut *self.regs);
        let (stack, privilege) = if state.in_kernel {
            (regs.rsp, 0)
        } else {
            state.in_kernel = true;
            machine.switch_mode(state);
            (state.kernel_sp, RING_3)
        };
        let is_masked = state.info.upcall_mask();
        let cs = regs.cs & 0xfffc | privilege | u64::from(is_masked) << 32;
        let mut rflags = regs.rflags - flags::IOPL;
        rflags.set(RFlags::INTERRUPT_FLAG, !is_masked);
        if self.domain.assists(Assists::ARCHITECTURAL_IOPL) {
            rflags |= flags::of_iopl(state.iopl);
        }
        let rflags = rflags.bits();
        let top = stack & !15;
        let pushed = match error_code {
            Some(code) => {
                push(machine, top, [regs.rcx, regs.r11, code.into(), regs.rip, cs, rflags, regs.rsp, regs.ss])
            }
            None => push(machine, top, [regs.rcx, regs.r11, regs.rip, cs, rflags, regs.rsp, regs.ss]),
        };
        let Some(rsp) = pushed else {
            return self.crash("the guest's kernel stack cannot be written");
        };
        if to.masks_events {
            state.info.set_upcall_mask(true);
        }
        regs.rip = to.address;
        regs.cs = u64::from(FLAT_KERNEL_CS);
        regs.rflags = (regs.rflags - CLEARED_ON_ENTRY) | RFlags::INTERRUPT_FLAG;
        regs.rsp = rsp;
        regs.ss = u64::from(FLAT_KERNEL_SS);
        regs.entry_vector = Regs::SYSCALL_VECTOR;
    }

    /// Puts DS, ES, FS and GS into the frame of the failsafe callback that was just pushed, between R11 and RIP, as Xen
    /// does: RCX and R11 stand lowest in every frame.
    pub fn insert_selectors(&mut self, [ds, es, fs, gs]: [u16; 4]) {
        let (rcx, r11) = (self.regs.rcx, self.regs.r11);
        let rip = self.regs.rsp.wrapping_add(2 * 8);
        match push(self.hv.machine(), rip, [rcx, r11, ds.into(), es.into(), fs.into(), gs.into()]) {
            Some(rsp) => self.regs.rsp = rsp,
            None => self.crash("the guest's kernel stack cannot be written"),
        }
    }
}

/// Pushes words under `top`; the new stack pointer, or `None` where the guest has no such stack.
#[inline(always)]
fn push<const N: usize>(machine: &impl GuestMemory, top: u64, frame: [u64; N]) -> Option<u64> {
    let place = GuestAddr::new(top.wrapping_sub(8 * N as u64)).words()?;
    machine.write_guest_words(place, frame).ok()?;
    Some(place.start().as_u64())
}
