//! Numbers on their way between the widths of the ABI's types and those of this program.
#![expect(clippy::as_conversions, reason = "each function says why nothing is lost, or that it is meant to be")]

use oxen_abi::domid::DomId;

/// An `unsigned int` in a register, of which Xen does not look at the upper half.
#[inline(always)]
pub(super) const fn uint(word: u64) -> u32 {
    word as u32
}

/// An `uint16_t` at the lower end of a word.
#[inline(always)]
pub(super) const fn ushort(word: u64) -> u16 {
    word as u16
}

/// A `domid_t` at the lower end of a word.
#[inline(always)]
pub(super) const fn domid(word: u64) -> DomId {
    DomId(ushort(word))
}

/// A count or an index of the ABI as one of this program: words have 64 bits.
#[inline(always)]
pub(super) const fn index(number: u32) -> usize {
    number as usize
}

/// A count or an index in a word as one of this program: words have 64 bits.
#[inline(always)]
pub(super) const fn size(word: u64) -> usize {
    word as usize
}

/// A length as a word.
#[inline(always)]
pub(super) const fn long(length: usize) -> u64 {
    length as u64
}

/// The bytes of a structure of the ABI.
#[inline(always)]
pub(super) const fn bytes<T>() -> u64 {
    long(size_of::<T>())
}

/// The length of something small as an `unsigned int`; of more than it can count, the most.
#[inline(always)]
pub(super) const fn count(length: usize) -> u32 {
    if length > u32::MAX as usize { u32::MAX } else { length as u32 }
}
