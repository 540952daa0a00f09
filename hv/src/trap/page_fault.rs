//! Page faults of guests: a kernel's write to a page table, or the control domain's to a device that it may only read,
//! is done for it, everything else is the guest's own.

use super::{
    decode::{self, Change, Logic, Operation},
    error::{FETCH, PRESENT, USER, WRITE},
    vector,
};
use crate::{
    addr::GuestAddr,
    caller::Caller,
    domain::{counters::Counted, flags, regs::operand_mask, traps::Callback},
    machine::Machine,
    mem::{
        shadow::fault::{Access, Met},
        write_emulation::Write,
    },
    reply::Stop,
};
use core::sync::atomic::Ordering;
use oxen_abi::{
    trace::{TRC_64_FLAG, TRC_PV_PAGE_FAULT, TRC_PV_PTWR_EMULATION, halves},
    vm_assist::Assists,
};
use x86_64::registers::rflags::RFlags;

impl<M: Machine> Caller<'_, M> {
    /// A page fault of the running guest at `address`.
    #[inline]
    pub fn page_fault(&mut self, address: u64, error_code: u32) {
        if self.state.loaded.are_shadows {
            return self.page_fault_on_shadows(address, error_code);
        }
        self.own_page_fault(address, error_code);
    }

    /// A page fault of a guest that runs on shadows.
    #[cold]
    #[inline(never)]
    fn page_fault_on_shadows(&mut self, address: u64, error_code: u32) {
        if let Some(own) = self.shadow_fault(address, error_code) {
            self.own_page_fault(address, own);
        }
    }

    /// A page fault by the guest's own tables.
    #[inline(always)]
    fn own_page_fault(&mut self, address: u64, error_code: u32) {
        let is_kernel_write = error_code & (PRESENT | WRITE | FETCH) == PRESENT | WRITE && self.state.in_kernel;
        if is_kernel_write && (self.domain.assists(Assists::WRITABLE_PAGETABLES) || self.domain.is_privileged()) {
            if self.write_page_table(GuestAddr::new(address)).is_some() {
                self.domain.counters.count(Counted::TableWrite);
                return;
            }
            if self.domain.memory.absent_entry.load(Ordering::Relaxed) != 0 {
                return self.end_for_absent_entry();
            }
        }
        self.domain.counters.count(Counted::PageFault);
        let state = &*self.state;
        state.info.set_cr2(address);
        let user = if state.in_kernel { 0 } else { USER };
        let handler = state.traps.handler(vector::PAGE_FAULT);
        if handler.address == 0 {
            return self.crash_by_exception(vector::PAGE_FAULT, Some(error_code & !USER | user));
        }
        if self.hv.is_traced() {
            return self.enter_noted(handler.callback(), address, error_code & !USER | user);
        }
        self.enter_kernel_inline(handler.callback(), Some(error_code & !USER | user));
    }

    #[cold]
    #[inline(never)]
    fn enter_noted(&mut self, handler: Callback, address: u64, error_code: u32) {
        let ([rip_low, rip_high], [low, high]) = (halves(self.regs.rip), halves(address));
        self.hv.note_words(TRC_PV_PAGE_FAULT | TRC_64_FLAG, &[rip_low, rip_high, low, high, error_code]);
        self.enter_kernel(handler, Some(error_code));
    }

    /// Looks whether a fault is one of the guest's shadows alone. If not, the error code is answered that the
    /// guest's own tables would have given.
    fn shadow_fault(&self, address: u64, error_code: u32) -> Option<u32> {
        let root = self.state.loaded_root().mfn()?;
        match self.hv.memory.shadow_fault(root, GuestAddr::new(address), access(error_code)) {
            None => Some(error_code),
            Some(Met::Shown) => None,
            Some(Met::Refused { is_present }) => Some(error_code & !PRESENT | if is_present { PRESENT } else { 0 }),
        }
    }

    /// Does the write of the instruction at RIP, if it is one to a page table entry and the entry is one that the guest
    /// may have. Nothing has happened otherwise.
    #[inline(never)]
    fn write_page_table(&mut self, address: GuestAddr) -> Option<()> {
        let code = self.fetch_instruction();
        let instruction = decode::decode(code.bytes(), self.regs)?;
        let Operation::Write { bytes, change } = instruction.operation else { return None };
        let write = match change {
            Change::Store(value) => Write::Store(value),
            Change::Exchange { value, .. } => Write::Exchange(value),
            Change::CompareExchange(new) => {
                Write::CompareExchange { expected: self.regs.rax & operand_mask(bytes), new }
            }
            Change::Combine(logic, value) => {
                let mut operand = [0; 8];
                let place = operand.get_mut(..usize::from(bytes))?;
                self.hv.machine().read_guest(address.range(bytes.into())?, place).ok()?;
                let expected = u64::from_le_bytes(operand);
                Write::CompareExchange { expected, new: combine(logic, expected, value) & operand_mask(bytes) }
            }
        };
        let root = self.state.kernel_root?;
        let rip = self.regs.rip;
        match self.hv.memory.emulate_write(&self.domain.memory, root, address, bytes.into(), write) {
            Ok(written) if written.stored || matches!(change, Change::CompareExchange(_)) => {
                self.finish_table_write(change, bytes, written.old);
                self.regs.rip = rip.wrapping_add(instruction.length.into());
                if self.hv.is_traced() {
                    self.note_table_write(rip, address, write.new_value());
                }
                Some(())
            }
            // The entry changed under the instruction's eyes, or there is other work first: it is executed again.
            Ok(_) | Err(Stop::Unfinished) => Some(()),
            Err(Stop::Refused(_) | Stop::Fatal(_)) => None,
        }
    }

    #[cold]
    #[inline(never)]
    fn note_table_write(&self, rip: u64, address: GuestAddr, entry: u64) {
        let [[entry_low, entry_high], [low, high], [rip_low, rip_high]] = [entry, address.as_u64(), rip].map(halves);
        let words = [entry_low, entry_high, low, high, rip_low, rip_high];
        self.hv.note_words(TRC_PV_PTWR_EMULATION | TRC_64_FLAG, &words);
    }

    /// Registers and flags after the write.
    fn finish_table_write(&mut self, change: Change, bytes: u8, old: u64) {
        let regs = &mut *self.regs;
        match change {
            Change::Store(_) => {}
            Change::Exchange { register, .. } => regs.set_general(register, bytes, old),
            Change::Combine(Logic::BitReset | Logic::BitSet | Logic::BitComplement, bit) => {
                regs.rflags.set(RFlags::CARRY_FLAG, old & bit != 0);
            }
            Change::Combine(logic, value) => {
                let flags = result_flags(combine(logic, old, value) & operand_mask(bytes), bytes);
                regs.rflags = (regs.rflags - flags::ARITHMETIC) | flags;
            }
            Change::CompareExchange(_) => {
                let expected = regs.rax & operand_mask(bytes);
                let difference = expected.wrapping_sub(old) & operand_mask(bytes);
                let overflow = ((expected ^ old) & (expected ^ difference)) >> (8 * u32::from(bytes) - 1) & 1;
                let adjust = RFlags::from_bits_retain(expected ^ old ^ difference) & RFlags::AUXILIARY_CARRY_FLAG;
                let mut flags = result_flags(difference, bytes) | adjust;
                flags.set(RFlags::CARRY_FLAG, expected < old);
                flags.set(RFlags::OVERFLOW_FLAG, overflow != 0);
                regs.rflags = (regs.rflags - flags::ARITHMETIC) | flags;
                if expected != old {
                    regs.set_general(0, bytes, old);
                }
            }
        }
    }
}

/// What the CPU wanted to do where it met a page fault with this error code.
#[must_use]
pub const fn access(error_code: u32) -> Access {
    match error_code & (WRITE | FETCH) {
        0 => Access::Read,
        WRITE => Access::Write,
        _ => Access::Fetch,
    }
}

/// What a logical operation leaves in its operand.
const fn combine(logic: Logic, old: u64, value: u64) -> u64 {
    match logic {
        Logic::Or | Logic::BitSet => old | value,
        Logic::And => old & value,
        Logic::Xor | Logic::BitComplement => old ^ value,
        Logic::BitReset => old & !value,
    }
}

/// PF, ZF and SF of a result.
fn result_flags(result: u64, bytes: u8) -> RFlags {
    let mut flags = RFlags::empty();
    flags.set(RFlags::PARITY_FLAG, (result as u8).count_ones().is_multiple_of(2));
    flags.set(RFlags::ZERO_FLAG, result == 0);
    flags.set(RFlags::SIGN_FLAG, result >> (8 * u32::from(bytes) - 1) & 1 != 0);
    flags
}
