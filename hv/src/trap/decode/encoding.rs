//! How an instruction is written down: its bytes, prefixes, ModRM and operands (Intel SDM vol. 2A, chapter 2).

use crate::{
    addr::{GuestAddr, PAGE_BYTES},
    domain::regs::{Regs, operand_mask},
    mem::GuestMemory,
};

/// An instruction is no longer than this.
const MAX_LENGTH: usize = 15;

/// The offset of the last eight bytes that may belong to an instruction.
const LAST_WORD: u64 = MAX_LENGTH as u64 - 8;

/// What stands where an instruction begins: as many bytes as it may have, or as there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Code {
    bytes: [u8; MAX_LENGTH],
    length: usize,
}

impl Code {
    /// What stands at an address of the guest's, as far as it is mapped.
    #[inline(always)]
    #[must_use]
    pub fn at(memory: &impl GuestMemory, rip: GuestAddr) -> Self {
        let word_at = |offset: u64| {
            let place = GuestAddr::new(rip.as_u64().wrapping_add(offset)).words()?;
            memory.read_guest_words(place).ok().map(|[word]: [u64; 1]| word.to_le_bytes())
        };
        match (word_at(0), word_at(LAST_WORD)) {
            (Some([a, b, c, d, e, f, g, _]), Some([h, i, j, k, l, m, n, o])) => {
                Self { bytes: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o], length: MAX_LENGTH }
            }
            _ => Self::before_end_of_page(memory, rip),
        }
    }

    #[cold]
    fn before_end_of_page(memory: &impl GuestMemory, rip: GuestAddr) -> Self {
        let (mut code, length) = (Self::default(), PAGE_BYTES - rip.offset());
        if let Some(bytes) = code.bytes.get_mut(..length)
            && let Some(range) = rip.range(length as u64)
            && memory.read_guest(range, bytes).is_ok()
        {
            code.length = length;
        }
        code
    }

    /// The bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

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
