//! `ins` and `outs`: a string between a port and the guest's memory, some of it at a time.

use super::{
    error::{USER, WRITE},
    vector,
};
use crate::{addr::GuestAddr, caller::Caller, domain::regs::operand_mask, machine::Machine};
use x86_64::registers::rflags::RFlags;

/// How a string goes between a port and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringPort {
    /// From the port, or to it.
    pub is_input: bool,
    /// The width of one access.
    pub bytes: u8,
    /// As often as RCX says.
    pub is_repeated: bool,
    /// Registers count and point with 32 bits.
    pub is_narrow: bool,
    /// The segment whose base is added to RSI.
    pub segment: Option<Segment>,
}

/// A segment with a base of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the manual's own names")]
pub enum Segment {
    Fs,
    Gs,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// All of it went through.
    Done,
    /// There is more, or a fault has been handed to the guest: the instruction is not over.
    Stopped,
    /// The guest may not use the port, or not have memory there.
    Refused,
}

/// Accesses in one go.
const MAX_ACCESSES: u64 = 64;

impl<M: Machine> Caller<'_, M> {
    /// Does as many accesses as are left, or as may be at once. The registers say what is left.
    #[cold]
    #[inline(never)]
    pub(super) fn move_string(&mut self, string: StringPort) -> Moved {
        let port = self.regs.rdx as u16;
        let width = if string.is_narrow { u64::from(u32::MAX) } else { u64::MAX };
        let count = if string.is_repeated { self.regs.rcx & width } else { 1 };
        // Who asks for none is refused nothing.
        if count != 0 && !self.may_use_port(port, string.bytes) {
            return Moved::Refused;
        }
        for _ in 0..count.min(MAX_ACCESSES) {
            if let Err(at) = self.move_string_element(string, port, width) {
                if !at.is_guest_range(1) {
                    return Moved::Refused;
                }
                self.state.info.set_cr2(at.as_u64());
                let write = if string.is_input { WRITE } else { 0 };
                let user = if self.state.in_kernel { 0 } else { USER };
                self.inject(vector::PAGE_FAULT, Some(write | user));
                return Moved::Stopped;
            }
            let step = u64::from(string.bytes);
            let step = if self.regs.rflags.contains(RFlags::DIRECTION_FLAG) { step.wrapping_neg() } else { step };
            let pointer = if string.is_input { &mut self.regs.rdi } else { &mut self.regs.rsi };
            *pointer = pointer.wrapping_add(step) & width;
            if string.is_repeated {
                self.regs.rcx = (self.regs.rcx & width).wrapping_sub(1);
            }
        }
        if count > MAX_ACCESSES { Moved::Stopped } else { Moved::Done }
    }

    /// One access of the port and of memory; where memory could not be accessed.
    fn move_string_element(&mut self, string: StringPort, port: u16, width: u64) -> Result<(), GuestAddr> {
        let bytes = usize::from(string.bytes);
        let mut data = [0; 4];
        let data = data.get_mut(..bytes).unwrap_or_default();
        let machine = self.hv.machine();
        if string.is_input {
            let at = GuestAddr::new(self.regs.rdi & width);
            let range = at.range(string.bytes.into()).ok_or(at)?;
            let value = self.port_in(port, string.bytes).unwrap_or(u32::MAX);
            data.copy_from_slice(value.to_le_bytes().get(..bytes).unwrap_or_default());
            return machine.write_guest(range, data).map_err(|fault| fault.address());
        }
        let (fs, gs, _) = machine.bases(self.state);
        let base = match string.segment {
            None => 0,
            Some(Segment::Fs) => fs,
            Some(Segment::Gs) => gs,
        };
        let at = GuestAddr::new(base.wrapping_add(self.regs.rsi & width));
        machine.read_guest(at.range(string.bytes.into()).ok_or(at)?, data).map_err(|fault| fault.address())?;
        let value = data.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let _ = self.port_out(port, string.bytes, value & operand_mask(string.bytes) as u32);
        Ok(())
    }
}
