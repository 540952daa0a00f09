//! The running guest's memory, through the tables that the CPU has loaded: copies that may fault.
//!
//! The callers have judged the range; a fault ends the copy with the carry flag set (see `entry::fixup`).

use core::arch::asm;
use oxen_hv::{addr::GuestAddr, mem::GuestFault};

/// Opens guest memory on a CPU with SMAP; see `smap`.
macro_rules! open {
    () => {
        "9: .byte 0x0f, 0x1f, 0x01\n.pushsection .smap_sites, \"a\"\n.long 9b - .\n.popsection\n"
    };
}
/// Closes it again.
macro_rules! close {
    () => {
        "9: .byte 0x0f, 0x1f, 0x00\n.pushsection .smap_sites, \"a\"\n.long 9b - .\n.popsection\n"
    };
}

/// Copies `bytes` bytes; where the copy stopped, if it did.
///
/// # Safety
/// One end lies in the guest's address range, the other is valid for `bytes` bytes of the hypervisor's own.
#[inline]
unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize) -> Result<(), usize> {
    let left: usize;
    let tail = bytes % 8;
    // SAFETY: the hypervisor's side is the caller's; the guest's side faults where it is not mapped, which is foreseen.
    unsafe {
        asm!(
            open!(),
            "2: rep movsq",
            "mov rcx, {tail}",
            "3: rep movsb",
            "mov {left}, rcx",
            "4:",
            close!(),
            ".pushsection .fixups, \"a\"",
            ".long 2b - ., 5f - .",
            ".long 3b - ., 6f - .",
            ".popsection",
            ".pushsection .entry.text, \"ax\"",
            "5: lea {left}, [rcx * 8]",
            "add {left}, {tail}",
            "jmp 4b",
            "6: mov {left}, rcx",
            "jmp 4b",
            ".popsection",
            left = out(reg) left,
            tail = in(reg) tail,
            inout("rcx") bytes / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack),
        );
    }
    if left == 0 { Ok(()) } else { Err(bytes - left) }
}

/// See [`oxen_hv::mem::GuestMemory::read_guest`].
#[inline]
pub(crate) fn read(from: GuestAddr, to: &mut [u8]) -> Result<(), GuestFault> {
    // SAFETY: `to` is ours to write, and the caller judged the guest's range.
    unsafe { copy(to.as_mut_ptr(), from.0 as *const u8, to.len()) }
        .map_err(|done| GuestFault(GuestAddr(from.0 + done as u64)))
}

/// See [`oxen_hv::mem::GuestMemory::write_guest`].
#[inline]
pub(crate) fn write(to: GuestAddr, from: &[u8]) -> Result<(), GuestFault> {
    // SAFETY: `from` is ours to read, and the caller judged the guest's range.
    unsafe { copy(to.0 as *mut u8, from.as_ptr(), from.len()) }
        .map_err(|done| GuestFault(GuestAddr(to.0 + done as u64)))
}

/// Copies words by a straight line of moves; says whether it went through.
///
/// # Safety
/// As [`copy`].
#[inline]
unsafe fn copy_words<const N: usize>(to: *mut u64, from: *const u64) -> bool {
    let failed: u8;
    // SAFETY: as in `copy`.
    unsafe {
        asm!(
            open!(),
            "clc",
            ".set word, 0",
            ".rept {n}",
            "2: mov {scratch}, [{from} + word]",
            "3: mov [{to} + word], {scratch}",
            ".pushsection .fixups, \"a\"",
            ".long 2b - ., 4f - .",
            ".long 3b - ., 4f - .",
            ".popsection",
            ".set word, word + 8",
            ".endr",
            "4: setc {failed}",
            close!(),
            n = const N,
            scratch = out(reg) _,
            from = in(reg) from,
            to = in(reg) to,
            failed = lateout(reg_byte) failed,
            options(nostack),
        );
    }
    failed == 0
}

/// See [`oxen_hv::mem::GuestMemory::read_guest_words`].
#[inline]
pub(crate) fn read_words<const N: usize>(from: GuestAddr) -> Result<[u64; N], GuestFault> {
    let mut words = [0; N];
    // SAFETY: `words` is ours to write, and the caller judged the guest's range.
    if unsafe { copy_words::<N>(words.as_mut_ptr(), from.0 as *const u64) } { Ok(words) } else { Err(GuestFault(from)) }
}

/// See [`oxen_hv::mem::GuestMemory::write_guest_words`].
#[inline]
pub(crate) fn write_words<const N: usize>(to: GuestAddr, words: [u64; N]) -> Result<(), GuestFault> {
    // SAFETY: `words` is ours to read, and the caller judged the guest's range.
    if unsafe { copy_words::<N>(to.0 as *mut u64, words.as_ptr()) } { Ok(()) } else { Err(GuestFault(to)) }
}
