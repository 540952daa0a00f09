//! The few instructions that a PV guest may not execute by itself, or that write to a page table (Intel SDM vol. 2).
//!
//! 64-bit code only. The address of a memory operand is not computed: for a write, the page fault tells it, and a
//! string's stands in a register.

mod encoding;
mod operation;

pub use encoding::Code;
pub use operation::{Change, Instruction, Logic, Operation, Port};

use super::strings::{Segment, StringPort};
use crate::domain::regs::{Regs, operand_mask};
use encoding::{Bytes, Prefixes, memory_operand, modrm, register_operand, registers};

/// Recognises the instruction at the beginning of `code`.
#[must_use]
pub fn decode(code: &[u8], regs: &Regs) -> Option<Instruction> {
    let mut bytes = Bytes { code, taken: 0 };
    let mut prefixes = Prefixes::default();
    let opcode = loop {
        match bytes.next()? {
            0x66 => prefixes.operand_size = true,
            0xf2 | 0xf3 => prefixes.rep = true,
            0xf0 | 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 => {}
            rex @ 0x40..=0x4f => {
                prefixes.rex = rex;
                break bytes.next()?;
            }
            opcode => break opcode,
        }
    };
    let operation = match opcode {
        0x0f => two_byte(&mut bytes, &prefixes, regs)?,
        0xcd => Operation::Interrupt { vector: bytes.next()? },
        0xe4 | 0xe5 | 0xec | 0xed if !prefixes.rep => {
            Operation::PortIn { port: port(opcode, &mut bytes)?, bytes: prefixes.size(opcode).min(4) }
        }
        0xe6 | 0xe7 | 0xee | 0xef if !prefixes.rep => {
            Operation::PortOut { port: port(opcode, &mut bytes)?, bytes: prefixes.size(opcode).min(4) }
        }
        0x6c..=0x6f => string(code, opcode, &prefixes),
        0xf4 => Operation::Hlt,
        0xfa => Operation::Cli,
        0xfb => Operation::Sti,
        _ => memory_write(opcode, &mut bytes, &prefixes, regs)?,
    };
    Some(Instruction { length: bytes.taken as u8, operation })
}

/// `ins` and `outs`. What no other instruction asks of the prefixes is looked for here.
#[cold]
fn string(code: &[u8], opcode: u8, prefixes: &Prefixes) -> Operation {
    let before = || code.iter().take_while(|&&byte| byte != opcode);
    let segment = before().filter_map(|byte| match byte {
        0x64 => Some(Segment::Fs),
        0x65 => Some(Segment::Gs),
        _ => None,
    });
    Operation::String(StringPort {
        is_input: opcode < 0x6e,
        bytes: prefixes.size(opcode).min(4),
        is_repeated: prefixes.rep,
        is_narrow: before().any(|&byte| byte == 0x67),
        segment: segment.last(),
    })
}

fn port(opcode: u8, bytes: &mut Bytes<'_>) -> Option<Port> {
    if opcode & 8 == 0 { bytes.next().map(Port::Immediate) } else { Some(Port::Dx) }
}

fn two_byte(bytes: &mut Bytes<'_>, prefixes: &Prefixes, regs: &Regs) -> Option<Operation> {
    let opcode = bytes.next()?;
    Some(match opcode {
        0x01 => {
            let modrm = modrm(bytes, prefixes)?;
            match (modrm.is_register, modrm.reg & 7, modrm.rm & 7) {
                (true, 2, 1) => Operation::Xsetbv,
                (true, 7, 1) => Operation::Rdtscp,
                _ => return None,
            }
        }
        0x06 => Operation::Clts,
        0x09 => Operation::Wbinvd,
        0x20..=0x23 => {
            let (number, register) = registers(bytes, prefixes)?;
            match opcode {
                0x20 => Operation::ReadControl { control: number, register },
                0x21 => Operation::ReadDebug { debug: number, register },
                0x22 => Operation::WriteControl { control: number, register },
                _ => Operation::WriteDebug { debug: number, register },
            }
        }
        0x30 => Operation::WriteMsr,
        0x31 => Operation::Rdtsc,
        0x32 => Operation::ReadMsr,
        0xa2 => Operation::Cpuid,
        0xb0 | 0xb1 => {
            let (modrm, size) = memory_operand(opcode, bytes, prefixes)?;
            let value = register_operand(&modrm, size, prefixes, regs);
            Operation::Write { bytes: size, change: Change::CompareExchange(value) }
        }
        0xc3 => {
            let (modrm, size) = memory_operand(opcode, bytes, prefixes)?;
            Operation::Write { bytes: size, change: Change::Store(regs.general(modrm.reg) & operand_mask(size)) }
        }
        0xba => {
            let (modrm, size) = memory_operand(1, bytes, prefixes)?;
            let logic = bit_operation(modrm.reg & 7)?;
            let bit = bytes.immediate(1)? & (u64::from(size) * 8 - 1);
            Operation::Write { bytes: size, change: Change::Combine(logic, 1 << bit) }
        }
        _ => return None,
    })
}

const fn bit_operation(extension: u8) -> Option<Logic> {
    match extension {
        5 => Some(Logic::BitSet),
        6 => Some(Logic::BitReset),
        7 => Some(Logic::BitComplement),
        _ => None,
    }
}

fn memory_write(opcode: u8, bytes: &mut Bytes<'_>, prefixes: &Prefixes, regs: &Regs) -> Option<Operation> {
    let logic = match opcode {
        0x08 | 0x09 => Some(Logic::Or),
        0x20 | 0x21 => Some(Logic::And),
        0x30 | 0x31 => Some(Logic::Xor),
        0x80 | 0x81 | 0x83 | 0x86..=0x89 | 0xc6 | 0xc7 => None,
        _ => return None,
    };
    let (modrm, size) = memory_operand(opcode, bytes, prefixes)?;
    let change = match opcode {
        0x80 | 0x81 | 0x83 => {
            let width = if opcode == 0x81 { size.min(4) } else { 1 };
            let logic = match modrm.reg & 7 {
                1 => Logic::Or,
                4 => Logic::And,
                6 => Logic::Xor,
                _ => return None,
            };
            Change::Combine(logic, bytes.immediate(width)? & operand_mask(size))
        }
        0xc6 | 0xc7 if modrm.reg & 7 == 0 => Change::Store(bytes.immediate(size.min(4))? & operand_mask(size)),
        0xc6 | 0xc7 => return None,
        _ => {
            let value = register_operand(&modrm, size, prefixes, regs);
            match (logic, opcode) {
                (Some(logic), _) => Change::Combine(logic, value),
                (None, 0x86 | 0x87) if size == 1 && prefixes.rex == 0 && modrm.reg >= 4 => return None,
                (None, 0x86 | 0x87) => Change::Exchange { value, register: modrm.reg },
                _ => Change::Store(value),
            }
        }
    };
    Some(Operation::Write { bytes: size, change })
}

#[cfg(test)]
mod tests;
