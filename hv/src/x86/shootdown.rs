//! Flushes that one CPU asks of others, and waits for.
//!
//! Who asks holds locks and has interrupts off, and so may have those who are asked. Each CPU therefore looks for what is
//! asked of it on the interrupt that tells it, and whenever it waits for a lock or for another CPU.

use super::cpu;
use core::sync::atomic::{AtomicU64, Ordering};
use oxen_hv::addr::GuestAddr;
use oxen_hv::config::MAX_CPUS;

const _: () = assert!(MAX_CPUS <= 64, "sets of CPUs are words");

/// In place of a page: all of them.
const EVERYTHING: u64 = u64::MAX;

/// What a CPU asks of others: one thing at a time, for it waits until all have done it.
#[derive(Debug)]
struct Request {
    page: AtomicU64,
    /// Those who have not done it yet, bit n for CPU n.
    waiting: AtomicU64,
}

/// Who asks what of whom.
#[derive(Debug)]
pub(crate) struct Shootdown {
    requests: [Request; MAX_CPUS],
    /// For each CPU those who ask something of it, bit n for CPU n.
    askers: [AtomicU64; MAX_CPUS],
}

impl Shootdown {
    /// Nobody asks anything.
    pub(crate) const fn new() -> Self {
        Self {
            requests: [const { Request { page: AtomicU64::new(EVERYTHING), waiting: AtomicU64::new(0) } }; MAX_CPUS],
            askers: [const { AtomicU64::new(0) }; MAX_CPUS],
        }
    }

    /// Flushes a page, or everything, on `others`, and waits until they have. `tell` interrupts one of them.
    pub(crate) fn ask(&self, this: usize, others: u64, page: Option<GuestAddr>, tell: impl Fn(usize)) {
        let Some(request) = self.requests.get(this) else { return };
        request.page.store(page.map_or(EVERYTHING, |page| page.as_u64()), Ordering::Relaxed);
        request.waiting.store(others, Ordering::Release);
        for (number, askers) in self.askers.iter().enumerate().filter(|(number, _)| others >> number & 1 != 0) {
            askers.fetch_or(1 << this, Ordering::SeqCst);
            tell(number);
        }
        while request.waiting.load(Ordering::Acquire) != 0 {
            self.serve(this);
            core::hint::spin_loop();
        }
    }

    /// Does on this CPU what others ask.
    #[inline]
    pub(crate) fn serve(&self, this: usize) {
        let Some(askers) = self.askers.get(this).filter(|askers| askers.load(Ordering::Relaxed) != 0) else { return };
        let mut asking = askers.swap(0, Ordering::SeqCst);
        while let Some(request) = self.requests.get(asking.trailing_zeros() as usize) {
            asking &= asking - 1;
            match request.page.load(Ordering::Relaxed) {
                EVERYTHING => cpu::flush(),
                page => cpu::invalidate(page),
            }
            request.waiting.fetch_and(!(1 << this), Ordering::AcqRel);
        }
    }
}
