//! `multicall`: several hypercalls for one entry into the hypervisor (`multicall_entry_t`, `xen.h`).

use super::{
    Next, Outcome,
    args::{Multicall, Resume, Updates},
    number::uint,
};
use crate::{
    Hypervisor,
    addr::{GuestRecords, GuestWords},
    caller::Caller,
    domain::counters::Counted,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Reply, Stop},
};
use oxen_abi::{errno::Errno, hypercall::Hypercall};

const MULTICALL: u64 = Hypercall::Multicall.number();
const IRET: u64 = Hypercall::Iret.number();

/// Whether there has been so much work that it is time for what else waits.
pub(super) type IsEnough = bool;

/// Operation, result, six arguments.
type EntryPlace = GuestWords<8>;

impl<M: Machine> Caller<'_, M> {
    /// `multicall(entries, count)`: each result goes into its entry; the answer is 0 unless the entries cannot be read.
    ///
    /// # Errors
    /// `Fault` for unreadable entries, `Inval` inside another multicall.
    #[inline]
    pub fn multicall(&mut self, args: &mut Args) -> Reply {
        let request = Multicall::from(&*args);
        let entries = GuestRecords::new(request.list, request.count).ok_or(Errno::Fault)?;
        let mut done = 0_u64;
        while let Some(entry) = entries.get(done) {
            if done != 0 && self.must_yield() {
                return Err(request.rest_from(entry, done).leave(args));
            }
            let before = done;
            done = done.wrapping_add(1);
            let [number, _, mut entry_args @ ..] = self.read_multicall_entry(entry)?;
            if number == MULTICALL {
                self.write_multicall_result(entry, Errno::Inval.to_return_value())?;
                continue;
            }
            self.domain.counters.count(Counted::Subcall);
            let Outcome { value, next } = self.hypercall(number, &mut entry_args);
            match next {
                Next::Answer if number == IRET => return Ok(value),
                Next::Answer => self.write_multicall_result(entry, value)?,
                Next::Again => {
                    self.write_multicall_args(entry, &entry_args)?;
                    return Err(request.rest_from(entry, before).leave(args));
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

impl Multicall {
    /// What is left from an entry on, before which there are so many.
    const fn rest_from(self, entry: EntryPlace, before: u64) -> Self {
        Self { list: entry.start(), count: self.count.wrapping_sub(uint(before)) }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Does the updates of a list, one after the other, until one is refused or `act` says that there has been enough
    /// work; tells the guest how many were done, and leaves the rest.
    #[inline(always)]
    pub(super) fn do_updates<const N: usize>(
        &self,
        request: Updates,
        list: GuestPtr<[u64; N]>,
        args: &mut Args,
        mut act: impl FnMut([u64; N]) -> Result<IsEnough, Stop>,
    ) -> Reply {
        let mut done = 0_u64;
        let mut outcome = Ok(0);
        while done < request.count {
            let acted = match list.read_words(self.machine(), done) {
                Ok(update) => act(update),
                Err(error) => Err(error.into()),
            };
            match acted {
                Ok(is_enough) => {
                    done = done.wrapping_add(1);
                    if is_enough && done < request.count {
                        outcome = Err(Stop::Unfinished);
                        break;
                    }
                }
                Err(stop) => {
                    outcome = Err(stop);
                    break;
                }
            }
        }
        drop(act);
        if request.done_at != 0 {
            self.report_done(&request, done);
        }
        if outcome == Err(Stop::Unfinished) {
            return Err(request.after::<N>(done).leave(args));
        }
        outcome
    }

    /// Tells the guest how many updates were done, where it wants to know.
    fn report_done(&self, request: &Updates, done: u64) {
        if let Ok(place) = GuestPtr::<u32>::one(request.done_at) {
            let before = if request.is_continued { place.read(self.machine(), 0).unwrap_or(0) } else { 0 };
            // A count that cannot be written is the guest's own loss.
            let _ = place.write(self.machine(), 0, &before.wrapping_add(uint(done)));
        }
    }
}
