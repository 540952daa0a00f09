//! `multicall`: several hypercalls for one entry into the hypervisor (`multicall_entry_t`, `xen.h`).

use super::{Next, Outcome, call};
use crate::{
    addr::GuestAddr,
    caller::{Args, Caller, Refusal, Reply},
    domain::counters::Counted,
    machine::Machine,
};
use oxen_abi::{errno::Errno, hypercall::Hypercall};

/// Bytes of an entry: operation, result, six arguments.
const ENTRY_BYTES: u64 = 64;
const RESULT_OFFSET: u64 = 8;

/// `multicall(entries, count)`: each result goes into its entry; the answer is 0 unless the entries cannot be read.
///
/// # Errors
/// `Fault` for unreadable entries, `Inval` inside another multicall.
#[inline]
pub fn multicall<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let [list, count, ..] = *args;
    let count = count & u64::from(u32::MAX);
    if count.checked_mul(ENTRY_BYTES).is_none_or(|bytes| !GuestAddr(list).is_guest_range(bytes)) {
        return Err(Errno::Fault.into());
    }
    for done in 0..count {
        let entry = list + done * ENTRY_BYTES;
        if done != 0 && caller.must_yield() {
            return stop_before(args, entry, count - done);
        }
        let [number, _, mut entry_args @ ..] = read_entry(caller, entry)?;
        if number == Hypercall::Multicall as u64 {
            write_result(caller, entry, Errno::Inval.to_return_value())?;
            continue;
        }
        caller.domain.counters.count(Counted::Subcall);
        let Outcome { value, next } = call(caller, number, &mut entry_args);
        match next {
            Next::Answer if number == Hypercall::Iret as u64 => return Ok(value),
            Next::Answer => write_result(caller, entry, value)?,
            Next::Again => {
                write_args(caller, entry, &entry_args)?;
                return stop_before(args, entry, count - done);
            }
            Next::Crash => return Err(Refusal::Crash(caller.state.broken_promise)),
        }
        debug_assert!(caller.state.in_kernel, "only iret leaves the kernel");
    }
    Ok(0)
}

/// Leaves the rest of the batch for when the hypercall is executed again.
#[cold]
fn stop_before(args: &mut Args, entry: u64, left: u64) -> Reply {
    args[0] = entry;
    args[1] = left;
    Err(Refusal::Preempted)
}

#[inline]
fn read_entry<M: Machine>(caller: &Caller<'_, M>, entry: u64) -> Result<[u64; 8], Errno> {
    caller.hv.machine.read_guest_words(GuestAddr(entry)).map_err(|_| Errno::Fault)
}

#[inline]
fn write_result<M: Machine>(caller: &Caller<'_, M>, entry: u64, result: u64) -> Result<(), Errno> {
    caller.hv.machine.write_guest_word(GuestAddr(entry + RESULT_OFFSET), result).map_err(|_| Errno::Fault)
}

#[cold]
fn write_args<M: Machine>(caller: &Caller<'_, M>, entry: u64, args: &Args) -> Result<(), Errno> {
    let places = (0_u64..).map(|i| entry + 2 * RESULT_OFFSET + i * 8);
    args.iter().zip(places).try_for_each(|(&arg, place)| {
        caller.hv.machine.write_guest_word(GuestAddr(place), arg).map_err(|_| Errno::Fault)
    })
}
