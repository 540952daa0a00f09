//! What the hypervisor does in place of an instruction that the CPU refused in ring 3.

use super::{
    decode::{self, Instruction, Operation, Port},
    inject, msr, ports, software_interrupt,
    strings::{self, Moved},
    vector,
};
use crate::{
    addr::{GuestAddr, MachineAddr, Mfn, PAGE_BYTES},
    caller::Caller,
    domain::{
        control_registers::{CR0_TS, CR4_GUEST, CR4_OSXSAVE, set_task_switched},
        counters::Counted,
        debug as registers,
    },
    machine::Machine,
    mem::editor::Editor,
    processor::cpuid,
    sched::wait,
};
use oxen_abi::segments::XEN_EMULATE_PREFIX;

/// Error codes of #GP: set when a gate of the IDT was at fault (Intel SDM vol. 3A, 6.13).
const ERROR_IN_IDT: u32 = 1 << 1;

/// CR0 as every PV guest sees it: protection, paging, numeric errors, write protection; TS is the guest's own.
const CR0: u64 = 0x8005_0033;
/// Why an instruction is not done.
enum Undone {
    /// It must go to the guest's handler after all.
    NotOurs,
    /// The guest goes on as it stands: with the rest of it, or in another handler.
    Over,
}
use Undone::NotOurs;

/// A general protection fault: `int n`, a privileged instruction, or the guest's own mistake.
#[inline(never)]
pub fn general_protection<M: Machine>(caller: &mut Caller<'_, M>, error_code: u32) {
    let (code, length) = fetch(caller);
    let instruction = code.get(..length).and_then(|code| decode::decode(code, caller.regs));
    if let Some(Instruction { length, operation: Operation::Interrupt { vector } }) = instruction {
        // QEMU 7.2 reports the wrong gate, so the instruction itself names the vector.
        caller.regs.rip = caller.regs.rip.wrapping_add(length.into());
        if software_interrupt(caller, vector) {
            return;
        }
        caller.regs.rip = caller.regs.rip.wrapping_sub(length.into());
        return inject(caller, vector::GENERAL_PROTECTION, Some(u32::from(vector) << 3 | ERROR_IN_IDT));
    }
    if let Some(Instruction { operation: Operation::Xsetbv, .. }) = instruction
        && caller.state.cr4 & CR4_OSXSAVE == 0
    {
        // The CPU lets every kernel have XSAVE; this one has not asked for it.
        return inject(caller, vector::INVALID_OPCODE, None);
    }
    if let Some(Instruction { length, operation }) = instruction
        && error_code == 0
    {
        let next = caller.regs.rip.wrapping_add(length.into());
        match perform(caller, operation) {
            Ok(()) => {
                caller.domain.counters.count(Counted::Privileged);
                caller.regs.rip = next;
                return;
            }
            Err(Undone::Over) => return,
            Err(Undone::NotOurs) => {}
        }
    }
    inject(caller, vector::GENERAL_PROTECTION, Some(error_code));
}

/// An undefined opcode: `cpuid` after the prefix that asks for emulation, or the guest's own.
#[inline(never)]
pub fn invalid_opcode<M: Machine>(caller: &mut Caller<'_, M>) {
    let (code, length) = fetch(caller);
    let after_prefix = code.get(..length).and_then(|code| code.strip_prefix(&XEN_EMULATE_PREFIX));
    let asks_cpuid = after_prefix.is_some_and(|rest| rest.starts_with(&[0x0f, 0xa2]));
    if asks_cpuid {
        let answer = cpuid::by_prefix(caller, caller.regs.rax as u32, caller.regs.rcx as u32);
        answer_cpuid(caller, answer);
        caller.domain.counters.count(Counted::ForcedCpuid);
        caller.regs.rip = caller.regs.rip.wrapping_add(XEN_EMULATE_PREFIX.len() as u64 + 2);
    } else {
        inject(caller, vector::INVALID_OPCODE, None);
    }
}

/// The bytes at RIP: as many as there are before an unmapped page, and how many that is.
pub(super) fn fetch<M: Machine>(caller: &Caller<'_, M>) -> ([u8; decode::MAX_LENGTH], usize) {
    let mut code = [0; decode::MAX_LENGTH];
    let rip = GuestAddr(caller.regs.rip);
    let in_page = (PAGE_BYTES - rip.offset()).min(code.len());
    for length in [code.len(), in_page] {
        let Some(bytes) = code.get_mut(..length) else { continue };
        if let Some(range) = rip.range(length as u64)
            && caller.hv.machine().read_guest(range, bytes).is_ok()
        {
            return (code, length);
        }
    }
    (code, 0)
}

fn perform<M: Machine>(caller: &mut Caller<'_, M>, operation: Operation) -> Result<(), Undone> {
    match operation {
        Operation::PortIn { port, bytes } => {
            let port = port_number(caller, port);
            let value = ports::read(caller, port, bytes).ok_or(NotOurs)?;
            caller.regs.set_general(0, bytes, value.into());
            Ok(())
        }
        Operation::PortOut { port, bytes } => {
            let port = port_number(caller, port);
            let value = caller.regs.rax as u32;
            ports::write(caller, port, bytes, value).then_some(()).ok_or(NotOurs)
        }
        Operation::String(string) => match strings::perform(caller, string) {
            Moved::Done => Ok(()),
            Moved::Stopped => Err(Undone::Over),
            Moved::Refused => Err(NotOurs),
        },
        Operation::Cli | Operation::Sti => ports::has_io_privilege(caller).then_some(()).ok_or(NotOurs),
        Operation::Rdtsc | Operation::Rdtscp => read_time_stamp(caller, operation),
        _ if caller.state.in_kernel => perform_for_kernel(caller, operation),
        _ => Err(NotOurs),
    }
}

/// The instruction is none, for this guest.
#[cold]
#[inline(never)]
fn undefined<M: Machine>(caller: &mut Caller<'_, M>) -> Undone {
    inject(caller, vector::INVALID_OPCODE, None);
    Undone::Over
}

/// What only the guest's kernel may do.
fn perform_for_kernel<M: Machine>(caller: &mut Caller<'_, M>, operation: Operation) -> Result<(), Undone> {
    match operation {
        Operation::Hlt => {
            caller.state.info.set_upcall_mask(false);
            wait::block(caller);
        }
        Operation::Clts => set_task_switched(caller, false),
        // Guests see write-back memory only: there is nothing that a flush could show them.
        Operation::Wbinvd => {}
        Operation::ReadMsr => {
            let value = msr::read(caller, caller.regs.rcx as u32).ok_or(NotOurs)?;
            set_edx_eax(caller, value);
        }
        Operation::WriteMsr => {
            let value = caller.regs.rdx << 32 | caller.regs.rax & 0xffff_ffff;
            let msr = caller.regs.rcx as u32;
            return msr::write(caller, msr, value).then_some(()).ok_or(NotOurs);
        }
        Operation::ReadControl { control, register } => {
            *caller.regs.general_mut(register) = read_control(caller, control).ok_or(NotOurs)?;
        }
        Operation::WriteControl { control, register } => {
            let value = caller.regs.general(register);
            return write_control(caller, control, value);
        }
        Operation::ReadDebug { debug, .. } | Operation::WriteDebug { debug, .. }
            if registers::is_reserved(caller.state, debug) =>
        {
            return Err(undefined(caller));
        }
        Operation::ReadDebug { debug, register } => {
            *caller.regs.general_mut(register) = registers::read(caller.state, debug).ok_or(NotOurs)?;
        }
        Operation::WriteDebug { debug, register } => {
            let value = caller.regs.general(register);
            return registers::write(caller, debug, value).map_err(|_| NotOurs);
        }
        Operation::Xsetbv => {
            let value = caller.regs.rdx << 32 | caller.regs.rax & 0xffff_ffff;
            let is_xcr0 = caller.regs.rcx as u32 == 0;
            return (is_xcr0 && caller.hv.machine().set_xcr0(value)).then_some(()).ok_or(NotOurs);
        }
        Operation::Cpuid => {
            let answer = cpuid::leaf(caller, caller.regs.rax as u32, caller.regs.rcx as u32);
            answer_cpuid(caller, answer);
        }
        Operation::Interrupt { .. }
        | Operation::Write { .. }
        | Operation::PortIn { .. }
        | Operation::PortOut { .. }
        | Operation::String(_)
        | Operation::Cli
        | Operation::Sti
        | Operation::Rdtsc
        | Operation::Rdtscp => return Err(NotOurs),
    }
    Ok(())
}

const fn port_number<M: Machine>(caller: &Caller<'_, M>, port: Port) -> u16 {
    match port {
        Port::Immediate(number) => number as u16,
        Port::Dx => caller.regs.rdx as u16,
    }
}

const fn set_edx_eax<M: Machine>(caller: &mut Caller<'_, M>, value: u64) {
    caller.regs.rax = value & 0xffff_ffff;
    caller.regs.rdx = value >> 32;
}

/// RDTSC faults only where the guest set CR4.TSD: its kernel may read the counter all the same, its user mode may not.
fn read_time_stamp<M: Machine>(caller: &mut Caller<'_, M>, operation: Operation) -> Result<(), Undone> {
    if !caller.state.in_kernel {
        return Err(NotOurs);
    }
    set_edx_eax(caller, caller.hv.machine().ticks());
    if operation == Operation::Rdtscp {
        caller.regs.rcx = caller.state.tsc_aux.into();
    }
    Ok(())
}

fn answer_cpuid<M: Machine>(caller: &mut Caller<'_, M>, [eax, ebx, ecx, edx]: [u32; 4]) {
    let regs = &mut *caller.regs;
    [regs.rax, regs.rbx, regs.rcx, regs.rdx] = [eax.into(), ebx.into(), ecx.into(), edx.into()];
}

fn read_control<M: Machine>(caller: &Caller<'_, M>, control: u8) -> Option<u64> {
    match control {
        0 => Some(CR0 | if caller.state.task_switched { CR0_TS } else { 0 }),
        2 => Some(caller.state.info.cr2()),
        3 => caller.state.kernel_root.map(|root| root.address().0),
        4 => Some(caller.state.cr4),
        _ => None,
    }
}

fn write_control<M: Machine>(caller: &mut Caller<'_, M>, control: u8, value: u64) -> Result<(), Undone> {
    match control {
        0 if value & !CR0_TS == CR0 => set_task_switched(caller, value & CR0_TS != 0),
        2 => caller.state.info.set_cr2(value),
        3 => {
            let root = Mfn::containing(MachineAddr(value)).ok_or(NotOurs)?;
            let mut editor = Editor::open(&caller.hv.memory, &caller.domain.memory).map_err(|_| NotOurs)?;
            editor.switch(caller.cpu, &mut caller.state.kernel_root, root).map_err(|_| NotOurs)?;
        }
        4 => {
            // What is not the guest's stays as it is, without a word.
            let value = caller.state.cr4 & !CR4_GUEST | value & CR4_GUEST;
            if !caller.hv.machine().set_guest_cr4(value) {
                return Err(NotOurs);
            }
            caller.state.cr4 = value;
        }
        _ => return Err(NotOurs),
    }
    Ok(())
}
