//! Who called whom, as far as the stack tells: code is built without frame pointers, so every word of the stack counts
//! that points behind a call. Some may be left over from earlier calls.

use core::arch::asm;
use core::fmt;

use super::trap::Frame;
use crate::calls;
use crate::pages::layout::VIRT_BASE;

/// Calls that a backtrace shows.
const MAX_CALLS: usize = 24;
/// Words of the stack that it looks at.
const MAX_WORDS: usize = 4096;

unsafe extern "C" {
    static __text_end: u8;
    static oxen_stack_bottom: u8;
    static oxen_stack_top: u8;
    /// Address and length of the table of names, where there is one; written by who appended it.
    static __symbols: [u64; 2];
}

/// The calls that led to a place; shown, a line for each, the last call first.
pub(crate) struct Backtrace {
    /// Where it stopped, where that is no call.
    at: Option<u64>,
    stack: u64,
}

impl Backtrace {
    /// Of what calls this.
    pub(crate) fn here() -> Self {
        let stack: u64;
        // SAFETY: copies a register.
        unsafe { asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) }
        Self { at: None, stack }
    }

    /// Of what an exception interrupted.
    pub(crate) const fn of(frame: &Frame) -> Self {
        Self { at: Some(frame.rip), stack: frame.rsp }
    }
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.into_iter().filter(|&at| is_text(at)).map(|at| (at, 0));
        // A call that never returns may be the last instruction of its function: what is named is the call.
        let calls = words_from(self.stack).filter(|&word| is_return_address(word)).map(|word| (word, 1));
        for (address, behind) in at.chain(calls).take(MAX_CALLS) {
            match name(address - behind) {
                Some((name, offset)) => writeln!(f, "  {address:016x} {name}+{:#x}", u64::from(offset) + behind)?,
                None => writeln!(f, "  {address:016x}")?,
            }
        }
        Ok(())
    }
}

/// The words of the stack from `start` up; none where that is not on the stack.
fn words_from(start: u64) -> impl Iterator<Item = u64> {
    let (bottom, top) = (&raw const oxen_stack_bottom as u64, &raw const oxen_stack_top as u64);
    let start = if (bottom..top).contains(&start) { start.next_multiple_of(8) } else { top };
    // SAFETY: aligned words of the boot stack, which is mapped from end to end. They change under no one's reference.
    (start..top).step_by(8).take(MAX_WORDS).map(|address| unsafe { (address as *const u64).read_volatile() })
}

fn is_text(address: u64) -> bool {
    (VIRT_BASE..&raw const __text_end as u64).contains(&address)
}

fn is_return_address(address: u64) -> bool {
    let Some(start) = address.checked_sub(calls::MAX_CALL as u64).filter(|&start| is_text(start) && is_text(address))
    else {
        return false;
    };
    // SAFETY: the bytes are code of the image, which nobody writes.
    calls::ends_with_call(unsafe { core::slice::from_raw_parts(start as *const u8, calls::MAX_CALL) })
}

/// The function that holds an address, and how far into it that is.
fn name(address: u64) -> Option<(&'static str, u32)> {
    // SAFETY: the linker script keeps both words. A compiler must not know what they were when they were linked.
    let [start, length] = unsafe { (&raw const __symbols).read_volatile() };
    if start < VIRT_BASE || length == 0 {
        return None;
    }
    // SAFETY: who wrote the words made a segment of it, which the domain builder has loaded.
    let table = unsafe { core::slice::from_raw_parts(start as *const u8, usize::try_from(length).ok()?) };
    oxen_abi::symbols::find(table, u32::try_from(address.checked_sub(VIRT_BASE)?).ok()?)
}
