//! What is due at a moment: timers, ends of polling, watchdogs.

use crate::{
    Hypervisor,
    caller::Current,
    domain::{
        Domain,
        vcpu::{Pauses, Vcpu},
    },
    hardware::CpuId,
    machine::Machine,
    sched::deadlines::NEVER,
};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use oxen_abi::{sched::SHUTDOWN_WATCHDOG, virq::VIRQ_TIMER};

impl<M: Machine> Hypervisor<M> {
    /// Does what is due on this CPU, whose vcpu is `current`. Returns the earliest deadline of those that are left.
    pub(super) fn expire_deadlines(&'static self, cpu: CpuId, now: u64, current: Option<&Current>) -> u64 {
        let Some(shared) = self.cpu(cpu) else { return NEVER };
        shared.armed.store(NEVER, Ordering::Relaxed);
        let (Some(sched), Some(deadlines)) = (shared.sched.get(), shared.deadlines.get()) else { return NEVER };
        // Every entity is due once at most: what it sets next is after `now`.
        loop {
            let (due, first) = {
                let mut deadlines = deadlines.lock();
                (deadlines.pop(now), deadlines.first())
            };
            let Some(id) = due else { return first };
            let next = match current.filter(|current| current.vcpu.sched.assignment() == Some((cpu, id))) {
                Some(Current { domain, vcpu, .. }) => self.fire_and_enter(domain, vcpu, now),
                None => {
                    let unit = sched.lock().units.get(id.index()).cloned().flatten();
                    unit.and_then(|unit| self.fire_and_enter(&unit.domain, &unit.vcpu, now))
                }
            };
            match next {
                Some((queue, first)) if queue == cpu && first > now => return first,
                _ => {}
            }
        }
    }

    /// Does what is due for a vcpu; returns the CPU at which it waits for what comes next, and the earliest there.
    #[inline(never)]
    fn fire_and_enter(&'static self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>, now: u64) -> Option<(CpuId, u64)> {
        self.fire_deadlines(domain, vcpu, now);
        self.enter_deadline(vcpu)
    }

    fn fire_deadlines(&'static self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>, now: u64) {
        let sched = &vcpu.sched;
        let next_tick = |tick| {
            let period = sched.period.load(Ordering::Relaxed).max(1);
            // Ticks that were missed are gone.
            now.saturating_add(period - (now - tick) % period)
        };
        let is_over = take_due(&vcpu.timer, now, |_| NEVER);
        if take_due(&sched.next_tick, now, next_tick) || is_over {
            self.raise_virq(domain, vcpu, VIRQ_TIMER);
        }
        if take_due(&sched.poll_deadline, now, |_| NEVER)
            && domain.events.end_poll(&vcpu.events)
            && vcpu.pauses.load(Ordering::Relaxed).intersects(Pauses::POLLING)
        {
            self.unpause_vcpu(vcpu, Pauses::WAITING);
        }
        for watchdog in &sched.watchdogs {
            if take_due(watchdog, now, |_| NEVER) {
                self.shut_down(domain, SHUTDOWN_WATCHDOG);
            }
        }
    }
}

/// Puts the next moment in the place of one that has come; returns whether it had. One that is set meanwhile stays: the
/// vcpu may have gone to another CPU, and run there, since its deadline came up on this one.
#[inline(always)]
fn take_due(deadline: &AtomicU64, now: u64, next: impl Fn(u64) -> u64) -> bool {
    let at = deadline.load(Ordering::Relaxed);
    at <= now && deadline.compare_exchange(at, next(at), Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_is_set_while_the_last_one_comes_up_stays() {
        let deadline = AtomicU64::new(1);
        let is_due = take_due(&deadline, 10, |_| {
            deadline.store(20, Ordering::Relaxed);
            NEVER
        });
        assert_eq!((is_due, deadline.load(Ordering::Relaxed)), (false, 20));
        assert!(take_due(&deadline, 20, |at| at + 30));
        assert!(!take_due(&deadline, 49, |_| NEVER), "the next one is due at 50");
    }
}
