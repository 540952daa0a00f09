//! What the hypervisor does in place of an instruction that the CPU refused in ring 3.

use super::{
    decode::{self, Code, Instruction, Operation, Port},
    strings::Moved,
    vector,
};
use crate::{
    addr::{GuestAddr, MachineAddr, Mfn, PAGE_SHIFT},
    caller::Caller,
    domain::{
        control_registers::{CR0, CR4_GUEST},
        counters::Counted,
        cpu_policy::CpuPolicy,
        debug as registers,
    },
    machine::Machine,
    mem::{editor::Editor, shadow::translated::Mode},
};
use oxen_abi::segments::XEN_EMULATE_PREFIX;
use oxen_abi::trace::{TRC_64_FLAG, TRC_PV_EMULATE_PRIVOP, TRC_PV_FORCED_INVALID_OP, halves};
use x86_64::registers::control::Cr0Flags;
use x86_64::registers::control::Cr4Flags;

/// Error codes of #GP: set when a gate of the IDT was at fault (Intel SDM vol. 3A, 6.13).
const ERROR_IN_IDT: u32 = 1 << 1;

/// The opcode of `int n`.
const INT: u8 = 0xcd;

/// Why an instruction is not done.
enum Undone {
    /// It must go to the guest's handler after all.
    NotOurs,
    /// The guest goes on as it stands: with the rest of it, or in another handler.
    Over,
}
use Undone::NotOurs;

impl<M: Machine> Caller<'_, M> {
    /// A general protection fault: `int n`, a privileged instruction, or the guest's own mistake.
    #[inline(never)]
    pub fn general_protection(&mut self, error_code: u32) {
        // QEMU 7.2 reports the wrong gate, so the instruction itself names the vector.
        if error_code & ERROR_IN_IDT != 0
            && let Some(place) = GuestAddr::new(self.regs.rip).words()
            && let Ok([word]) = self.hv.machine().read_guest_words(place)
            && let [INT, vector, ..] = word.to_le_bytes()
        {
            return self.interrupt_by_instruction(vector, 2);
        }
        let code = self.fetch_instruction();
        let instruction = decode::decode(code.bytes(), self.regs);
        if let Some(Instruction { length, operation: Operation::Interrupt { vector } }) = instruction {
            return self.interrupt_by_instruction(vector, length);
        }
        if let Some(Instruction { operation: Operation::Xsetbv, .. }) = instruction
            && !self.state.cr4.contains(Cr4Flags::OSXSAVE)
        {
            // The CPU lets every kernel have XSAVE; this one has not asked for it.
            return self.inject(vector::INVALID_OPCODE, None);
        }
        if let Some(Instruction { length, operation }) = instruction
            && error_code == 0
        {
            let next = self.regs.rip.wrapping_add(length.into());
            match self.perform_operation(operation) {
                Ok(()) => {
                    self.domain.counters.count(Counted::Privileged);
                    self.regs.rip = next;
                    if self.hv.is_traced() {
                        self.note_emulated(TRC_PV_EMULATE_PRIVOP, length.into());
                    }
                    return;
                }
                Err(Undone::Over) => return,
                Err(Undone::NotOurs) => {}
            }
        }
        self.inject(vector::GENERAL_PROTECTION, Some(error_code));
    }

    /// `int n`, in an instruction of so many bytes.
    #[inline(always)]
    fn interrupt_by_instruction(&mut self, vector: u8, length: u8) {
        self.regs.rip = self.regs.rip.wrapping_add(length.into());
        if self.software_interrupt(vector) {
            return;
        }
        self.regs.rip = self.regs.rip.wrapping_sub(length.into());
        self.inject(vector::GENERAL_PROTECTION, Some(u32::from(vector) << 3 | ERROR_IN_IDT));
    }

    /// An undefined opcode: `cpuid` after the prefix that asks for emulation, or the guest's own.
    #[inline(never)]
    pub fn invalid_opcode(&mut self) {
        let code = self.fetch_instruction();
        let after_prefix = code.bytes().strip_prefix(&XEN_EMULATE_PREFIX);
        let asks_cpuid = after_prefix.is_some_and(|rest| rest.starts_with(&[0x0f, 0xa2]));
        if asks_cpuid {
            let answer = self.cpuid_by_prefix(self.regs.rax as u32, self.regs.rcx as u32);
            self.answer_cpuid(answer);
            self.domain.counters.count(Counted::ForcedCpuid);
            let length = XEN_EMULATE_PREFIX.len() as u64 + 2;
            self.regs.rip = self.regs.rip.wrapping_add(length);
            if self.hv.is_traced() {
                self.note_emulated(TRC_PV_FORCED_INVALID_OP, length);
            }
        } else {
            self.inject(vector::INVALID_OPCODE, None);
        }
    }

    #[cold]
    #[inline(never)]
    fn note_emulated(&self, event: u32, length: u64) {
        let rip = self.regs.rip.wrapping_sub(length);
        self.hv.note_words(event | TRC_64_FLAG, &halves(rip));
    }

    /// What stands at RIP.
    #[inline(always)]
    pub(super) fn fetch_instruction(&self) -> Code {
        Code::at(self.hv.machine(), GuestAddr::new(self.regs.rip))
    }

    fn perform_operation(&mut self, operation: Operation) -> Result<(), Undone> {
        match operation {
            Operation::PortIn { port, bytes } => {
                let port = self.port_number(port);
                let value = self.port_in(port, bytes).ok_or(NotOurs)?;
                self.regs.set_general(0, bytes, value.into());
                Ok(())
            }
            Operation::PortOut { port, bytes } => {
                let port = self.port_number(port);
                let value = self.regs.rax as u32;
                self.port_out(port, bytes, value).then_some(()).ok_or(NotOurs)
            }
            Operation::String(string) => match self.move_string(string) {
                Moved::Done => Ok(()),
                Moved::Stopped => Err(Undone::Over),
                Moved::Refused => Err(NotOurs),
            },
            Operation::Cli | Operation::Sti => self.has_io_privilege().then_some(()).ok_or(NotOurs),
            Operation::Rdtsc | Operation::Rdtscp => self.read_time_stamp(operation),
            _ if self.state.in_kernel => self.perform_for_kernel(operation),
            _ => Err(NotOurs),
        }
    }

    /// The instruction is none, for this guest.
    #[cold]
    #[inline(never)]
    fn raise_undefined(&mut self) -> Undone {
        self.inject(vector::INVALID_OPCODE, None);
        Undone::Over
    }

    /// What only the guest's kernel may do.
    fn perform_for_kernel(&mut self, operation: Operation) -> Result<(), Undone> {
        match operation {
            Operation::Hlt => {
                self.state.info.set_upcall_mask(false);
                self.block();
            }
            Operation::Clts => self.set_task_switched(false),
            // Guests see write-back memory only: there is nothing that a flush could show them.
            Operation::Wbinvd => {}
            Operation::ReadMsr => {
                let value = self.read_msr(self.regs.rcx as u32).ok_or(NotOurs)?;
                self.set_edx_eax(value);
            }
            Operation::WriteMsr => {
                let value = self.regs.rdx << 32 | self.regs.rax & 0xffff_ffff;
                let msr = self.regs.rcx as u32;
                return self.write_msr(msr, value).then_some(()).ok_or(NotOurs);
            }
            Operation::ReadControl { control, register } => {
                *self.regs.general_mut(register) = self.read_control_register(control).ok_or(NotOurs)?;
            }
            Operation::WriteControl { control, register } => {
                let value = self.regs.general(register);
                return self.write_control_register(control, value);
            }
            Operation::ReadDebug { debug, .. } | Operation::WriteDebug { debug, .. }
                if registers::is_reserved(self.state, debug) =>
            {
                return Err(self.raise_undefined());
            }
            Operation::ReadDebug { debug, register } => {
                *self.regs.general_mut(register) = registers::read(self.state, debug).ok_or(NotOurs)?;
            }
            Operation::WriteDebug { debug, register } => {
                let value = self.regs.general(register);
                return self.write_debug_register(debug, value).map_err(|_| NotOurs);
            }
            Operation::Xsetbv => {
                let value = self.regs.rdx << 32 | self.regs.rax & 0xffff_ffff;
                let is_xcr0 = self.regs.rcx as u32 == 0;
                let may = self.policy(CpuPolicy::extended_state).unwrap_or(u64::MAX);
                let is_done = is_xcr0 && value & !may == 0 && self.hv.machine().set_xcr0(value);
                return is_done.then_some(()).ok_or(NotOurs);
            }
            Operation::Cpuid => {
                let answer = self.cpuid_leaf(self.regs.rax as u32, self.regs.rcx as u32);
                self.answer_cpuid(answer);
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

    /// What the domain's policy for the processor says, where it has one.
    fn policy<T>(&self, ask: impl Fn(&CpuPolicy) -> T) -> Option<T> {
        self.domain.cpu_policy.lock().as_deref().map(ask)
    }

    const fn port_number(&self, port: Port) -> u16 {
        match port {
            Port::Immediate(number) => number as u16,
            Port::Dx => self.regs.rdx as u16,
        }
    }

    const fn set_edx_eax(&mut self, value: u64) {
        self.regs.rax = value & 0xffff_ffff;
        self.regs.rdx = value >> 32;
    }

    /// RDTSC faults where the counter is emulated, and where the guest set CR4.TSD: then its kernel may read the
    /// counter all the same, its user mode may not.
    fn read_time_stamp(&mut self, operation: Operation) -> Result<(), Undone> {
        if !self.state.in_kernel && self.state.cr4.contains(Cr4Flags::TIMESTAMP_DISABLE) {
            return Err(NotOurs);
        }
        self.set_edx_eax(self.hv.read_tsc(self.domain));
        if operation == Operation::Rdtscp {
            self.regs.rcx = self.state.tsc_aux.into();
        }
        Ok(())
    }

    fn answer_cpuid(&mut self, [eax, ebx, ecx, edx]: [u32; 4]) {
        let regs = &mut *self.regs;
        [regs.rax, regs.rbx, regs.rcx, regs.rdx] = [eax.into(), ebx.into(), ecx.into(), edx.into()];
    }

    fn read_control_register(&self, control: u8) -> Option<u64> {
        match control {
            0 => {
                let mut cr0 = CR0;
                cr0.set(Cr0Flags::TASK_SWITCHED, self.state.task_switched);
                Some(cr0.bits())
            }
            2 => Some(self.state.info.cr2()),
            3 => self.kernel_root_address(),
            4 => Some(self.state.cr4.bits()),
            _ => None,
        }
    }

    /// The root of the kernel's address space, as the guest names it.
    fn kernel_root_address(&self) -> Option<u64> {
        let numbered = || self.hv.memory.translated_root(self.domain.owner(), self.vcpu.id, Mode::Kernel);
        let root = self.state.kernel_root.map(|root| root.mfn().raw()).or_else(numbered);
        root.map(|number| number << PAGE_SHIFT)
    }

    fn write_control_register(&mut self, control: u8, value: u64) -> Result<(), Undone> {
        match control {
            0 => {
                let value = Cr0Flags::from_bits_retain(value);
                if value - Cr0Flags::TASK_SWITCHED != CR0 {
                    return Err(NotOurs);
                }
                self.set_task_switched(value.contains(Cr0Flags::TASK_SWITCHED));
            }
            2 => self.state.info.set_cr2(value),
            3 => {
                let root = Mfn::containing(MachineAddr::new(value)).ok_or(NotOurs)?;
                let mut editor = Editor::open(&self.hv.memory, &self.domain.memory).map_err(|_| NotOurs)?;
                let (current, loaded) = (&mut self.state.kernel_root, &mut self.state.loaded.kernel);
                editor.switch(self.cpu, current, loaded, root).map_err(|_| NotOurs)?;
            }
            4 => {
                // What is not the guest's stays as it is, without a word.
                let wanted = Cr4Flags::from_bits_retain(value) & CR4_GUEST;
                let wanted = wanted - self.policy(CpuPolicy::absent_cr4).unwrap_or(Cr4Flags::empty());
                let value = (self.state.cr4 - CR4_GUEST) | wanted;
                if !self.hv.machine().set_guest_cr4(self.state.loaded_cr4(value)) {
                    return Err(NotOurs);
                }
                self.state.cr4 = value;
            }
            _ => return Err(NotOurs),
        }
        Ok(())
    }
}
