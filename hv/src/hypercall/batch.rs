//! `multicall`: several hypercalls for one entry into the hypervisor (`multicall_entry_t`, `xen.h`).

use super::{Next, Outcome};
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

impl<M: Machine> Caller<'_, M> {
    /// `multicall(entries, count)`: each result goes into its entry; the answer is 0 unless the entries cannot be read.
    ///
    /// # Errors
    /// `Fault` for unreadable entries, `Inval` inside another multicall.
    #[inline]
    pub fn multicall(&mut self, args: &mut Args) -> Reply {
        let [list, count, ..] = *args;
        let count = count as u32;
        let entries = GuestRecords::new(GuestAddr(list), count).ok_or(Errno::Fault)?;
        let mut done = 0;
        while let Some(entry) = entries.get(done) {
            let left = u64::from(count) - done;
            if done != 0 && self.must_yield() {
                return stop_before(args, entry, left);
            }
            done += 1;
            let [number, _, mut entry_args @ ..] = self.read_multicall_entry(entry)?;
            if number == Hypercall::Multicall as u64 {
                self.write_multicall_result(entry, Errno::Inval.to_return_value())?;
                continue;
            }
            self.domain.counters.count(Counted::Subcall);
            let Outcome { value, next } = self.hypercall(number, &mut entry_args);
            match next {
                Next::Answer if number == Hypercall::Iret as u64 => return Ok(value),
                Next::Answer => self.write_multicall_result(entry, value)?,
                Next::Again => {
                    self.write_multicall_args(entry, &entry_args)?;
                    return stop_before(args, entry, left);
                }
                Next::Crash(fault) => return Err(Stop::Fatal(fault)),
            }
            debug_assert!(self.state.in_kernel, "only iret leaves the kernel");
        }
        Ok(0)
    }

    #[inline]
    fn read_multicall_entry(&self, entry: EntryPlace) -> Result<[u64; 8], Errno> {
        self.hv.machine().read_guest_words(entry).map_err(|_| Errno::Fault)
    }

    #[inline]
    fn write_multicall_result(&self, entry: EntryPlace, result: u64) -> Result<(), Errno> {
        self.hv.machine().write_guest_words(entry.part::<1, 1>(), [result]).map_err(|_| Errno::Fault)
    }

    #[cold]
    fn write_multicall_args(&self, entry: EntryPlace, args: &Args) -> Result<(), Errno> {
        self.hv.machine().write_guest_words(entry.part::<2, 6>(), *args).map_err(|_| Errno::Fault)
    }
}

/// Leaves the rest of the batch for when the hypercall is executed again.
#[cold]
fn stop_before(args: &mut Args, entry: EntryPlace, left: u64) -> Reply {
    args[0] = entry.start().0;
    args[1] = left;
    Err(Stop::Unfinished)
}
