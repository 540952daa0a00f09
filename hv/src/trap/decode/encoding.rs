//! How an instruction is written down: its bytes, prefixes, ModRM and operands (Intel SDM vol. 2A, chapter 2).

use crate::domain::regs::{Regs, operand_mask};

/// An instruction is no longer than this.
pub const MAX_LENGTH: usize = 15;

/// The bytes of an instruction, taken one after the other.
pub(super) struct Bytes<'a> {
    pub(super) code: &'a [u8],
    pub(super) taken: usize,
}

impl Bytes<'_> {
    pub(super) fn next(&mut self) -> Option<u8> {
        let byte = *self.code.get(self.taken)?;
        self.taken += 1;
        (self.taken <= MAX_LENGTH).then_some(byte)
    }

    /// A sign-extended immediate of 0, 1, 2 or 4 bytes.
    pub(super) fn immediate(&mut self, bytes: u8) -> Option<u64> {
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
pub(super) struct Prefixes {
    pub(super) operand_size: bool,
    pub(super) rep: bool,
    pub(super) rex: u8,
}

impl Prefixes {
    const fn wide(&self) -> bool {
        self.rex & 8 != 0
    }

    /// The operand size of an instruction that has a byte form (even opcode) and a full one (odd).
    pub(super) const fn size(&self, opcode: u8) -> u8 {
        match (opcode & 1, self.wide(), self.operand_size) {
            (0, ..) => 1,
            (_, true, _) => 8,
            (_, _, true) => 2,
            _ => 4,
        }
    }
}

/// ModRM, with REX worked in. A memory operand's other bytes have been taken.
pub(super) struct ModRm {
    pub(super) is_register: bool,
    pub(super) reg: u8,
    pub(super) rm: u8,
}

/// The two registers that ModRM names. Its mode does not matter: there is no memory operand ("MOV—Move to/from Control
/// Registers").
pub(super) fn registers(bytes: &mut Bytes<'_>, prefixes: &Prefixes) -> Option<(u8, u8)> {
    let byte = bytes.next()?;
    Some((byte >> 3 & 7 | (prefixes.rex & 4) << 1, byte & 7 | (prefixes.rex & 1) << 3))
}

/// The value of a register operand; without REX the byte registers 4 to 7 are AH, CH, DH, BH.
pub(super) fn register_operand(modrm: &ModRm, size: u8, prefixes: &Prefixes, regs: &Regs) -> u64 {
    if size == 1 && prefixes.rex == 0 && modrm.reg >= 4 {
        return regs.general(modrm.reg - 4) >> 8 & 0xff;
    }
    regs.general(modrm.reg) & operand_mask(size)
}

pub(super) fn memory_operand(opcode: u8, bytes: &mut Bytes<'_>, prefixes: &Prefixes) -> Option<(ModRm, u8)> {
    let modrm = modrm(bytes, prefixes)?;
    (!modrm.is_register).then(|| (modrm, prefixes.size(opcode)))
}

pub(super) fn modrm(bytes: &mut Bytes<'_>, prefixes: &Prefixes) -> Option<ModRm> {
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
