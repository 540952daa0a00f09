//! Setting what happens at a moment: one-shot and periodic timers, ends of polling, watchdogs, ends of turns.

use crate::{
    Hypervisor,
    caller::Caller,
    domain::{Domain, vcpu::Vcpu},
    hardware::CpuId,
    machine::Machine,
    per_cpu::{CpuShared, Work},
    sched::deadlines::NEVER,
};
use core::sync::atomic::Ordering;

impl<M: Machine> Caller<'_, M> {
    /// Sets the one-shot timer of the calling vcpu to a system time; a time in the past fires at once.
    #[inline]
    pub fn arm_one_shot(&self, at: u64) {
        self.vcpu.timer.store(at, Ordering::Relaxed);
        self.hv.refresh_deadline(self.vcpu);
    }

    /// Stops the one-shot timer of the calling vcpu.
    pub fn disarm_one_shot(&self) {
        self.vcpu.timer.store(NEVER, Ordering::Relaxed);
        self.hv.refresh_deadline(self.vcpu);
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Starts the periodic timer of a vcpu, or stops it with a period of 0.
    pub fn set_periodic_timer(&self, vcpu: &Vcpu, period: u64) {
        vcpu.sched.period.store(period, Ordering::Relaxed);
        let next = if period == 0 { NEVER } else { self.now().saturating_add(period) };
        vcpu.sched.next_tick.store(next, Ordering::Relaxed);
        self.refresh_deadline(vcpu);
    }
}

impl<M: Machine> Caller<'_, M> {
    /// Ends the polling of the calling vcpu at a system time, unless a port does before; [`NEVER`] forgets an earlier
    /// end.
    pub(crate) fn set_poll_end(&self, at: u64) {
        if self.vcpu.sched.poll_deadline.swap(at, Ordering::Relaxed) != at {
            self.hv.refresh_deadline(self.vcpu);
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Sets one of the domain's watchdogs, below [`WATCHDOGS`](crate::sched::vcpu::WATCHDOGS), to a system time;
    /// [`NEVER`] stops it.
    pub fn set_watchdog(&self, domain: &Domain, which: usize, at: u64) {
        let Some(vcpu) = domain.vcpu(0) else { return };
        if let Some(watchdog) = vcpu.sched.watchdogs.get(which) {
            watchdog.store(at, Ordering::Relaxed);
            self.refresh_deadline(vcpu);
        }
    }
}

/// Whether one of the domain's watchdogs is set.
#[must_use]
pub fn watchdog_is_set(domain: &Domain, which: usize) -> bool {
    let watchdog = domain.vcpu(0).and_then(|v| v.sched.watchdogs.get(which));
    watchdog.is_some_and(|w| w.load(Ordering::Relaxed) != NEVER)
}

impl<M: Machine> Hypervisor<M> {
    /// Stops everything that a vcpu waits for.
    pub fn stop_timers(&self, vcpu: &Vcpu) {
        let sched = &vcpu.sched;
        for timer in [&vcpu.timer, &sched.next_tick, &sched.poll_deadline].into_iter().chain(&sched.watchdogs) {
            timer.store(NEVER, Ordering::Relaxed);
        }
        self.refresh_deadline(vcpu);
    }
}

fn earliest(vcpu: &Vcpu) -> u64 {
    let sched = &vcpu.sched;
    let own = [&vcpu.timer, &sched.next_tick, &sched.poll_deadline];
    own.into_iter().chain(&sched.watchdogs).map(|t| t.load(Ordering::Relaxed)).min().unwrap_or(NEVER)
}

impl<M: Machine> Hypervisor<M> {
    /// Enters the earliest of the vcpu's deadlines into its CPU's queue.
    #[inline]
    pub(crate) fn refresh_deadline(&self, vcpu: &Vcpu) {
        let Some((cpu, first)) = self.enter_deadline(vcpu) else { return };
        let Some(shared) = self.cpu(cpu) else { return };
        // A timer that is armed for an earlier moment looks then for what else there is.
        if first >= shared.armed.load(Ordering::Relaxed) {
            return;
        }
        if cpu == self.machine().this_cpu() {
            self.arm_timer(shared, first, self.now());
        } else {
            self.raise_work(cpu, Work::TIMER);
        }
    }

    /// Does so, and returns the CPU and the earliest deadline there.
    pub(crate) fn enter_deadline(&self, vcpu: &Vcpu) -> Option<(CpuId, u64)> {
        loop {
            let (cpu, id) = vcpu.sched.assignment()?;
            let mut deadlines = self.cpu(cpu)?.deadlines.get()?.lock();
            // Who moves it says so first and then takes out what stands here.
            if vcpu.sched.assignment() == Some((cpu, id)) {
                // Read under the lock, so that of two changes the later one sees both.
                deadlines.set(id, earliest(vcpu));
                return Some((cpu, deadlines.first()));
            }
        }
    }

    /// Arms this CPU's timer, unless it is armed for an earlier moment.
    pub(crate) fn arm_timer(&self, shared: &CpuShared, deadline: u64, now: u64) {
        if deadline <= now {
            shared.work.insert(Work::TIMER, Ordering::Relaxed);
        } else if deadline < shared.armed.load(Ordering::Relaxed) {
            shared.armed.store(deadline, Ordering::Relaxed);
            self.machine().arm(self.time.ticks_at(self.machine(), deadline));
        }
    }

    /// Arms this CPU's timer for the next thing that happens: the running vcpu's turn ends at `slice_end`.
    pub(crate) fn arm_timer_for_next(&self, shared: &CpuShared, slice_end: u64, now: u64) {
        shared.slice_end.store(slice_end, Ordering::Relaxed);
        let first = shared.deadlines.get().map_or(NEVER, |d| d.lock().first());
        self.arm_timer(shared, first.min(slice_end), now);
    }
}
