//! RFLAGS as a guest may have them (Intel SDM vol. 1, 3.4.3).

use x86_64::registers::rflags::RFlags;

/// The I/O privilege level.
pub const IOPL: RFlags = RFlags::IOPL_LOW.union(RFlags::IOPL_HIGH);
/// What arithmetic sets.
pub const ARITHMETIC: RFlags = RFlags::CARRY_FLAG
    .union(RFlags::PARITY_FLAG)
    .union(RFlags::AUXILIARY_CARRY_FLAG)
    .union(RFlags::ZERO_FLAG)
    .union(RFlags::SIGN_FLAG)
    .union(RFlags::OVERFLOW_FLAG);
/// Always reads as one.
pub const FIXED: RFlags = RFlags::from_bits_retain(1 << 1);
/// Bits that exist and that ring 3 may hold.
const ALLOWED: RFlags = ARITHMETIC
    .union(RFlags::ID)
    .union(RFlags::DIRECTION_FLAG)
    .union(RFlags::TRAP_FLAG)
    .union(RFlags::NESTED_TASK)
    .union(RFlags::RESUME_FLAG)
    .union(RFlags::ALIGNMENT_CHECK);
/// The RFLAGS that a guest starts with.
pub const AT_START: RFlags = RFlags::INTERRUPT_FLAG.union(FIXED);

/// What the CPU runs a guest with that asked for `rflags`: interrupts on, no I/O privilege, no virtual-8086 mode.
#[inline]
#[must_use]
pub const fn for_guest(rflags: u64) -> RFlags {
    RFlags::from_bits_retain(rflags).intersection(ALLOWED).union(AT_START)
}

/// The I/O privilege level in RFLAGS.
#[inline]
#[must_use]
pub const fn iopl_of(rflags: u64) -> u8 {
    (rflags >> 12) as u8 & 3
}

/// An I/O privilege level as RFLAGS show it.
#[inline]
#[must_use]
pub const fn of_iopl(level: u8) -> RFlags {
    RFlags::from_bits_retain((level as u64) << 12)
}
