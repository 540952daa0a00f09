//! What a physical CPU shares with the others: what it has to do, and who is in its run queue.

use crate::{
    atomic_flags::AtomicFlags,
    domain::{Domain, vcpu::Vcpu},
    lock::{Lock, rank},
    mem::frame_type::Owner,
    sched::{
        deadlines::{Deadlines, NEVER},
        run_queue::RunQueue,
        watch::Watch,
    },
};
use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use spin::Once;

pub use crate::sched::work::Work;

/// Vcpus that one CPU can have.
pub const MAX_ENTITIES: usize = 512;

/// No domain's slot.
const NOBODY: u16 = u16::MAX;

/// What a physical CPU shares with the others.
#[derive(Debug)]
pub struct CpuShared {
    /// What is to be done before guest code runs again on this CPU.
    pub work: AtomicFlags<Work>,
    /// Whether it leaves the hypervisor.
    pub watch: Watch,
    /// Its run queue, and who is in it; set when the CPU is brought up.
    pub(crate) sched: Once<Lock<CpuSched, { rank::RUN_QUEUE }>>,
    pub(crate) deadlines: Once<Lock<Deadlines, { rank::DEADLINES }>>,
    /// When the running vcpu's turn ends, in nanoseconds of system time.
    pub(crate) slice_end: AtomicU64,
    /// For when the timer is armed, in nanoseconds of system time.
    pub(crate) armed: AtomicU64,
    /// Whether others may find work here; a hint, for who then locks the queue.
    pub(crate) is_crowded: AtomicBool,
    /// The domain that ran last and taught it to predict, by its slot in the domain table.
    pub(crate) taught_by: AtomicU16,
    /// Nanoseconds without anything to do.
    pub(crate) idle_time: AtomicU64,
}

/// The run queue of a CPU, and who is in it.
#[derive(Debug)]
pub(crate) struct CpuSched {
    pub(crate) queue: RunQueue,
    /// Whom each entity of the queue stands for.
    pub(crate) units: Box<[Option<Unit>]>,
}

/// What is scheduled (Xen's `sched_unit`): a vcpu, with its domain.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) domain: Arc<Domain>,
    pub(crate) vcpu: Arc<Vcpu>,
}

impl CpuShared {
    /// A CPU that does not run guests yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            work: AtomicFlags::empty(),
            watch: Watch::new(),
            sched: Once::new(),
            deadlines: Once::new(),
            slice_end: AtomicU64::new(NEVER),
            armed: AtomicU64::new(NEVER),
            is_crowded: AtomicBool::new(false),
            taught_by: AtomicU16::new(NOBODY),
            idle_time: AtomicU64::new(0),
        }
    }

    /// Nanoseconds that this CPU had nothing to do.
    #[must_use]
    pub fn idle_time(&self) -> u64 {
        self.idle_time.load(Ordering::Relaxed)
    }

    /// This CPU had nothing to do for so many nanoseconds. Nobody else writes that down.
    pub(crate) fn add_idle_time(&self, nanoseconds: u64) {
        self.idle_time.store(self.idle_time().wrapping_add(nanoseconds), Ordering::Relaxed);
    }

    /// A domain comes on this CPU; returns whether another one was the last.
    pub fn comes_from_another(&self, owner: Owner) -> bool {
        let slot = slot_of(owner);
        self.taught_by.swap(slot, Ordering::Relaxed) != slot
    }

    /// A slot of the domain table has become another domain's.
    pub(crate) fn forget_teacher(&self, owner: Owner) {
        let (slot, to) = (slot_of(owner), Ordering::Relaxed);
        let _ = self.taught_by.compare_exchange(slot, NOBODY, to, to);
    }

    /// Whether this CPU runs guests.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.sched.is_completed()
    }
}

fn slot_of(owner: Owner) -> u16 {
    owner.slot().map_or(NOBODY, |slot| slot as u16)
}

impl Default for CpuShared {
    fn default() -> Self {
        Self::new()
    }
}
