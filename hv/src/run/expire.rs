//! What is due at a moment: timers, ends of polling, watchdogs.

use crate::{
    Hypervisor,
    domain::{
        Domain,
        vcpu::{Pauses, Vcpu},
    },
    hardware::CpuId,
    machine::Machine,
    sched::deadlines::NEVER,
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{sched::SHUTDOWN_WATCHDOG, virq::VIRQ_TIMER};

impl<M: Machine> Hypervisor<M> {
    /// Does what is due on this CPU.
    pub(super) fn expire_deadlines(&'static self, cpu: CpuId, now: u64) {
        let Some(shared) = self.cpu(cpu) else { return };
        shared.armed.store(NEVER, Ordering::Relaxed);
        let (Some(sched), Some(deadlines)) = (shared.sched.get(), shared.deadlines.get()) else { return };
        // Every entity is due once at most: what it sets next is after `now`.
        while let Some(id) = { deadlines.lock().pop(now) } {
            let unit = sched.lock().units.get(id.index()).cloned().flatten();
            if let Some(unit) = unit {
                self.fire_deadlines(&unit.domain, &unit.vcpu, now);
                let _ = self.enter_deadline(&unit.vcpu);
            }
        }
    }

    fn fire_deadlines(&'static self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>, now: u64) {
        let sched = &vcpu.sched;
        let mut ticks = false;
        if vcpu.timer.load(Ordering::Relaxed) <= now {
            vcpu.timer.store(NEVER, Ordering::Relaxed);
            ticks = true;
        }
        let tick = sched.next_tick.load(Ordering::Relaxed);
        if tick <= now {
            let period = sched.period.load(Ordering::Relaxed).max(1);
            // Ticks that were missed are gone.
            sched.next_tick.store(now.saturating_add(period - (now - tick) % period), Ordering::Relaxed);
            ticks = true;
        }
        if ticks {
            self.raise_virq(domain, vcpu, VIRQ_TIMER);
        }
        if sched.poll_deadline.load(Ordering::Relaxed) <= now {
            sched.poll_deadline.store(NEVER, Ordering::Relaxed);
            if domain.events.end_poll(&vcpu.events) && vcpu.pauses.load(Ordering::Relaxed).intersects(Pauses::POLLING) {
                self.unpause_vcpu(vcpu, Pauses::WAITING);
            }
        }
        for watchdog in &sched.watchdogs {
            if watchdog.load(Ordering::Relaxed) <= now {
                watchdog.store(NEVER, Ordering::Relaxed);
                self.shut_down(domain, SHUTDOWN_WATCHDOG);
            }
        }
    }
}
