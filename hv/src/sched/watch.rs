//! Whether a CPU still leaves the hypervisor: what the watchdog asks each of them every so often, by
//! an interrupt that none can mask.
//!
//! A look that finds the hypervisor running leaves a note among the CPU's work, which goes with all other work whenever
//! the CPU leaves for a guest or idles. A note that the next look still finds says that the CPU has done neither since.

use crate::{atomic_flags::AtomicFlags, sched::work::Work};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What the looks at one CPU have found.
#[derive(Debug, Default)]
pub struct Watch {
    /// When the note was left, in ticks.
    since: AtomicU64,
    /// Looks that have found it since.
    finds: AtomicU32,
}

/// When a CPU counts as stuck. Both must be reached: a machine that is itself a program may stand still for a while,
/// and its clock not; and what else than the watchdog may send such an interrupt is nobody's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Ticks.
    pub ticks: u64,
    /// Looks.
    pub looks: u32,
}

impl Watch {
    /// Nobody has looked.
    #[must_use]
    pub const fn new() -> Self {
        Self { since: AtomicU64::new(0), finds: AtomicU32::new(0) }
    }

    /// A look at the CPU that it interrupts, whose work is `work`, at the moment `now` in ticks. Returns whether the
    /// CPU is stuck in the hypervisor. (A CPU that had just looked for work as the note was left may run a guest with
    /// the note; the next look finds the guest, or the note is gone.)
    pub fn look(&self, work: &AtomicFlags<Work>, is_in_guest: bool, now: u64, patience: Patience) -> bool {
        let was_noted = if is_in_guest {
            work.remove(Work::WATCHED, Ordering::Relaxed);
            false
        } else {
            work.insert(Work::WATCHED, Ordering::Relaxed).contains(Work::WATCHED)
        };
        if !was_noted {
            self.since.store(now, Ordering::Relaxed);
            self.finds.store(0, Ordering::Relaxed);
            return false;
        }
        let finds = self.finds.load(Ordering::Relaxed).saturating_add(1);
        self.finds.store(finds, Ordering::Relaxed);
        finds >= patience.looks && now.saturating_sub(self.since.load(Ordering::Relaxed)) >= patience.ticks
    }

    /// Ticks for which the CPU has been in the hypervisor, as far as the looks tell; 0 if it has left in between.
    #[must_use]
    pub fn stuck_for(&self, work: &AtomicFlags<Work>, now: u64) -> u64 {
        let is_noted = work.load(Ordering::Relaxed).contains(Work::WATCHED) && self.finds.load(Ordering::Relaxed) != 0;
        if is_noted { now.saturating_sub(self.since.load(Ordering::Relaxed)) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { ticks: 100, looks: 5 };

    /// Looks every so many ticks; says at which it finds the CPU stuck.
    fn first_alarm(step: u64, mut is_in_guest: impl FnMut(&AtomicFlags<Work>, u64) -> bool) -> Option<u64> {
        let (watch, work) = (Watch::new(), AtomicFlags::empty());
        (1..=60).find(|&number| {
            let is_in_guest = is_in_guest(&work, number);
            watch.look(&work, is_in_guest, 1000 + number * step, PATIENCE)
        })
    }

    #[test]
    fn a_cpu_that_does_not_leave_is_stuck_when_both_looks_and_time_say_so() {
        assert_eq!(first_alarm(20, |_, _| false), Some(6), "five looks after the one that left the note");
        assert_eq!(first_alarm(1, |_, _| false), None, "sixty looks are not a hundred ticks");
        assert_eq!(first_alarm(10, |_, _| false), Some(11));
        assert_eq!(first_alarm(1_000_000, |_, _| false), Some(6), "a machine that stood still gets its looks");
    }

    #[test]
    fn who_leaves_or_runs_a_guest_is_not_stuck() {
        // It does its work now and then, but never twice in four looks.
        let leaves = |work: &AtomicFlags<Work>, number: u64| {
            if number.is_multiple_of(5) {
                work.take(Ordering::SeqCst);
            }
            false
        };
        assert_eq!(first_alarm(1000, leaves), None);
        assert_eq!(first_alarm(1000, |_, number| number.is_multiple_of(5)), None);
        // A guest that runs with the note has it taken back.
        let (watch, work) = (Watch::new(), AtomicFlags::empty());
        assert!(!watch.look(&work, false, 10, PATIENCE));
        assert!(work.load(Ordering::SeqCst).contains(Work::WATCHED));
        assert!(!watch.look(&work, true, 1000, PATIENCE));
        assert!(work.load(Ordering::SeqCst).is_empty());
        assert!(!watch.look(&work, false, 2000, PATIENCE));
        assert_eq!(watch.stuck_for(&work, 2500), 0);
        assert!(!watch.look(&work, false, 3000, PATIENCE));
        assert_eq!(watch.stuck_for(&work, 3500), 1500);
    }

    #[test]
    fn other_work_stays() {
        let (watch, work) = (Watch::new(), AtomicFlags::new(Work::TIMER));
        watch.look(&work, false, 1, PATIENCE);
        watch.look(&work, true, 2, PATIENCE);
        assert_eq!(work.load(Ordering::SeqCst), Work::TIMER);
    }
}
