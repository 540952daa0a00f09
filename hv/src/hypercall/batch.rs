//! `multicall`: several hypercalls for one entry into the hypervisor (`multicall_entry_t`, `xen.h`).

use super::{
    Next, Outcome,
    args::{Multicall, Resume, Updates},
};
use crate::{
    Hypervisor,
    addr::{GuestRecords, GuestWords},
    caller::Caller,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Reply, Stop},
};
use oxen_abi::errno::Errno;

/// Whether what may be done at once is spent ([`Budget`](crate::mem::editor::Budget)).
pub(super) type IsSpent = bool;

/// Operation, result, six arguments.
type EntryPlace = GuestWords<8>;
type Entries = GuestRecords<8>;

impl<M: Machine> Caller<'_, M> {
    /// `multicall(entries, count)`: each result goes into its entry; the answer is 0 unless the entries cannot be read.
    ///
    /// # Errors
    /// `Fault` for unreadable entries, `Inval` inside another multicall.
    #[inline]
    pub fn multicall(&mut self, args: &mut Args) -> Reply {
        self.multicall_by(args, Self::hypercall_in_batch)
    }

    /// The same, each entry in this way.
    #[inline(always)]
    pub(super) fn multicall_by(
        &mut self,
        args: &mut Args,
        call: impl Fn(&mut Self, u64, &mut Args) -> Outcome,
    ) -> Reply {
        let request = Multicall::from(&*args);
        let mut left = GuestRecords::new(request.list, request.count).ok_or(Errno::Fault)?;
        while let Some((entry, rest)) = left.split_first() {
            let [number, _, mut entry_args @ ..] = self.read_multicall_entry(entry)?;
            let outcome = call(self, number, &mut entry_args);
            if outcome.next != Next::Answer {
                return self.end_batch(outcome, left, &entry_args, args);
            }
            self.write_multicall_result(entry, outcome.value)?;
            debug_assert!(self.state.in_kernel, "only iret leaves the kernel");
            left = rest;
            if left.count() != 0 && self.must_yield() {
                return Err(Multicall::from(left).leave(args));
            }
        }
        Ok(0)
    }

    /// A batch ends with the first of the entries that are left, which has no answer.
    #[cold]
    fn end_batch(&self, outcome: Outcome, left: Entries, entry_args: &Args, args: &mut Args) -> Reply {
        match outcome.next {
            Next::Answer | Next::Leave => Ok(outcome.value),
            Next::Again => {
                if let Some((entry, _)) = left.split_first() {
                    let place = entry.part::<2, 6>();
                    self.hv.machine().write_guest_words(place, *entry_args).map_err(|_| Errno::Fault)?;
                }
                Err(Multicall::from(left).leave(args))
            }
            Next::Crash(fault) => Err(Stop::Fatal(fault)),
        }
    }

    #[inline]
    fn read_multicall_entry(&self, entry: EntryPlace) -> Result<[u64; 8], Errno> {
        self.hv.machine().read_guest_words(entry).map_err(|_| Errno::Fault)
    }

    #[inline]
    fn write_multicall_result(&self, entry: EntryPlace, result: u64) -> Result<(), Errno> {
        self.hv.machine().write_guest_words(entry.part::<1, 1>(), [result]).map_err(|_| Errno::Fault)
    }
}

impl From<Entries> for Multicall {
    fn from(entries: Entries) -> Self {
        Self { list: entries.start(), count: entries.count() }
    }
}

/// How far a list of updates was done.
pub(super) struct Progress<const N: usize> {
    done: u32,
    left: GuestRecords<N>,
    outcome: Reply,
}

impl<M: Machine> Hypervisor<M> {
    /// Does the updates of a list, one after the other, until one is refused or what `act` may do at once is
    /// spent. Call [`Self::answer_updates`] when what they needed has been let go.
    #[inline(always)]
    pub(super) fn do_updates<const N: usize>(
        &self,
        list: GuestRecords<N>,
        mut act: impl FnMut([u64; N]) -> Result<IsSpent, Stop>,
    ) -> Progress<N> {
        let mut left = list;
        let outcome = loop {
            let Some((update, rest)) = left.split_first() else { break Ok(0) };
            let acted = match self.machine().read_guest_words(update) {
                Ok(update) => act(update),
                Err(_) => Err(Errno::Fault.into()),
            };
            match acted {
                Ok(is_spent) => {
                    left = rest;
                    if is_spent && left.count() != 0 {
                        break Err(Stop::Unfinished);
                    }
                }
                Err(stop) => break Err(stop),
            }
        };
        Progress { done: list.count().wrapping_sub(left.count()), left, outcome }
    }

    /// Tells the guest how many updates were done, and leaves the rest.
    #[inline(always)]
    pub(super) fn answer_updates<const N: usize>(
        &self,
        request: Updates,
        progress: Progress<N>,
        args: &mut Args,
    ) -> Reply {
        let Progress { done, left, outcome } = progress;
        self.report_done(&request, done);
        if outcome == Err(Stop::Unfinished) {
            return Err(request.rest(left).leave(args));
        }
        outcome
    }

    /// Tells the guest how many updates were done, where it wants to know.
    #[inline]
    pub(super) fn report_done(&self, request: &Updates, done: u32) {
        if request.done_at != 0 {
            self.write_done(request, done);
        }
    }

    fn write_done(&self, request: &Updates, done: u32) {
        if let Ok(place) = GuestPtr::<u32>::one(request.done_at) {
            let before = if request.is_continued { place.read(self.machine(), 0).unwrap_or(0) } else { 0 };
            // A count that cannot be written is the guest's own loss.
            let _ = place.write(self.machine(), 0, &before.wrapping_add(done));
        }
    }
}
