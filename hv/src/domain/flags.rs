//! RFLAGS as a guest may have them (Intel SDM vol. 1, 3.4.3).

#![expect(missing_docs, reason = "the manual's own names")]

use x86_64::registers::rflags::RFlags;

pub const TF: u64 = RFlags::TRAP_FLAG.bits();
pub const IF: u64 = RFlags::INTERRUPT_FLAG.bits();
pub const DF: u64 = RFlags::DIRECTION_FLAG.bits();
pub const IOPL: u64 = RFlags::IOPL_LOW.union(RFlags::IOPL_HIGH).bits();
pub const NT: u64 = RFlags::NESTED_TASK.bits();
pub const RF: u64 = RFlags::RESUME_FLAG.bits();
pub const VM: u64 = RFlags::VIRTUAL_8086_MODE.bits();
pub const AC: u64 = RFlags::ALIGNMENT_CHECK.bits();
/// What arithmetic sets.
pub const ARITHMETIC: u64 = RFlags::CARRY_FLAG
    .union(RFlags::PARITY_FLAG)
    .union(RFlags::AUXILIARY_CARRY_FLAG)
    .union(RFlags::ZERO_FLAG)
    .union(RFlags::SIGN_FLAG)
    .union(RFlags::OVERFLOW_FLAG)
    .bits();
/// Always reads as one.
pub const FIXED: u64 = 1 << 1;
/// Bits that exist and that ring 3 may hold.
const ALLOWED: u64 = ARITHMETIC | RFlags::ID.bits() | DF | TF | NT | RF | AC;

/// What the CPU runs a guest with that asked for `rflags`: interrupts on, no I/O privilege, no virtual-8086 mode.
#[inline]
#[must_use]
pub const fn for_guest(rflags: u64) -> u64 {
    rflags & ALLOWED | IF | FIXED
}

/// The I/O privilege level in RFLAGS.
#[inline]
#[must_use]
pub const fn iopl_of(rflags: u64) -> u8 {
    (rflags >> 12) as u8 & 3
}
