//! The running guest's memory, through the tables that the CPU has loaded: copies that may fault.
//!
//! A fault ends the copy with the carry flag set (see `entry::fixup`).
//!
//! Once any guest has a root with a linear entry (`mem::linear`), what was read is looked at again before it is used:
//! not before the read, or another CPU could write such an entry in between.

use core::arch::asm;
use core::hint::cold_path;
use core::sync::atomic::{AtomicU8, Ordering};
use oxen_hv::{
    addr::{GuestAddr, GuestHalf, GuestRange, GuestWords},
    mem::GuestFault,
};
use spin::Once;

/// Whether reads are looked at: 0 or [`DOUBTFUL`].
static DOUBT: AtomicU8 = AtomicU8::new(0);
const DOUBTFUL: u8 = 1;
/// What a read that faulted comes to, in the place of the above.
const FAULTED: u64 = 2;

/// See [`oxen_hv::mem::GuestMemory::watch_reads`].
pub(crate) fn watch_reads() {
    DOUBT.store(DOUBTFUL, Ordering::SeqCst);
}

static JUDGE: Once<fn(GuestAddr, u64) -> bool> = Once::new();

/// Says who judges what was read: whether so many bytes from an address may be used. Once, at boot.
pub(crate) fn have_reads_judged_by(judge: fn(GuestAddr, u64) -> bool) {
    JUDGE.call_once(|| judge);
}

/// Whether what was read may be used.
#[cold]
#[inline(never)]
fn may_read(from: u64, bytes: u64) -> bool {
    JUDGE.get().is_some_and(|judge| judge(GuestAddr::new(from), bytes))
}

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
pub(crate) fn read(range: GuestRange, to: &mut [u8]) -> Result<(), GuestFault> {
    let (from, bytes) = (range.start().as_u64(), to.len().min(range.bytes() as usize));
    // SAFETY: `bytes` bytes of `to` are ours to write, and so many lie in the guest's range.
    unsafe { copy(to.as_mut_ptr(), from as *const u8, bytes) }
        .map_err(|done| GuestFault::at(GuestAddr::new(from + done as u64)))?;
    if DOUBT.load(Ordering::Relaxed) == 0 { Ok(()) } else { judge_read(from, to) }
}

/// What was read, if it may be used; nothing is left of it otherwise.
#[cold]
#[inline(never)]
fn judge_read(from: u64, read: &mut [u8]) -> Result<(), GuestFault> {
    if may_read(from, read.len() as u64) {
        return Ok(());
    }
    read.fill(0);
    Err(GuestFault::at(GuestAddr::new(from)))
}

/// See [`oxen_hv::mem::GuestMemory::write_guest`].
#[inline]
pub(crate) fn write(range: GuestRange, from: &[u8]) -> Result<(), GuestFault> {
    let (to, bytes) = (range.start().as_u64(), from.len().min(range.bytes() as usize));
    // SAFETY: `bytes` bytes of `from` are ours to read, and so many lie in the guest's range.
    unsafe { copy(to as *mut u8, from.as_ptr(), bytes) }
        .map_err(|done| GuestFault::at(GuestAddr::new(to + done as u64)))
}

/// Makes a function that stores a few words from registers, in a straight line; returns whether it went through.
macro_rules! store {
    ($name:ident, $($word:ident at $offset:literal),+) => {
        /// # Safety
        /// `to` lies in the guest's address range with all of the words.
        #[inline]
        unsafe fn $name(to: u64, [$($word),+]: [u64; [$($offset),+].len()]) -> bool {
            // SAFETY: the guest's side faults where it is not mapped, which is foreseen.
            unsafe {
                asm!(
                    open!(),
                    $(concat!("2: mov [{to} + ", $offset, "], {", stringify!($word), "}\n",
                        ".pushsection .fixups, \"a\"\n.long 2b - ., {failed} - .\n.popsection"),)+
                    close!(),
                    to = in(reg) to,
                    $($word = in(reg) $word,)+
                    failed = label { return false },
                    options(nostack, preserves_flags),
                );
            }
            true
        }
    };
}

/// Whether the words that `load` has read may be used, by what it noted.
#[inline(always)]
fn are_usable(noted: u64, from: u64, bytes: u64) -> bool {
    if noted == 0 {
        return true;
    }
    cold_path();
    if noted == FAULTED {
        return false;
    }
    let refused: u64;
    // SAFETY: what is called keeps every register and the alignment of the stack.
    unsafe {
        asm!(
            "push {from}",
            "push {bytes}",
            "call guest_judge_words",
            "pop {from}",
            "pop {from}",
            from = inout(reg) from => refused,
            bytes = in(reg) bytes,
        );
    }
    refused == 0
}

/// Whether what was read may be used: 0, or [`FAULTED`].
extern "C" fn judge_words(from: u64, bytes: u64) -> u64 {
    if may_read(from, bytes) { 0 } else { FAULTED }
}

// Asks [`judge_words`] about the address and the length that were pushed, and puts the answer in the address's place.
// All registers stay as they are: the words that were read stand in them.
core::arch::global_asm!(
    ".pushsection .entry.text, \"ax\"",
    "guest_judge_words:",
    "push rbp",
    "mov rbp, rsp",
    "push rax",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "and rsp, -16",
    "mov rdi, [rbp + 24]",
    "mov rsi, [rbp + 16]",
    "call {judge}",
    "mov [rbp + 24], rax",
    "lea rsp, [rbp - 72]",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "pop rbp",
    "ret",
    ".popsection",
    judge = sym judge_words,
);

/// Makes a function that loads a few words into registers, in a straight line; `None` if one could not be read.
macro_rules! load {
    ($name:ident, $($word:ident at $offset:literal),+) => {
        load!($name, u64, "", $($word at $offset),+);
    };
    ($name:ident, $type:ty, $width:literal, $($word:ident at $offset:literal),+) => {
        /// # Safety
        /// `from` lies in the guest's address range with all of the words.
        #[inline]
        unsafe fn $name(from: u64) -> Option<[$type; [$($offset),+].len()]> {
            let noted: u64;
            $(let $word: $type;)+
            // SAFETY: the guest's side faults where it is not mapped, which is foreseen.
            unsafe {
                asm!(
                    open!(),
                    $(concat!("2: mov {", stringify!($word), $width, "}, [{from} + ", $offset, "]\n",
                        ".pushsection .fixups, \"a\"\n.long 2b - ., 5f - .\n.popsection"),)+
                    "movzx {noted:e}, byte ptr [rip + {all_doubt}]",
                    "4:",
                    close!(),
                    ".pushsection .entry.text, \"ax\"",
                    "5: mov {noted:e}, {faulted}",
                    "jmp 4b",
                    ".popsection",
                    from = in(reg) from,
                    noted = out(reg) noted,
                    $($word = out(reg) $word,)+
                    all_doubt = sym DOUBT,
                    faulted = const FAULTED,
                    options(nostack),
                );
            }
            let bytes = [$($offset),+].len() * size_of::<$type>();
            are_usable(noted, from, bytes as u64).then_some([$($word),+])
        }
    };
}

store!(store_1, a at 0);
store!(store_2, a at 0, b at 8);
store!(store_3, a at 0, b at 8, c at 16);
store!(store_4, a at 0, b at 8, c at 16, d at 24);
store!(store_7, a at 0, b at 8, c at 16, d at 24, e at 32, f at 40, g at 48);
store!(store_8, a at 0, b at 8, c at 16, d at 24, e at 32, f at 40, g at 48, h at 56);
load!(load_half, u32, ":e", a at 0);
load!(load_1, a at 0);
load!(load_2, a at 0, b at 8);
load!(load_3, a at 0, b at 8, c at 16);
load!(load_4, a at 0, b at 8, c at 16, d at 24);
load!(load_8, a at 0, b at 8, c at 16, d at 24, e at 32, f at 40, g at 48, h at 56);
load!(load_9, a at 0, b at 8, c at 16, d at 24, e at 32, f at 40, g at 48, h at 56, i at 64);

/// See [`oxen_hv::mem::GuestMemory::read_guest_half`].
#[inline(always)]
pub(crate) fn read_half(from: GuestHalf) -> Result<u32, GuestFault> {
    let from = from.start();
    // SAFETY: all of it lies in the guest's address range.
    unsafe { load_half(from.as_u64()) }.map(|[half]| half).ok_or(GuestFault::at(from))
}

/// See [`oxen_hv::mem::GuestMemory::read_guest_words`].
#[inline(always)]
pub(crate) fn read_words<const N: usize>(from: GuestWords<N>) -> Result<[u64; N], GuestFault> {
    let from = from.start();
    let mut words = [0; N];
    let mut at = from.as_u64();
    let (nines, rest) = words.as_chunks_mut::<9>();
    for nine in nines {
        // SAFETY: all of the words lie in the guest's address range.
        *nine = unsafe { load_9(at) }.ok_or(GuestFault::at(from))?;
        at += 72;
    }
    let (eights, rest) = rest.as_chunks_mut::<8>();
    for eight in eights {
        // SAFETY: all of the words lie in the guest's address range.
        *eight = unsafe { load_8(at) }.ok_or(GuestFault::at(from))?;
        at += 64;
    }
    let (fours, ones) = rest.as_chunks_mut::<4>();
    for four in fours {
        // SAFETY: all of the words lie in the guest's address range.
        *four = unsafe { load_4(at) }.ok_or(GuestFault::at(from))?;
        at += 32;
    }
    let (threes, ones) = ones.as_chunks_mut::<3>();
    for three in threes {
        // SAFETY: all of the words lie in the guest's address range.
        *three = unsafe { load_3(at) }.ok_or(GuestFault::at(from))?;
        at += 24;
    }
    let (twos, ones) = ones.as_chunks_mut::<2>();
    for two in twos {
        // SAFETY: all of the words lie in the guest's address range.
        *two = unsafe { load_2(at) }.ok_or(GuestFault::at(from))?;
        at += 16;
    }
    for one in ones {
        // SAFETY: all of the words lie in the guest's address range.
        [*one] = unsafe { load_1(at) }.ok_or(GuestFault::at(from))?;
        at += 8;
    }
    Ok(words)
}

/// See [`oxen_hv::mem::GuestMemory::write_guest_words`].
#[inline]
pub(crate) fn write_words<const N: usize>(to: GuestWords<N>, words: [u64; N]) -> Result<(), GuestFault> {
    let to = to.start();
    let mut at = to.as_u64();
    let (eights, rest) = words.as_chunks::<8>();
    for &eight in eights {
        // SAFETY: all of the words lie in the guest's address range.
        if !unsafe { store_8(at, eight) } {
            return Err(GuestFault::at(to));
        }
        at += 64;
    }
    let (sevens, rest) = rest.as_chunks::<7>();
    for &seven in sevens {
        // SAFETY: all of the words lie in the guest's address range.
        if !unsafe { store_7(at, seven) } {
            return Err(GuestFault::at(to));
        }
        at += 56;
    }
    let (fours, rest) = rest.as_chunks::<4>();
    for &four in fours {
        // SAFETY: all of the words lie in the guest's address range.
        if !unsafe { store_4(at, four) } {
            return Err(GuestFault::at(to));
        }
        at += 32;
    }
    let (threes, rest) = rest.as_chunks::<3>();
    for &three in threes {
        // SAFETY: all of the words lie in the guest's address range.
        if !unsafe { store_3(at, three) } {
            return Err(GuestFault::at(to));
        }
        at += 24;
    }
    let (twos, ones) = rest.as_chunks::<2>();
    for &two in twos {
        // SAFETY: all of the words lie in the guest's address range.
        if !unsafe { store_2(at, two) } {
            return Err(GuestFault::at(to));
        }
        at += 16;
    }
    for &one in ones {
        // SAFETY: all of the words lie in the guest's address range.
        if !unsafe { store_1(at, [one]) } {
            return Err(GuestFault::at(to));
        }
        at += 8;
    }
    Ok(())
}
