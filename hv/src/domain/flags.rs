//! RFLAGS as a guest may have them (Intel SDM vol. 1, 3.4.3).

#![expect(missing_docs, reason = "the manual's own names")]

pub const TF: u64 = 1 << 8;
pub const IF: u64 = 1 << 9;
pub const DF: u64 = 1 << 10;
pub const IOPL: u64 = 3 << 12;
pub const NT: u64 = 1 << 14;
pub const RF: u64 = 1 << 16;
pub const VM: u64 = 1 << 17;
pub const AC: u64 = 1 << 18;
/// Always reads as one.
pub const FIXED: u64 = 1 << 1;
/// Bits that exist and that ring 3 may hold.
const ALLOWED: u64 = 0x0024_4dd5 | TF | NT | RF | AC;

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
