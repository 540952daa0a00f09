//! What happens at a moment: one-shot and periodic timers, ends of polling, watchdogs, ends of turns.

use super::{CpuShared, deadlines::NEVER, tell, unpause, work};
use crate::{
    Hypervisor,
    caller::Caller,
    domain::{
        self, Domain,
        vcpu::{Vcpu, pause},
    },
    event,
    machine::{CpuId, Machine},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{sched::SHUTDOWN_WATCHDOG, virq::VIRQ_TIMER};

/// Watchdogs that a domain has.
pub const WATCHDOGS: usize = 2;

/// Sets the one-shot timer of the calling vcpu to a system time; a time in the past fires at once.
#[inline]
pub fn set_one_shot<M: Machine>(caller: &Caller<'_, M>, at: u64) {
    caller.vcpu.timer.store(at, Ordering::Relaxed);
    refresh(caller.hv, caller.vcpu);
}

/// Stops the one-shot timer of the calling vcpu.
pub fn stop_one_shot<M: Machine>(caller: &Caller<'_, M>) {
    caller.vcpu.timer.store(NEVER, Ordering::Relaxed);
    refresh(caller.hv, caller.vcpu);
}

/// Starts the periodic timer of a vcpu, or stops it with a period of 0.
pub fn set_periodic<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu, period: u64) {
    vcpu.sched.period.store(period, Ordering::Relaxed);
    let next = if period == 0 { NEVER } else { hv.now().saturating_add(period) };
    vcpu.sched.next_tick.store(next, Ordering::Relaxed);
    refresh(hv, vcpu);
}

/// Ends the polling of the calling vcpu at a system time, unless a port does before; [`NEVER`] forgets an earlier end.
pub(super) fn set_poll_end<M: Machine>(caller: &Caller<'_, M>, at: u64) {
    if caller.vcpu.sched.poll_deadline.swap(at, Ordering::Relaxed) != at {
        refresh(caller.hv, caller.vcpu);
    }
}

/// Sets one of the domain's watchdogs, below [`WATCHDOGS`], to a system time; [`NEVER`] stops it.
pub fn set_watchdog<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, which: usize, at: u64) {
    let Some(vcpu) = domain.vcpu(0) else { return };
    if let Some(watchdog) = vcpu.sched.watchdogs.get(which) {
        watchdog.store(at, Ordering::Relaxed);
        refresh(hv, vcpu);
    }
}

/// Whether one of the domain's watchdogs is set.
#[must_use]
pub fn watchdog_is_set(domain: &Domain, which: usize) -> bool {
    let watchdog = domain.vcpu(0).and_then(|v| v.sched.watchdogs.get(which));
    watchdog.is_some_and(|w| w.load(Ordering::Relaxed) != NEVER)
}

/// Stops everything that a vcpu waits for.
pub fn stop_all<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu) {
    let sched = &vcpu.sched;
    for timer in [&vcpu.timer, &sched.next_tick, &sched.poll_deadline].into_iter().chain(&sched.watchdogs) {
        timer.store(NEVER, Ordering::Relaxed);
    }
    refresh(hv, vcpu);
}

fn earliest(vcpu: &Vcpu) -> u64 {
    let sched = &vcpu.sched;
    let own = [&vcpu.timer, &sched.next_tick, &sched.poll_deadline];
    own.into_iter().chain(&sched.watchdogs).map(|t| t.load(Ordering::Relaxed)).min().unwrap_or(NEVER)
}

/// Enters the earliest of the vcpu's deadlines into its CPU's queue.
#[inline]
pub(super) fn refresh<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu) {
    let Some((cpu, first)) = enter(hv, vcpu) else { return };
    let Some(shared) = hv.cpu(cpu) else { return };
    if cpu == hv.machine.this_cpu() {
        arm(hv, shared, first, hv.now());
    } else if first < shared.armed.load(Ordering::Relaxed) {
        tell(hv, cpu, work::TIMER);
    }
}

/// Does so, and returns the CPU and the earliest deadline there.
fn enter<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu) -> Option<(CpuId, u64)> {
    loop {
        let (cpu, seat) = vcpu.sched.seat()?;
        let mut deadlines = hv.cpu(cpu)?.deadlines.get()?.lock();
        // Who moves it says so first and then takes out what stands here.
        if vcpu.sched.seat() == Some((cpu, seat)) {
            // Read under the lock, so that of two changes the later one sees both.
            deadlines.set(seat, earliest(vcpu));
            return Some((cpu, deadlines.first()));
        }
    }
}

/// Arms this CPU's timer, unless it is armed for an earlier moment.
fn arm<M: Machine>(hv: &Hypervisor<M>, shared: &CpuShared, deadline: u64, now: u64) {
    if deadline <= now {
        shared.work.fetch_or(work::TIMER, Ordering::Relaxed);
    } else if deadline < shared.armed.load(Ordering::Relaxed) {
        shared.armed.store(deadline, Ordering::Relaxed);
        hv.machine.arm(hv.time.ticks_at(&hv.machine, deadline));
    }
}

/// Arms this CPU's timer for the next thing that happens: the running vcpu's turn ends at `slice_end`.
pub(super) fn arm_next<M: Machine>(hv: &Hypervisor<M>, shared: &CpuShared, slice_end: u64, now: u64) {
    shared.slice_end.store(slice_end, Ordering::Relaxed);
    let first = shared.deadlines.get().map_or(NEVER, |d| d.lock().first());
    arm(hv, shared, first.min(slice_end), now);
}

/// Does what is due on this CPU.
pub(super) fn expire<M: Machine>(hv: &'static Hypervisor<M>, cpu: CpuId, now: u64) {
    let Some(shared) = hv.cpu(cpu) else { return };
    shared.armed.store(NEVER, Ordering::Relaxed);
    let (Some(plan), Some(deadlines)) = (shared.plan.get(), shared.deadlines.get()) else { return };
    // Every seat is due once at most: what it sets next is after `now`.
    while let Some(seat) = { deadlines.lock().pop(now) } {
        let occupant = plan.lock().occupants.get(seat.index()).cloned().flatten();
        if let Some(occupant) = occupant {
            fire(hv, &occupant.domain, &occupant.vcpu, now);
            let _ = enter(hv, &occupant.vcpu);
        }
    }
}

fn fire<M: Machine>(hv: &'static Hypervisor<M>, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>, now: u64) {
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
        event::virq::raise(hv, domain, vcpu.id, VIRQ_TIMER);
    }
    if sched.poll_deadline.load(Ordering::Relaxed) <= now {
        sched.poll_deadline.store(NEVER, Ordering::Relaxed);
        if domain.events.end_poll(vcpu) && vcpu.pauses.load(Ordering::Relaxed) & pause::POLLING != 0 {
            unpause(hv, vcpu, pause::WAITING);
        }
    }
    for watchdog in &sched.watchdogs {
        if watchdog.load(Ordering::Relaxed) <= now {
            watchdog.store(NEVER, Ordering::Relaxed);
            domain::shut_down(hv, domain, SHUTDOWN_WATCHDOG);
        }
    }
}
