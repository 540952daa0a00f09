//! Bytes copied between private memory and memory that others see, by the machine's string instructions.
//!
//! A copy in Rust's own words would have to be one atomic access after the other; the instructions move as much at a
//! time as the processor can.

use core::arch::asm;
use core::sync::atomic::AtomicU64;

/// How many of `wanted` bytes there are from byte `offset` of the words on.
const fn there(words: &[AtomicU64], offset: usize, wanted: usize) -> usize {
    let rest = size_of_val(words).saturating_sub(offset);
    if rest < wanted { rest } else { wanted }
}

/// Copies what stands `offset` bytes behind the first word; where the words end, the rest of `to` stays as it is.
pub fn read(words: &[AtomicU64], offset: usize, to: &mut [u8]) {
    let count = there(words, offset, to.len());
    let from = words.as_ptr().cast::<u8>().wrapping_add(offset);
    // SAFETY: 1. there are so many bytes behind both, 2. `to` is ours alone, 3. the words are atomics, which others may
    // write to meanwhile: each byte is read once.
    unsafe { copy(from, to.as_mut_ptr(), count) }
}

/// Copies to where `offset` bytes behind the first word begin; what does not fit is left out.
pub fn write(words: &[AtomicU64], offset: usize, from: &[u8]) {
    let count = there(words, offset, from.len());
    let to = words.as_ptr().cast::<u8>().cast_mut().wrapping_add(offset);
    // SAFETY: 1. there are so many bytes behind both, 2. `from` does not change meanwhile, 3. the words are atomics,
    // which may be written to through a shared reference.
    unsafe { copy(from.as_ptr(), to, count) }
}

/// # Safety
/// `count` bytes may be read at `from` and written at `to`, which do not overlap.
unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: the caller answers for both ranges; the direction flag is clear, as the calling convention demands.
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) count % 8,
            inout("rcx") count / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}
