//! How the calling vcpu lets go of its CPU: yielding, blocking, polling.

use super::{deadlines::NEVER, timers, unpause, work};
use crate::{caller::Caller, domain::vcpu::pause, event, machine::Machine};
use core::sync::atomic::Ordering;

/// Lets others on this CPU go first, if there are any.
#[inline]
pub fn yield_now<M: Machine>(caller: &Caller<'_, M>) {
    let Some(shared) = caller.hv.cpu(caller.cpu) else { return };
    if shared.plan.get().is_some_and(|plan| plan.lock().queue.has_waiting()) {
        shared.work.fetch_or(work::RESCHEDULE | work::YIELD, Ordering::Relaxed);
    }
}

/// Waits for an event that is not masked; with one there already, goes on at once.
#[inline]
pub fn block<M: Machine>(caller: &Caller<'_, M>) {
    caller.vcpu.pauses.fetch_or(pause::BLOCKED, Ordering::SeqCst);
    // Looked at after the bit is set: whoever raises an event later finds the bit and clears it.
    if event_waits(caller) {
        caller.vcpu.pauses.fetch_and(!pause::BLOCKED, Ordering::SeqCst);
    } else {
        reschedule(caller);
    }
}

/// Waits for an event on one of these ports, masked or not, or for any event that is not masked, or until `deadline`
/// (system time). Goes on at once if one is there.
pub fn poll<M: Machine>(caller: &Caller<'_, M>, ports: &[u32], deadline: Option<u64>) {
    let only = if let [port] = ports { *port } else { 0 };
    caller.vcpu.pauses.fetch_or(pause::POLLING, Ordering::SeqCst);
    caller.domain.events.begin_poll(caller.vcpu, only);
    let is_pending = |&port: &u32| event::deliver::is_pending(caller.hv, caller.domain, port);
    if event_waits(caller) || ports.iter().any(is_pending) {
        caller.domain.events.end_poll(caller.vcpu);
        unpause(caller.hv, caller.vcpu, pause::POLLING);
        return;
    }
    timers::set_poll_end(caller, deadline.unwrap_or(NEVER));
    reschedule(caller);
}

/// Has the calling vcpu's CPU choose again before the guest goes on.
#[inline]
pub fn reschedule<M: Machine>(caller: &Caller<'_, M>) {
    if let Some(shared) = caller.hv.cpu(caller.cpu) {
        shared.work.fetch_or(work::RESCHEDULE, Ordering::Relaxed);
    }
}

/// Whether an event or an NMI is there that the caller takes.
pub fn event_waits<M: Machine>(caller: &Caller<'_, M>) -> bool {
    let takes_nmi = caller.state.nmi_callback.address != 0;
    caller.state.info.wants_upcall() || (takes_nmi && caller.vcpu.work.load(Ordering::SeqCst) & work::NMI != 0)
}
