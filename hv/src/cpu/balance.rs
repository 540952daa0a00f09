//! From CPUs where several want to run to CPUs where nobody does: who has nothing to do takes a vcpu that waits
//! elsewhere.
//!
//! A CPU says that it idles before it looks elsewhere, and who wakes a vcpu looks for a CPU that idles after the vcpu
//! is queued: one of the two sees the other.

use crate::{
    Hypervisor,
    domain::vcpu::Vcpu,
    hardware::CpuId,
    lock,
    machine::Machine,
    per_cpu::{CpuSched, CpuShared, Unit, Work},
    sched::{
        VcpuSched,
        deadlines::NEVER,
        run_queue::{EntityId, RunQueue},
    },
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

impl<M: Machine> Hypervisor<M> {
    /// Says that this CPU has nothing to do.
    pub(crate) fn begin_idling(&self, cpu: CpuId) {
        self.idle_cpus.fetch_or(1 << cpu.0, Ordering::SeqCst);
    }

    /// Ends `begin_idling`.
    pub(crate) fn end_idling(&self, cpu: CpuId) {
        self.idle_cpus.fetch_and(!(1 << cpu.0), Ordering::SeqCst);
    }
}

/// Notes for others whether somebody waits who could run elsewhere, and says so. Its run queue is locked.
#[inline]
pub(crate) fn note(shared: &CpuShared, queue: &RunQueue) -> bool {
    let is_crowded = queue.is_crowded();
    if shared.is_crowded.load(Ordering::Relaxed) != is_crowded {
        shared.is_crowded.store(is_crowded, Ordering::SeqCst);
    }
    is_crowded
}

impl<M: Machine> Hypervisor<M> {
    /// Lets a CPU that idles look for work, if one may run what now waits at `cpu`.
    #[inline]
    pub(crate) fn offer_work(&self, cpu: CpuId, vcpu: &VcpuSched) {
        let idle = self.idle_cpus.load(Ordering::SeqCst) & vcpu.allowed.load(Ordering::Relaxed) & !(1 << cpu.0);
        if idle != 0 {
            let liked = idle & vcpu.soft_affinity.load(Ordering::Relaxed);
            let chosen = if liked != 0 { liked } else { idle };
            self.raise_work(CpuId(chosen.trailing_zeros() as u16), Work::RESCHEDULE);
        }
    }

    /// Takes a vcpu that waits at another CPU and may run here, if there is one; returns whether.
    pub(crate) fn take_over_vcpu(&self, cpu: CpuId) -> bool {
        let online = self.memory.frames.tlb.online();
        // Each looks at its neighbours first, so that not all look at the same one.
        let (before, after) = (online & ((1 << cpu.0) - 1), online & (u64::MAX << cpu.0 << 1));
        [after, before].into_iter().any(|mut others| {
            while others != 0 {
                let other = CpuId(others.trailing_zeros() as u16);
                others &= others - 1;
                if self.take_vcpu_from(cpu, other) {
                    return true;
                }
            }
            false
        })
    }

    fn take_vcpu_from(&self, cpu: CpuId, other: CpuId) -> bool {
        let (Some(shared), Some(from)) = (self.cpu(cpu), self.cpu(other)) else { return false };
        if !from.is_crowded.load(Ordering::SeqCst) {
            return false;
        }
        let (Some(here), Some(there)) = (shared.sched.get(), from.sched.get()) else { return false };
        let moved = {
            let (mut here, there) = lock::both((cpu.0.into(), here), (other.0.into(), there));
            let Some(mut there) = there else { return false };
            let moved = if note(from, &there.queue) { move_one(cpu, &mut here, &mut there) } else { None };
            if let Some((deadlines, (_, old))) = from.deadlines.get().zip(moved.as_ref()) {
                // As long as the queue is locked nobody else has the entity.
                deadlines.lock().set(*old, NEVER);
            }
            moved
        };
        let Some((vcpu, _)) = moved else { return false };
        self.refresh_deadline(&vcpu);
        true
    }
}

/// Moves the first that waits `there`, is wholly off its CPU and may run on `cpu`. Returns who, and its old entity.
fn move_one(cpu: CpuId, here: &mut CpuSched, there: &mut CpuSched) -> Option<(Arc<Vcpu>, EntityId)> {
    let CpuSched { queue, units } = there;
    let may_move = |id: EntityId, is_liked: fn(&VcpuSched, CpuId) -> bool| {
        let unit = units.get(id.index()).and_then(Option::as_ref);
        unit.is_some_and(|Unit { vcpu, .. }| {
            let is_off = vcpu.slot.try_lock().is_some_and(|slot| slot.is_some());
            is_off
                && vcpu.pauses.load(Ordering::SeqCst).is_empty()
                && vcpu.sched.allowed.load(Ordering::SeqCst) >> cpu.0 & 1 != 0
                && is_liked(&vcpu.sched, cpu)
        })
    };
    // Who would like to be here goes before who does not mind.
    let would_like = |vcpu: &VcpuSched, cpu: CpuId| vcpu.soft_affinity.load(Ordering::Relaxed) >> cpu.0 & 1 != 0;
    let old = queue.find_waiting(|id| may_move(id, would_like));
    let old = old.or_else(|| queue.find_waiting(|id| may_move(id, |_, _| true)))?;
    let new = here.queue.move_from(queue, old)?;
    let unit = units.get_mut(old.index())?.take()?;
    let vcpu = unit.vcpu.clone();
    vcpu.sched.assign(cpu, new);
    *here.units.get_mut(new.index())? = Some(unit);
    Some((vcpu, old))
}
