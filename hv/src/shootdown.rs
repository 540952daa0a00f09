//! Flushes that one CPU asks of others, and waits for.
//!
//! Who asks holds locks and has interrupts off, and so may have those who are asked. Each CPU therefore looks for what
//! is asked of it on the interrupt that tells it, and whenever it waits for a lock or for another CPU.

use crate::addr::GuestAddr;
use crate::config::MAX_CPUS;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

const _: () = assert!(MAX_CPUS <= 64, "sets of CPUs are words");

/// In place of a page: all of them.
const EVERYTHING: u64 = u64::MAX;
/// Turns of waiting from one look at the clock to the next.
const TURNS: u32 = 1 << 16;

/// What a CPU asks of others: one thing at a time, for it waits until all have done it.
#[derive(Debug)]
struct Request {
    page: AtomicU64,
    /// Those who have not done it yet, bit n for CPU n.
    waiting: AtomicU64,
}

/// Who asks what of whom.
#[derive(Debug)]
pub struct Shootdown {
    requests: [Request; MAX_CPUS],
    /// For each CPU those who ask something of it, bit n for CPU n.
    askers: [AtomicU64; MAX_CPUS],
}

/// CPUs that do not answer, bit n for CPU n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silent(pub u64);

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_power_of_two() { "CPU" } else { "CPUs" })?;
        (0..64).filter(|n| self.0 >> n & 1 != 0).try_for_each(|n| write!(f, " {n}"))
    }
}

impl Default for Shootdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shootdown {
    /// Nobody asks anything.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            requests: [const { Request { page: AtomicU64::new(EVERYTHING), waiting: AtomicU64::new(0) } }; MAX_CPUS],
            askers: [const { AtomicU64::new(0) }; MAX_CPUS],
        }
    }

    /// Has a page, or everything, flushed on `others`, and waits until they have. `tell` interrupts one of them;
    /// `turn` is what this CPU does while it waits, above all to [`Self::serve`]; `is_over` is asked now and then
    /// whether it has been long enough.
    ///
    /// # Errors
    /// Those who have not answered when it was.
    pub fn ask(
        &self,
        this: usize,
        others: u64,
        page: Option<GuestAddr>,
        tell: impl Fn(usize),
        turn: impl Fn(),
        is_over: impl Fn() -> bool,
    ) -> Result<(), Silent> {
        let Some(request) = self.requests.get(this) else { return Ok(()) };
        request.page.store(page.map_or(EVERYTHING, GuestAddr::as_u64), Ordering::Relaxed);
        request.waiting.store(others, Ordering::Release);
        for (number, askers) in self.askers.iter().enumerate().filter(|(number, _)| others >> number & 1 != 0) {
            askers.fetch_or(1 << this, Ordering::SeqCst);
            tell(number);
        }
        let mut turns = 0_u32;
        loop {
            let silent = request.waiting.load(Ordering::Acquire);
            if silent == 0 {
                return Ok(());
            }
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(TURNS) && is_over() {
                return Err(Silent(silent));
            }
            turn();
        }
    }

    /// Does on this CPU what others ask: `flush` a page, or everything.
    #[inline]
    pub fn serve(&self, this: usize, flush: impl Fn(Option<GuestAddr>)) {
        let Some(askers) = self.askers.get(this).filter(|askers| askers.load(Ordering::Relaxed) != 0) else { return };
        let mut asking = askers.swap(0, Ordering::SeqCst);
        while let Some(request) = self.requests.get(asking.trailing_zeros() as usize) {
            asking &= asking - 1;
            let page = request.page.load(Ordering::Relaxed);
            flush((page != EVERYTHING).then_some(GuestAddr::new(page)));
            request.waiting.fetch_and(!(1 << this), Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn cpus_that_ask_each_other_serve_while_they_wait() {
        let shootdown = Shootdown::new();
        let flushed = [const { AtomicU32::new(0) }; 4];
        std::thread::scope(|scope| {
            for this in 0..4 {
                let (shootdown, flushed) = (&shootdown, &flushed);
                scope.spawn(move || {
                    let serve = || shootdown.serve(this, |_| _ = flushed[this].fetch_add(1, Ordering::SeqCst));
                    for _ in 0..50 {
                        let turn = || {
                            serve();
                            std::thread::yield_now();
                        };
                        shootdown.ask(this, 0xf & !(1 << this), None, |_| {}, turn, || false).unwrap();
                    }
                    // The others may not have come to their end.
                    while flushed[this].load(Ordering::SeqCst) < 150 {
                        serve();
                        std::thread::yield_now();
                    }
                });
            }
        });
        assert!(flushed.iter().all(|count| count.load(Ordering::SeqCst) == 150));
    }

    #[test]
    fn a_cpu_that_does_not_answer_is_named() {
        let shootdown = Shootdown::new();
        let asked = AtomicU32::new(0);
        // CPU 1 answers, CPUs 3 and 5 never do.
        let turn = || shootdown.serve(1, |page| assert_eq!(page, Some(GuestAddr::new(0x1000))));
        let is_over = || asked.fetch_add(1, Ordering::SeqCst) == 2;
        let answer = shootdown.ask(0, 1 << 1 | 1 << 3 | 1 << 5, Some(GuestAddr::new(0x1000)), |_| {}, turn, is_over);
        assert_eq!(answer, Err(Silent(1 << 3 | 1 << 5)));
        assert_eq!(asked.load(Ordering::SeqCst), 3, "the clock is looked at now and then");
        assert_eq!(Silent(1 << 3 | 1 << 5).to_string(), "CPUs 3 5");
        assert_eq!(Silent(1 << 7).to_string(), "CPU 7");
    }
}
