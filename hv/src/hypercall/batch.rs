//! `multicall`: several hypercalls for one entry into the hypervisor (`multicall_entry_t`, `xen.h`).

use super::{Next, Outcome, call};
use crate::{
    addr::{GuestAddr, GuestRecords, GuestWords},
    caller::Caller,
    domain::counters::Counted,
    machine::Machine,
    reply::{Args, Reply, Stop},
};
use oxen_abi::{errno::Errno, hypercall::Hypercall};

/// Operation, result, six arguments.
type EntryPlace = GuestWords<8>;

/// `multicall(entries, count)`: each result goes into its entry; the answer is 0 unless the entries cannot be read.
///
/// # Errors
/// `Fault` for unreadable entries, `Inval` inside another multicall.
#[inline]
pub fn multicall<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let [list, count, ..] = *args;
    let count = count as u32;
    let entries = GuestRecords::new(GuestAddr(list), count).ok_or(Errno::Fault)?;
    let mut done = 0;
    while let Some(entry) = entries.get(done) {
        let left = u64::from(count) - done;
        if done != 0 && caller.must_yield() {
            return stop_before(args, entry, left);
        }
        done += 1;
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
                return stop_before(args, entry, left);
            }
            Next::Crash(fault) => return Err(Stop::Fatal(fault)),
        }
        debug_assert!(caller.state.in_kernel, "only iret leaves the kernel");
    }
    Ok(0)
}

/// Leaves the rest of the batch for when the hypercall is executed again.
#[cold]
fn stop_before(args: &mut Args, entry: EntryPlace, left: u64) -> Reply {
    args[0] = entry.start().0;
    args[1] = left;
    Err(Stop::Unfinished)
}

#[inline]
fn read_entry<M: Machine>(caller: &Caller<'_, M>, entry: EntryPlace) -> Result<[u64; 8], Errno> {
    caller.hv.machine().read_guest_words(entry).map_err(|_| Errno::Fault)
}

#[inline]
fn write_result<M: Machine>(caller: &Caller<'_, M>, entry: EntryPlace, result: u64) -> Result<(), Errno> {
    caller.hv.machine().write_guest_words(entry.part::<1, 1>(), [result]).map_err(|_| Errno::Fault)
}

#[cold]
fn write_args<M: Machine>(caller: &Caller<'_, M>, entry: EntryPlace, args: &Args) -> Result<(), Errno> {
    caller.hv.machine().write_guest_words(entry.part::<2, 6>(), *args).map_err(|_| Errno::Fault)
}
