//! The few instructions that a PV guest may not execute by itself, or that write to a page table (Intel SDM vol. 2).
//!
//! 64-bit code only. The address of a memory operand is not computed: for a write, the page fault tells it, and a
//! string's stands in a register.

use super::strings::{Segment, StringPort};
use crate::domain::regs::{Regs, operand_mask};

/// An instruction is no longer than this.
pub const MAX_LENGTH: usize = 15;

/// An instruction that was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its bytes, prefixes included.
    pub length: u8,
    /// What it does.
    pub operation: Operation,
}

/// Where an I/O instruction takes its port from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// An immediate byte.
    Immediate(u8),
    /// DX.
    Dx,
}

/// What an instruction does. `register` is a general register by number: 0 RAX … 15 R15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the manual's own names")]
pub enum Operation {
    PortIn {
        port: Port,
        bytes: u8,
    },
    PortOut {
        port: Port,
        bytes: u8,
    },
    /// `ins` and `outs`, by DX, with the memory at RDI or RSI.
    String(StringPort),
    Interrupt {
        vector: u8,
    },
    Cli,
    Sti,
    Hlt,
    Clts,
    Wbinvd,
    ReadMsr,
    WriteMsr,
    ReadControl {
        control: u8,
        register: u8,
    },
    WriteControl {
        control: u8,
        register: u8,
    },
    ReadDebug {
        debug: u8,
        register: u8,
    },
    WriteDebug {
        debug: u8,
        register: u8,
    },
    Xsetbv,
    Rdtsc,
    Rdtscp,
    Cpuid,
    /// A read-modify-write or plain write of a memory operand of `bytes` bytes.
    Write {
        bytes: u8,
        change: Change,
    },
}

/// What is done to a memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It becomes the value.
    Store(u64),
    /// It becomes the value; the old one goes to the register.
    Exchange {
        /// The new value.
        value: u64,
        /// Where the old one goes.
        register: u8,
    },
    /// It is combined with the value; flags follow the result.
    Combine(Logic, u64),
    /// If it equals RAX it becomes the value, else RAX becomes it.
    CompareExchange(u64),
}

/// How two values are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the instructions' own names")]
pub enum Logic {
    Or,
    And,
    Xor,
    /// `btr`, `bts`, `btc`: CF becomes the bit as it was.
    BitReset,
    BitSet,
    BitComplement,
}

/// The bytes of an instruction, taken one after the other.
struct Bytes<'a> {
    code: &'a [u8],
    taken: usize,
}

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = *self.code.get(self.taken)?;
        self.taken += 1;
        (self.taken <= MAX_LENGTH).then_some(byte)
    }

    /// A sign-extended immediate of 0, 1, 2 or 4 bytes.
    fn immediate(&mut self, bytes: u8) -> Option<u64> {
        if bytes == 0 {
            return Some(0);
        }
        let mut value = 0_u64;
        for i in 0..u32::from(bytes) {
            value |= u64::from(self.next()?) << (8 * i);
        }
        let unused = 64 - 8 * u32::from(bytes);
        Some(((value << unused) as i64 >> unused) as u64)
    }
}

#[derive(Default)]
struct Prefixes {
    operand_size: bool,
    rep: bool,
    rex: u8,
}

impl Prefixes {
    const fn wide(&self) -> bool {
        self.rex & 8 != 0
    }

    /// The operand size of an instruction that has a byte form (even opcode) and a full one (odd).
    const fn size(&self, opcode: u8) -> u8 {
        match (opcode & 1, self.wide(), self.operand_size) {
            (0, ..) => 1,
            (_, true, _) => 8,
            (_, _, true) => 2,
            _ => 4,
        }
    }
}

/// ModRM, with REX worked in. A memory operand's other bytes have been taken.
struct ModRm {
    is_register: bool,
    reg: u8,
    rm: u8,
}

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

/// The two registers that ModRM names. Its mode does not matter: there is no memory operand ("MOV—Move to/from Control
/// Registers").
fn registers(bytes: &mut Bytes<'_>, prefixes: &Prefixes) -> Option<(u8, u8)> {
    let byte = bytes.next()?;
    Some((byte >> 3 & 7 | (prefixes.rex & 4) << 1, byte & 7 | (prefixes.rex & 1) << 3))
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

/// The value of a register operand; without REX the byte registers 4 to 7 are AH, CH, DH, BH.
fn register_operand(modrm: &ModRm, size: u8, prefixes: &Prefixes, regs: &Regs) -> u64 {
    if size == 1 && prefixes.rex == 0 && modrm.reg >= 4 {
        return regs.general(modrm.reg - 4) >> 8 & 0xff;
    }
    regs.general(modrm.reg) & operand_mask(size)
}

fn memory_operand(opcode: u8, bytes: &mut Bytes<'_>, prefixes: &Prefixes) -> Option<(ModRm, u8)> {
    let modrm = modrm(bytes, prefixes)?;
    (!modrm.is_register).then(|| (modrm, prefixes.size(opcode)))
}

fn modrm(bytes: &mut Bytes<'_>, prefixes: &Prefixes) -> Option<ModRm> {
    let byte = bytes.next()?;
    let (mode, low) = (byte >> 6, byte & 7);
    let (reg, rm) = (byte >> 3 & 7 | (prefixes.rex & 4) << 1, low | (prefixes.rex & 1) << 3);
    let displacement = match (mode, low) {
        (1, _) => 1,
        (2, _) | (0, 5) => 4,
        _ => 0,
    };
    let has_sib = mode != 3 && low == 4;
    let is_without_base = has_sib && bytes.next()? & 7 == 5 && mode == 0;
    bytes.immediate(if is_without_base { 4 } else { displacement })?;
    Some(ModRm { is_register: mode == 3, reg, rm })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regs() -> Regs {
        Regs { rip: 0x1000, rax: 0xa0, rbx: 0xb0, rdx: 0xd0, rsi: 0x51, rbp: 0xbb, r12: 0x12, ..Regs::default() }
    }

    fn check(code: &[u8], operation: Operation) {
        let mut padded = code.to_vec();
        padded.extend([0xcc; 8]);
        assert_eq!(decode(&padded, &regs()), Some(Instruction { length: code.len() as u8, operation }), "{code:x?}");
        for short in 0..code.len() {
            assert_eq!(decode(&code[..short], &regs()), None, "{code:x?} cut to {short}");
        }
    }

    #[test]
    fn the_page_table_writes_of_linux_are_known() {
        let exchange = |value, register| Operation::Write { bytes: 8, change: Change::Exchange { value, register } };
        check(&[0x48, 0x87, 0x10], exchange(0xd0, 2));
        check(&[0x48, 0x87, 0x1a], exchange(0xb0, 3));
        check(&[0x48, 0x87, 0x75, 0x00], exchange(0x51, 6));
        let clear_bit_1 = Operation::Write { bytes: 1, change: Change::Combine(Logic::And, 0xfd) };
        check(&[0x3e, 0x41, 0x80, 0x24, 0x24, 0xfd], clear_bit_1);
        check(&[0xf0, 0x41, 0x80, 0x24, 0x24, 0xfd], clear_bit_1);
        check(&[0x48, 0x89, 0x2b], Operation::Write { bytes: 8, change: Change::Store(0xbb) });
    }

    #[test]
    fn privileged_instructions_are_known() {
        check(&[0xfa], Operation::Cli);
        check(&[0xe4, 0x42], Operation::PortIn { port: Port::Immediate(0x42), bytes: 1 });
        check(&[0x66, 0xef], Operation::PortOut { port: Port::Dx, bytes: 2 });
        check(&[0xed], Operation::PortIn { port: Port::Dx, bytes: 4 });
        let string = StringPort { is_input: true, bytes: 1, is_repeated: false, is_narrow: false, segment: None };
        check(&[0x6c], Operation::String(string));
        check(&[0xf3, 0x6d], Operation::String(StringPort { bytes: 4, is_repeated: true, ..string }));
        check(&[0x48, 0x6d], Operation::String(StringPort { bytes: 4, ..string }));
        let output = StringPort { is_input: false, bytes: 2, segment: Some(Segment::Gs), ..string };
        check(&[0x65, 0x66, 0x6f], Operation::String(output));
        check(&[0x67, 0x65, 0x66, 0x6f], Operation::String(StringPort { is_narrow: true, ..output }));
        check(&[0x0f, 0x32], Operation::ReadMsr);
        check(&[0x0f, 0x20, 0xe0], Operation::ReadControl { control: 4, register: 0 });
        check(&[0x41, 0x0f, 0x22, 0xdc], Operation::WriteControl { control: 3, register: 12 });
        check(&[0x0f, 0x21, 0x7c], Operation::ReadDebug { debug: 7, register: 4 });
        check(&[0x0f, 0x22, 0x05], Operation::WriteControl { control: 0, register: 5 });
        check(&[0xcd, 0x80], Operation::Interrupt { vector: 0x80 });
        check(&[0x0f, 0x01, 0xd1], Operation::Xsetbv);
        check(&[0x0f, 0x01, 0xf9], Operation::Rdtscp);
    }

    #[test]
    fn every_form_of_an_operand_in_memory_has_its_length() {
        let store = Operation::Write { bytes: 4, change: Change::Store(0xd0) };
        for code in [
            &[0x89, 0x10][..],
            &[0x41, 0x89, 0x54, 0x24, 0xf0],
            &[0x89, 0x54, 0x95, 0x08],
            &[0x89, 0x14, 0x25, 0, 0, 0, 0x80],
            &[0x89, 0x15, 1, 0, 0, 0],
            &[0x89, 0x90, 1, 2, 3, 4],
            &[0x89, 0x94, 0x25, 1, 2, 3, 4],
        ] {
            check(code, store);
        }
    }

    #[test]
    fn anything_else_is_not() {
        for code in [&[0x90][..], &[0x0f, 0x0b], &[0x48, 0x87, 0xc0], &[0x0f, 0x01, 0x38], &[0xff; 15], &[0x66; 20]] {
            assert_eq!(decode(code, &regs()), None, "{code:x?}");
        }
    }
}
