//! What it costs to ask the hypervisor: single operations between two looks at the time stamp counter.
//!
//! The handlers here do the least that a guest can do, so that what is measured is the hypervisor's part. They replace
//! the runtime's while a measurement runs. Every function gives the ticks of one operation.

mod memory;
mod tables;
mod traps;

use oxen_abi::hypercall::{Hypercall, MulticallEntry};
use oxen_abi::{sched, version};
use zerocopy::FromZeros;

use crate::raw::hypercall::call2;

pub use memory::{Window, balloon, enable_writable_tables, grant_copy};
pub use tables::{Descriptors, Process, context_switch, new_baseptr};
pub use traps::{
    breakpoint, event_send, page_fault, read_msr, read_port, syscall_program, timer_latency, user_syscall,
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

/// Ticks that `operation` takes.
#[inline(always)]
fn ticks(operation: impl FnOnce()) -> u64 {
    let before = now();
    operation();
    let after = now();
    after.wrapping_sub(before).saturating_sub(overhead())
}

/// A hypercall that does nothing.
pub fn null_hypercall() -> u64 {
    ticks(|| {
        // SAFETY: asks for the version number.
        unsafe { call2::<{ Hypercall::XenVersion as u32 }>(version::XENVER_VERSION.into(), 0) };
    })
}

/// One of 64 such calls in a multicall.
pub fn multicall_null() -> u64 {
    let mut list = [MulticallEntry { op: Hypercall::XenVersion as u64, ..MulticallEntry::new_zeroed() }; 64];
    let total = ticks(|| {
        multicall(&mut list);
    });
    total / list.len() as u64
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
