//! How the calling vcpu lets go of its CPU: yielding, blocking, polling.

use crate::{
    caller::Caller,
    domain::{traps::NMI, vcpu::Pauses},
    machine::Machine,
    per_cpu::Work,
    sched::deadlines::NEVER,
};
use core::sync::atomic::Ordering;

impl<M: Machine> Caller<'_, M> {
    /// Lets others on this CPU go first, if there are any.
    #[inline]
    pub fn yield_now(&self) {
        let Some(shared) = self.hv.cpu(self.cpu) else { return };
        if shared.sched.get().is_some_and(|sched| sched.lock().queue.has_waiting()) {
            shared.work.insert(Work::RESCHEDULE | Work::YIELD, Ordering::Relaxed);
        }
    }

    /// Waits for an event that is not masked; with one there already, goes on at once.
    #[inline]
    pub fn block(&self) {
        self.vcpu.pauses.insert(Pauses::BLOCKED, Ordering::SeqCst);
        // Looked at after the bit is set: whoever raises an event later finds the bit and clears it.
        if self.event_waits() {
            self.vcpu.pauses.remove(Pauses::BLOCKED, Ordering::SeqCst);
        } else {
            self.reschedule();
        }
    }

    /// Waits for an event on one of these ports, masked or not, or for any event that is not masked, or until
    /// `deadline` (system time). Goes on at once if one is there.
    pub fn poll(&self, ports: &[u32], deadline: Option<u64>) {
        let only = if let [port] = ports { *port } else { 0 };
        self.vcpu.pauses.insert(Pauses::POLLING, Ordering::SeqCst);
        self.domain.events.begin_poll(&self.vcpu.events, only);
        let is_pending = |&port: &u32| self.hv.is_event_pending(self.domain, port);
        if self.event_waits() || ports.iter().any(is_pending) {
            self.domain.events.end_poll(&self.vcpu.events);
            self.hv.unpause_vcpu(self.vcpu, Pauses::POLLING);
            return;
        }
        self.set_poll_end(deadline.unwrap_or(NEVER));
        self.reschedule();
    }

    /// Has the calling vcpu's CPU choose again before the guest goes on.
    #[inline]
    pub fn reschedule(&self) {
        if let Some(shared) = self.hv.cpu(self.cpu) {
            shared.work.insert(Work::RESCHEDULE, Ordering::Relaxed);
        }
    }

    /// Whether an event or an NMI is there that the caller takes.
    pub fn event_waits(&self) -> bool {
        let takes_nmi = self.state.traps.handler(NMI).address != 0;
        self.state.info.wants_upcall() || (takes_nmi && self.vcpu.work.load(Ordering::SeqCst).intersects(Work::NMI))
    }
}
