//! What it costs to ask the hypervisor: single operations between two looks at the time stamp counter.
//!
//! The handlers here do the least that a guest can do, so that what is measured is the hypervisor's part. They replace
//! the runtime's while a measurement runs. Every function gives the ticks of one call, however many operations it
//! holds.
//!
//! What is measured stands between two NOPs that nobody else has, outside the looks at the counter: an emulator that
//! looks for them can count what else happens there (`tools/plugin/events.c`). [`intervals`] says how many there were.

mod calls;
mod emulated;
mod exceptions;
mod memory;
mod plain;
mod tables;
mod traps;

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use oxen_abi::hypercall::{Hypercall, MulticallEntry};
use oxen_abi::{sched, version};
use zerocopy::FromZeros;

use crate::raw::hypercall::call2;

pub use calls::{CALLS, machphys_update, whole_page};
pub use emulated::{EMULATED, port_word};
pub use exceptions::EXCEPTIONS;
pub use memory::{Window, balloon, enable_writable_tables, grant_copy};
pub use plain::{PLAIN, Plain, plain_call};
pub use tables::{Descriptors, Process, context_switch, new_baseptr};
pub use traps::{
    USER_CALLS, UserCall, event_send, page_fault, read_msr, read_port, timer_latency, timer_while_running, user_call,
    user_program,
};

/// Ticks from one look at the counter to the next with nothing between.
fn overhead() -> u64 {
    let before = now();
    now().wrapping_sub(before)
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: reads the counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Marked intervals that have ended.
static INTERVALS: AtomicU64 = AtomicU64::new(0);

/// The bytes that begin and end an interval: `nop [rax + ...]`.
const BEGIN: [u8; 7] = *b"\x0f\x1f\x80OXEN";
const END: [u8; 7] = *b"\x0f\x1f\x80NEXO";

/// How many marked intervals have ended so far.
pub fn intervals() -> u64 {
    INTERVALS.load(Ordering::Relaxed)
}

#[inline(always)]
fn begin() {
    // SAFETY: does nothing.
    unsafe { asm!(".ascii \"\\x0f\\x1f\\x80OXEN\"", options(nomem, nostack, preserves_flags)) };
}

#[inline(always)]
fn end() {
    // SAFETY: does nothing.
    unsafe { asm!(".ascii \"\\x0f\\x1f\\x80NEXO\"", options(nomem, nostack, preserves_flags)) };
}

/// An interval has ended.
fn count_interval() {
    INTERVALS.fetch_add(1, Ordering::Relaxed);
}

/// Ticks that `operation` takes.
#[inline(always)]
fn ticks(operation: impl FnOnce()) -> u64 {
    begin();
    let before = now();
    operation();
    let after = now();
    end();
    count_interval();
    after.wrapping_sub(before).saturating_sub(overhead())
}

/// Ticks of an operation that may be refused.
#[inline(always)]
fn ticks_if_done<E>(operation: impl FnOnce() -> Result<(), E>) -> Option<u64> {
    let mut result = Ok(());
    let ticks = ticks(|| result = operation());
    result.ok().map(|()| ticks)
}

/// A hypercall that does nothing.
pub fn null_hypercall() -> u64 {
    ticks(|| {
        // SAFETY: asks for the version number.
        unsafe { call2::<{ Hypercall::XenVersion as u32 }>(version::XENVER_VERSION.into(), 0) };
    })
}

/// Calls in the multicall of [`multicall_null`].
pub const NULL_CALLS: usize = 64;

/// Such calls in a multicall.
pub fn multicall_null() -> u64 {
    let mut list = [MulticallEntry { op: Hypercall::XenVersion as u64, ..MulticallEntry::new_zeroed() }; NULL_CALLS];
    ticks(|| {
        multicall(&mut list);
    })
}

/// Issues a multicall.
fn multicall(list: &mut [MulticallEntry]) -> u64 {
    // SAFETY: the callers' entries are harmless one by one.
    unsafe { call2::<{ Hypercall::Multicall as u32 }>(list.as_mut_ptr() as u64, list.len() as u64) }
}

/// Giving up the processor with nobody else to run.
pub fn sched_yield() -> u64 {
    ticks(|| {
        // SAFETY: touches no memory.
        unsafe { call2::<{ Hypercall::SchedOp as u32 }>(sched::SCHEDOP_YIELD.into(), 0) };
    })
}
