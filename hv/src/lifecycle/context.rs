//! A vcpu's whole state as the guest or the toolstack gives and gets it (`vcpu_guest_context`, `arch-x86/xen.h`).

use crate::{
    Hypervisor,
    addr::{GuestAddr, Mfn, PAGE_SHIFT, PAGE_SIZE},
    domain::{
        Domain,
        control_registers::{CR4_AT_START, CR4_GUEST},
        cpu_policy::CpuPolicy,
        debug, flags,
        regs::Regs,
        traps::{Callback, TrapHandler},
        vcpu::{ExtendedState, Pauses, Vcpu, VcpuState},
    },
    machine::Machine,
    mem::{RamFrame, editor::Editor, shadow::translated::Mode},
    reply::Stop,
    sched::clock,
};
use core::sync::atomic::Ordering;
use oxen_abi::{
    errno::Errno,
    guest_context::{CpuUserRegs, VcpuGuestContext},
    segments::{ContextFlags, FIRST_RESERVED_GDT_ENTRY},
    trap::TrapInfo,
    vm_assist::Assists,
};
use x86_64::registers::control::Cr0Flags;
use x86_64::registers::control::Cr4Flags;
use zerocopy::FromZeros;

/// Descriptors in a frame.
const DESCRIPTORS: u64 = PAGE_SIZE / 8;
/// Descriptors of an LDT at most.
const MAX_LDT_ENTRIES: u64 = 8192;
const RING_3: u16 = 3;
/// The bytes of FXSAVE's image that the CPU defines; the rest is software's, here the machine's.
const FXSAVE_DEFINED: usize = 464;

impl<M: Machine> Hypervisor<M> {
    /// Gives a context to a vcpu that no CPU has; the domain's `life` is held. With `VGCF_ONLINE` the vcpu is up, else
    /// down. Once it has a context, its tables change by hypercalls only: a second one must name the same.
    ///
    /// # Errors
    /// `Inval` for what no CPU or guest could have, `OpNotSupp` for other tables than before, `Busy` while a CPU has
    /// it, those of taking page tables and descriptor pages; `Unfinished`: call again, with the same context.
    #[inline(never)]
    pub fn set_context(&self, domain: &Domain, vcpu: &Vcpu, context: &VcpuGuestContext) -> Result<(), Stop> {
        judge(context)?;
        let absent_cr4 = domain.cpu_policy.lock().as_deref().map_or(Cr4Flags::empty(), CpuPolicy::absent_cr4);
        let mut slot = vcpu.slot.lock();
        let state = slot.as_mut().ok_or(Errno::Busy)?;
        if vcpu.is_initialised.load(Ordering::Acquire) {
            if !self.has_tables_of(domain, vcpu, state, context) {
                return Err(Errno::OpNotSupp.into());
            }
        } else {
            self.take_tables(domain, vcpu, state, context)?;
        }
        fill(state, context);
        state.cr4 -= absent_cr4;
        // Toolstacks clear the shared page when they have built the domain, and give the context last.
        clock::publish(&state.info, self.time_info(domain));
        if vcpu.id == 0 {
            self.write_wall_clock(domain);
            domain.memory.set_assists(Assists::from_bits_truncate(context.vm_assist));
        }
        vcpu.is_initialised.store(true, Ordering::Release);
        drop(slot);
        if flags_of(context).contains(ContextFlags::ONLINE) {
            self.unpause_vcpu(vcpu, Pauses::DOWN);
        } else {
            self.pause_vcpu(vcpu, Pauses::DOWN);
        }
        Ok(())
    }
}

/// What the context says of itself. Flags that mean nothing are left unread.
const fn flags_of(context: &VcpuGuestContext) -> ContextFlags {
    ContextFlags::from_word(context.flags)
}

fn judge(context: &VcpuGuestContext) -> Result<(), Errno> {
    let callbacks = [context.event_callback_eip, context.failsafe_callback_eip, context.syscall_callback_eip];
    let bases = [context.fs_base, context.gs_base_kernel, context.gs_base_user, context.ldt_base];
    let handlers = context.trap_ctxt.iter().map(|t| t.address);
    let mut addresses = handlers.chain(callbacks).chain(bases).chain([context.user_regs.rip]);
    let is_in_kernel = flags_of(context).contains(ContextFlags::IN_KERNEL);
    if !addresses.all(|a| GuestAddr::new(a).is_canonical())
        || context.gdt_ents > FIRST_RESERVED_GDT_ENTRY as u64
        || context.ldt_ents > MAX_LDT_ENTRIES
        || (context.ldt_ents != 0 && !is_ldt_range(context.ldt_base, context.ldt_ents))
        || (!is_in_kernel && user_root(context)?.is_none())
    {
        return Err(Errno::Inval);
    }
    kernel_root(context).map(|_| ())
}

fn is_ldt_range(base: u64, entries: u64) -> bool {
    base.is_multiple_of(PAGE_SIZE) && GuestAddr::new(base).is_guest_range(entries * 8)
}

fn kernel_root(context: &VcpuGuestContext) -> Result<Mfn, Errno> {
    let [_, _, _, cr3, ..] = context.ctrlreg;
    Mfn::new(cr3 >> PAGE_SHIFT).ok_or(Errno::Inval)
}

fn user_root(context: &VcpuGuestContext) -> Result<Option<Mfn>, Errno> {
    let [_, cr3, ..] = context.ctrlreg;
    if cr3 == 0 { Ok(None) } else { Mfn::new(cr3 >> PAGE_SHIFT).map(Some).ok_or(Errno::Inval) }
}

/// The frames of the GDT, as far as its entries reach.
fn gdt_frames(context: &VcpuGuestContext) -> &[u64] {
    let count = context.gdt_ents.div_ceil(DESCRIPTORS) as usize;
    context.gdt_frames.get(..count).unwrap_or(&context.gdt_frames)
}

impl<M: Machine> Hypervisor<M> {
    fn has_tables_of(&self, domain: &Domain, vcpu: &Vcpu, state: &VcpuState, context: &VcpuGuestContext) -> bool {
        let held = state.gdt.iter().map_while(|&page| page).map(|page| self.memory.told_of(&domain.memory, page.mfn()));
        self.root_number(domain, vcpu, state, Mode::Kernel) == kernel_root(context).ok().map(Mfn::raw)
            && u64::from(state.gdt_entries) == context.gdt_ents
            && (state.ldt_base, u64::from(state.ldt_entries)) == (context.ldt_base, context.ldt_ents)
            && held.eq(gdt_frames(context).iter().copied())
    }

    /// A root of a vcpu, as its guest names it.
    fn root_number(&self, domain: &Domain, vcpu: &Vcpu, state: &VcpuState, mode: Mode) -> Option<u64> {
        let root = if mode == Mode::Kernel { state.kernel_root } else { state.user_root };
        root.map(|root| root.mfn().raw()).or_else(|| self.memory.translated_root(domain.owner(), vcpu.id, mode))
    }

    /// Takes what the context refers to, or nothing. Roots that a preempted call took are in `state` already.
    fn take_tables(
        &self,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        context: &VcpuGuestContext,
    ) -> Result<(), Stop> {
        if domain.memory.is_translated() {
            let (kernel, user) = (kernel_root(context)?, user_root(context)?);
            let gdt = Editor::open(&self.memory, &domain.memory)?.take_gdt(gdt_frames(context))?;
            for (mode, root) in [(Mode::Kernel, Some(kernel)), (Mode::User, user)] {
                let set = self.memory.set_translated_root(domain.owner(), vcpu.id, mode, root.map(Mfn::raw));
                if let Err(error) = set {
                    Editor::open(&self.memory, &domain.memory)?.put_gdt(gdt);
                    return Err(error.into());
                }
            }
            state.gdt = gdt;
            return Ok(());
        }
        let taken = self.take_roots(domain, state, kernel_root(context)?, user_root(context)?).and_then(|()| {
            state.gdt = Editor::open(&self.memory, &domain.memory)?.take_gdt(gdt_frames(context))?;
            Ok(())
        });
        if !matches!(taken, Ok(()) | Err(Stop::Unfinished)) {
            // What cannot be given back at once stays in `state`, to be given back with the domain.
            let _stopped = self.memory.drop_roots(&domain.memory, &mut state.kernel_root, &mut state.user_root);
        }
        taken
    }

    fn take_roots(&self, domain: &Domain, state: &mut VcpuState, kernel: Mfn, user: Option<Mfn>) -> Result<(), Stop> {
        let is_other =
            |held: Option<RamFrame>, wanted: Option<Mfn>| held.is_some() && held.map(RamFrame::mfn) != wanted;
        if is_other(state.kernel_root, Some(kernel)) || is_other(state.user_root, user) {
            self.memory.drop_roots(&domain.memory, &mut state.kernel_root, &mut state.user_root)?;
        }
        if state.kernel_root.is_none() {
            state.kernel_root = Some(self.memory.adopt_root(&domain.memory, kernel)?);
        }
        if let Some(user) = user.filter(|_| state.user_root.is_none()) {
            let user = self.memory.adopt_root(&domain.memory, user)?;
            self.memory.hide_from_user_mode(&domain.memory, user);
            state.user_root = Some(user);
        }
        Ok(())
    }
}

/// What needs no frames. Everything was judged.
fn fill(state: &mut VcpuState, context: &VcpuGuestContext) {
    let user = &context.user_regs;
    state.regs = registers(user);
    state.selectors = [user.ds, user.es, user.fs, user.gs];
    state.in_kernel = flags_of(context).contains(ContextFlags::IN_KERNEL);
    // Linux sets it for its other vcpus here, and for the first by `physdev_op`.
    state.iopl = flags::iopl_of(context.user_regs.rflags);
    // A context does not tell of XCR0: it stays.
    let xcr0 = state.extended.xcr0();
    state.extended = extended_state(context);
    state.extended.set_xcr0(xcr0);
    for (handler, info) in state.traps.0.iter_mut().zip(&context.trap_ctxt) {
        *handler = TrapHandler { address: info.address, cs: info.cs | RING_3, flags: info.flags & 7 };
    }
    state.gdt_entries = context.gdt_ents as u16;
    state.ldt_base = context.ldt_base;
    state.ldt_entries = context.ldt_ents as u16;
    state.kernel_ss = context.kernel_ss & 0xffff | u64::from(RING_3);
    state.kernel_sp = context.kernel_sp;
    let [cr0, .., cr4, _, _, _] = context.ctrlreg;
    state.task_switched = Cr0Flags::from_bits_retain(cr0).contains(Cr0Flags::TASK_SWITCHED);
    state.cr4 = CR4_AT_START | Cr4Flags::from_bits_retain(cr4) & CR4_GUEST;
    for (number, &value) in (0..=u8::MAX).zip(&context.debugreg) {
        // A breakpoint that a guest may not have is none.
        let _refused = debug::set(state, number, value);
    }
    let callback = |address, flag| Callback { address, masks_events: flags_of(context).contains(flag) };
    state.event_callback = Callback { address: context.event_callback_eip, masks_events: true };
    state.failsafe_callback = callback(context.failsafe_callback_eip, ContextFlags::FAILSAFE_DISABLES_EVENTS);
    state.syscall_callback = callback(context.syscall_callback_eip, ContextFlags::SYSCALL_DISABLES_EVENTS);
    state.fs_base = context.fs_base;
    state.gs_base_kernel = context.gs_base_kernel;
    state.gs_base_user = context.gs_base_user;
}

fn registers(user: &CpuUserRegs) -> Regs {
    Regs {
        r15: user.r15,
        r14: user.r14,
        r13: user.r13,
        r12: user.r12,
        rbp: user.rbp,
        rbx: user.rbx,
        r11: user.r11,
        r10: user.r10,
        r9: user.r9,
        r8: user.r8,
        rax: user.rax,
        rcx: user.rcx,
        rdx: user.rdx,
        rsi: user.rsi,
        rdi: user.rdi,
        error_code: 0,
        // Not as after a system call: every register is loaded as it is here.
        entry_vector: 0,
        rip: user.rip,
        cs: (user.cs | RING_3).into(),
        rflags: flags::for_guest(user.rflags),
        rsp: user.rsp,
        ss: (user.ss | RING_3).into(),
    }
}

/// FXSAVE's image where the context has one, without what a CPU would refuse to load (Intel SDM vol. 1, 10.5.1).
fn extended_state(context: &VcpuGuestContext) -> ExtendedState {
    const MXCSR: usize = 24;
    /// Bits that every CPU has.
    const MXCSR_VALID: [u8; 4] = 0xffbf_u32.to_le_bytes();
    /// Where the header says which parts are there; x87 and SSE are.
    const XSTATE_BV: usize = 512;
    let mut extended = ExtendedState::RESET;
    if !flags_of(context).contains(ContextFlags::I387_VALID) {
        return extended;
    }
    for (byte, &given) in extended.0.iter_mut().zip(&context.fpu_ctxt).take(FXSAVE_DEFINED) {
        *byte = given;
    }
    for (byte, valid) in extended.0.iter_mut().skip(MXCSR).zip(MXCSR_VALID) {
        *byte &= valid;
    }
    if let Some(parts) = extended.0.get_mut(XSTATE_BV) {
        *parts = 3;
    }
    extended
}

impl<M: Machine> Hypervisor<M> {
    /// Copies the context of a vcpu that no CPU has.
    ///
    /// # Errors
    /// `NoData` for a vcpu without one, `Busy` while a CPU has it.
    #[inline(never)]
    pub fn get_context(&self, domain: &Domain, vcpu: &Vcpu, context: &mut VcpuGuestContext) -> Result<(), Errno> {
        if !vcpu.is_initialised.load(Ordering::Acquire) {
            return Err(Errno::NoData);
        }
        let slot = vcpu.slot.lock();
        let state = slot.as_ref().ok_or(Errno::Busy)?;
        context.zero();
        for (byte, &own) in context.fpu_ctxt.iter_mut().zip(&state.extended.0).take(FXSAVE_DEFINED) {
            *byte = own;
        }
        context.flags = context_flags(vcpu, state).bits().into();
        context.user_regs = user_registers(state);
        for (index, (info, handler)) in (0..=u8::MAX).zip(context.trap_ctxt.iter_mut().zip(&state.traps.0)) {
            let vector = if handler.address == 0 { 0 } else { index };
            *info = TrapInfo { vector, flags: handler.flags, cs: handler.cs, _pad: 0, address: handler.address };
        }
        context.ldt_base = state.ldt_base;
        context.ldt_ents = state.ldt_entries.into();
        for (place, page) in context.gdt_frames.iter_mut().zip(state.gdt) {
            *place = page.map_or(0, |page| self.memory.told_of(&domain.memory, page.mfn()));
        }
        context.gdt_ents = state.gdt_entries.into();
        context.kernel_ss = state.kernel_ss;
        context.kernel_sp = state.kernel_sp;
        let root = |mode| self.root_number(domain, vcpu, state, mode).map_or(0, |root| root << PAGE_SHIFT);
        let mut cr0 = Cr0Flags::empty();
        cr0.set(Cr0Flags::TASK_SWITCHED, state.task_switched);
        let cr4 = state.cr4.bits();
        context.ctrlreg = [cr0.bits(), root(Mode::User), 0, root(Mode::Kernel), cr4, 0, 0, 0];
        let [dr0, dr1, dr2, dr3] = state.breakpoints;
        context.debugreg = [dr0, dr1, dr2, dr3, 0, 0, state.debug_status.bits(), state.debug_control.bits()];
        context.event_callback_eip = state.event_callback.address;
        context.failsafe_callback_eip = state.failsafe_callback.address;
        context.syscall_callback_eip = state.syscall_callback.address;
        context.vm_assist = domain.memory.all_assists().bits();
        context.fs_base = state.fs_base;
        context.gs_base_kernel = state.gs_base_kernel;
        context.gs_base_user = state.gs_base_user;
        Ok(())
    }
}

fn context_flags(vcpu: &Vcpu, state: &VcpuState) -> ContextFlags {
    let mut flags = ContextFlags::I387_VALID;
    flags.set(ContextFlags::IN_KERNEL, state.in_kernel);
    flags.set(ContextFlags::FAILSAFE_DISABLES_EVENTS, state.failsafe_callback.masks_events);
    flags.set(ContextFlags::SYSCALL_DISABLES_EVENTS, state.syscall_callback.masks_events);
    flags.set(ContextFlags::ONLINE, !vcpu.pauses.load(Ordering::Relaxed).intersects(Pauses::DOWN));
    flags
}

fn user_registers(state: &VcpuState) -> CpuUserRegs {
    let (regs, [ds, es, fs, gs]) = (&state.regs, state.selectors);
    CpuUserRegs {
        r15: regs.r15,
        r14: regs.r14,
        r13: regs.r13,
        r12: regs.r12,
        rbp: regs.rbp,
        rbx: regs.rbx,
        r11: regs.r11,
        r10: regs.r10,
        r9: regs.r9,
        r8: regs.r8,
        rax: regs.rax,
        rcx: regs.rcx,
        rdx: regs.rdx,
        rsi: regs.rsi,
        rdi: regs.rdi,
        error_code: regs.error_code,
        entry_vector: regs.entry_vector,
        rip: regs.rip,
        cs: regs.cs as u16,
        saved_upcall_mask: state.info.upcall_mask().into(),
        rflags: ((regs.rflags - flags::IOPL) | flags::of_iopl(state.iopl)).bits(),
        rsp: regs.rsp,
        ss: regs.ss as u16,
        es,
        ds,
        fs,
        gs,
        ..CpuUserRegs::new_zeroed()
    }
}
