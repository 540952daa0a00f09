//! What a vcpu has of event channels: the ports of its virtual interrupts, and the one that it waits for.

use super::Events;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use oxen_abi::virq::NR_VIRQS;

/// What the event channels keep with a vcpu.
#[derive(Debug)]
pub struct VcpuEvents {
    /// Whether it waits in `SCHEDOP_poll`.
    polls: AtomicBool,
    /// The port that it waits for then; 0: any.
    poll_port: AtomicU32,
    /// The port of each virtual interrupt, 0 for none; the global ones are vcpu 0's. Changed under the lock of the
    /// domain's events.
    pub(crate) virqs: [AtomicU32; NR_VIRQS as usize],
}

impl Default for VcpuEvents {
    fn default() -> Self {
        Self {
            polls: AtomicBool::new(false),
            poll_port: AtomicU32::new(0),
            virqs: [const { AtomicU32::new(0) }; NR_VIRQS as usize],
        }
    }
}

impl VcpuEvents {
    /// Whether the vcpu waits for this port, or for any.
    pub(crate) fn waits_for(&self, port: u32) -> bool {
        let only = self.poll_port.load(Ordering::Relaxed);
        (only == 0 || only == port) && self.polls.load(Ordering::SeqCst)
    }
}

impl Events {
    /// A vcpu is about to wait for `port`, or for any with 0. It looks at the pending bits only after this, so that no
    /// event falls between.
    pub fn begin_poll(&self, vcpu: &VcpuEvents, port: u32) {
        vcpu.poll_port.store(port, Ordering::Relaxed);
        // Counted before it can be found: whoever finds it takes it off the count.
        self.pollers.fetch_add(1, Ordering::SeqCst);
        if vcpu.polls.swap(true, Ordering::SeqCst) {
            self.pollers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// A vcpu waits no longer. Returns whether it still did.
    pub fn end_poll(&self, vcpu: &VcpuEvents) -> bool {
        let still = vcpu.polls.swap(false, Ordering::SeqCst);
        if still {
            self.pollers.fetch_sub(1, Ordering::SeqCst);
        }
        still
    }
}
