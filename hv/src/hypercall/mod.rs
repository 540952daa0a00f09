//! Hypercalls: one exhaustive match, one line per call.

pub mod batch;
pub mod console;
pub mod domctl;
pub mod event;
pub mod grant;
pub mod guest_setup;
pub mod iret;
pub mod memory;
mod memory_map;
pub mod mmu;
pub mod mmuext;
pub mod physdev;
pub mod platform;
pub mod sched;
pub mod stubs;
pub mod sysctl;
pub mod vcpu;
pub mod version;

use crate::{
    caller::{Args, Caller, Refusal, Reply},
    domain,
    machine::Machine,
};
use oxen_abi::{errno::Errno, hypercall::Hypercall};

/// Bytes of the `syscall` instruction: how far back a preempted caller is set to execute it again.
const SYSCALL_BYTES: u64 = 2;

/// Executes the hypercall that the caller's registers name, and answers in them.
#[inline]
pub fn execute<M: Machine>(caller: &mut Caller<'_, M>) {
    let regs = &caller.regs;
    let mut args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
    let number = regs.rax as u32;
    match call(caller, number, &mut args) {
        Ok(value) => caller.regs.rax = value,
        Err(refusal) => refuse(caller, refusal, args),
    }
}

/// Answers a hypercall that has no value.
#[cold]
fn refuse<M: Machine>(caller: &mut Caller<'_, M>, refusal: Refusal, args: Args) {
    match refusal {
        Refusal::Tell(error) => caller.regs.rax = error.to_return_value(),
        Refusal::Preempted => {
            let regs = &mut *caller.regs;
            [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
            regs.rip = regs.rip.wrapping_sub(SYSCALL_BYTES);
        }
        Refusal::Crash(reason) => domain::crash(caller, reason),
    }
}

/// Executes one hypercall by number, called directly or from a batch.
#[inline]
fn call<M: Machine>(caller: &mut Caller<'_, M>, number: u32, args: &mut Args) -> Reply {
    let Ok(hypercall) = Hypercall::try_from(u64::from(number)) else { return Err(Errno::NoSys.into()) };
    match hypercall {
        Hypercall::SetTrapTable => guest_setup::set_trap_table(caller, args),
        Hypercall::MmuUpdate => mmu::mmu_update(caller, args),
        Hypercall::SetGdt => guest_setup::set_gdt(caller, args),
        Hypercall::StackSwitch => guest_setup::stack_switch(caller, args),
        Hypercall::SetCallbacks => guest_setup::set_callbacks(caller, args),
        Hypercall::FpuTaskswitch => guest_setup::fpu_taskswitch(caller, args),
        Hypercall::SchedOpCompat => sched::sched_op_compat(caller, args),
        Hypercall::PlatformOp => platform::platform_op(caller, args),
        Hypercall::SetDebugreg => guest_setup::set_debugreg(caller, args),
        Hypercall::GetDebugreg => guest_setup::get_debugreg(caller, args),
        Hypercall::UpdateDescriptor => guest_setup::update_descriptor(caller, args),
        Hypercall::MemoryOp => memory::memory_op(caller, args),
        Hypercall::Multicall => batch::multicall(caller, args),
        Hypercall::UpdateVaMapping => mmu::update_va_mapping(caller, args),
        Hypercall::SetTimerOp => sched::set_timer_op(caller, args),
        Hypercall::XenVersion => version::xen_version(caller, args),
        Hypercall::ConsoleIo => console::console_io(caller, args),
        Hypercall::GrantTableOp => grant::grant_table_op(caller, args),
        Hypercall::VmAssist => guest_setup::vm_assist(caller, args),
        Hypercall::UpdateVaMappingOtherdomain => mmu::update_va_mapping_otherdomain(caller, args),
        Hypercall::Iret => iret::iret(caller),
        Hypercall::VcpuOp => vcpu::vcpu_op(caller, args),
        Hypercall::SetSegmentBase => guest_setup::set_segment_base(caller, args),
        Hypercall::MmuextOp => mmuext::mmuext_op(caller, args),
        Hypercall::SchedOp => sched::sched_op(caller, args),
        Hypercall::CallbackOp => guest_setup::callback_op(caller, args),
        Hypercall::EventChannelOp => event::event_channel_op(caller, args),
        Hypercall::PhysdevOp => physdev::physdev_op(caller, args),
        Hypercall::Sysctl => sysctl::sysctl(caller, args),
        Hypercall::Domctl => domctl::domctl(caller, args),
        Hypercall::XenpmuOp => Err(Errno::OpNotSupp.into()),
        // Interfaces of old that no 64-bit guest needs, and what belongs to other kinds of guests or to builds of Xen with
        // more in them: docs/hypercalls.md.
        Hypercall::EventChannelOpCompat
        | Hypercall::PhysdevOpCompat
        | Hypercall::XsmOp
        | Hypercall::NmiOp
        | Hypercall::XenoprofOp
        | Hypercall::HvmOp
        | Hypercall::KexecOp
        | Hypercall::TmemOp
        | Hypercall::ArgoOp
        | Hypercall::DmOp
        | Hypercall::HypfsOp
        | Hypercall::Mca => Err(Errno::NoSys.into()),
    }
}
