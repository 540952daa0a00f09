//! What the scheduler keeps with a vcpu: which CPU it is assigned to, what it waits for.

use super::{deadlines::NEVER, run_queue::EntityId, runstate};
use crate::{
    hardware::CpuId,
    lock::{Lock, rank},
};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// In place of a CPU's number: the vcpu's kernel asked for none.
pub const NO_OVERRIDE: u32 = u32::MAX;
/// Watchdogs that a domain has.
pub const WATCHDOGS: usize = 2;

/// What the scheduler keeps with a vcpu.
#[derive(Debug)]
pub struct VcpuSched {
    /// The CPU that it is assigned to in the upper half, its entity there in the lower; [`UNASSIGNED`].
    pub(crate) assignment: AtomicU32,
    /// Whether it executes guest code or the hypervisor's on its behalf.
    pub(crate) is_running: AtomicBool,
    /// CPUs it may run on, bit n for CPU n (`XEN_VCPUAFFINITY_HARD`).
    pub affinity: AtomicU64,
    /// The CPU that its kernel asked for (`SCHEDOP_pin_override`), in place of those; [`NO_OVERRIDE`].
    pub override_cpu: AtomicU32,
    /// What of that is in its domain's pool: what the scheduler obeys. Changed under the lock of the pools.
    pub allowed: AtomicU64,
    /// CPUs it would like to run on, of those (`XEN_VCPUAFFINITY_SOFT`).
    pub soft_affinity: AtomicU64,
    /// What it did how long.
    pub runstate: Lock<runstate::Runstate, { rank::RUNSTATE }>,
    /// Where the guest wants to read that, in its own address space; 0: nowhere.
    pub runstate_area: AtomicU64,
    /// Where the guest wants to read the time; 0: nowhere.
    pub time_area: AtomicU64,
    /// Whether it could not yet.
    pub time_is_due: AtomicBool,
    pub(crate) poll_deadline: AtomicU64,
    /// Nanoseconds between ticks of the periodic timer; 0: none.
    pub(crate) period: AtomicU64,
    pub(crate) next_tick: AtomicU64,
    /// When the domain's watchdogs bite; vcpu 0 keeps them.
    pub(crate) watchdogs: [AtomicU64; WATCHDOGS],
}

/// In place of an assignment: there is none.
pub(crate) const UNASSIGNED: u32 = u32::MAX;

impl VcpuSched {
    /// A vcpu that is assigned to no CPU, off since `now`.
    #[must_use]
    pub fn new(now: u64) -> Self {
        Self {
            assignment: AtomicU32::new(UNASSIGNED),
            is_running: AtomicBool::new(false),
            affinity: AtomicU64::new(u64::MAX),
            override_cpu: AtomicU32::new(NO_OVERRIDE),
            allowed: AtomicU64::new(u64::MAX),
            soft_affinity: AtomicU64::new(u64::MAX),
            runstate: Lock::new(runstate::Runstate::new(now)),
            runstate_area: AtomicU64::new(0),
            time_area: AtomicU64::new(0),
            time_is_due: AtomicBool::new(false),
            poll_deadline: AtomicU64::new(NEVER),
            period: AtomicU64::new(0),
            next_tick: AtomicU64::new(NEVER),
            watchdogs: [const { AtomicU64::new(NEVER) }; WATCHDOGS],
        }
    }

    /// The CPU that it is assigned to, and its entity in the run queue there.
    #[inline]
    pub(crate) fn assignment(&self) -> Option<(CpuId, EntityId)> {
        let word = self.assignment.load(Ordering::Acquire);
        (word != UNASSIGNED).then_some((CpuId((word >> 16) as u16), EntityId::new(word as u16)))
    }

    /// Notes that it is assigned to a CPU.
    pub(crate) fn assign(&self, cpu: CpuId, id: EntityId) {
        self.assignment.store(u32::from(cpu.0) << 16 | id.index() as u32, Ordering::Release);
    }

    /// Where the guest is to read the time before it goes on, 0: nowhere. What is told of an emulated counter is told
    /// anew each time.
    #[inline]
    pub(crate) fn time_area_due(&self, is_emulated: bool) -> u64 {
        let is_due = is_emulated || self.time_is_due.load(Ordering::Relaxed);
        if is_due { self.time_area.load(Ordering::Relaxed) } else { 0 }
    }

    /// The CPU that the vcpu runs on when it runs.
    #[must_use]
    pub fn cpu(&self) -> Option<CpuId> {
        self.assignment().map(|(cpu, _)| cpu)
    }

    /// Whether a CPU executes it at this moment.
    #[inline]
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.is_running.load(Ordering::SeqCst)
    }
}
