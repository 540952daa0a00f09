//! How much text a guest may cause on dom0's console: a pure function of the time that is given.

use alloc::rc::Rc;
use core::cell::Cell;

/// Lines on dom0's console that are about one guest or its own words.
pub(super) const LINES: Rate = Rate { burst: 64, per_second: 4 };
/// Bytes of these lines: a serial line of 115200 baud carries 11520 a second.
const BYTES: Rate = Rate { burst: 8192, per_second: 256 };

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// So much at once, and so much a second after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What may come at once after a silence.
    pub burst: u64,
    /// What may come in each second; not 0.
    pub per_second: u64,
}

impl Rate {
    /// Nanoseconds that `amount` takes at this rate.
    fn time(self, amount: u64) -> u64 {
        amount.saturating_mul(SECOND).div_ceil(self.per_second.max(1))
    }

    /// When all of the past is paid for if `amount` more comes `now`; `None` if that is too much now.
    fn after(self, paid: u64, now: u64, amount: u64) -> Option<u64> {
        let after = paid.max(now).saturating_add(self.time(amount));
        (after - now <= self.time(self.burst)).then_some(after)
    }
}

/// A line is not to be shown: its guest has caused too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed;

/// A token bucket for lines and one for bytes.
#[derive(Debug)]
pub struct Log {
    lines: Rate,
    bytes: Rate,
    /// Until when, in nanoseconds, lines and bytes that went through are paid for.
    paid: Cell<(u64, u64)>,
    suppressed: Cell<u64>,
}

impl Log {
    /// One guest's.
    pub fn of_guest() -> Rc<Self> {
        Rc::new(Self::new(LINES, BYTES))
    }

    /// Full buckets.
    pub fn new(lines: Rate, bytes: Rate) -> Self {
        Self { lines, bytes, paid: Cell::default(), suppressed: Cell::new(0) }
    }

    /// Whether a line of `bytes` bytes may be shown at `now` (nanoseconds, never running back).
    ///
    /// # Errors
    /// [`Suppressed`]; the line counts as such, and against neither rate.
    pub fn line(&self, now: u64, bytes: usize) -> Result<(), Suppressed> {
        let (lines_paid, bytes_paid) = self.paid.get();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        match (self.lines.after(lines_paid, now, 1), self.bytes.after(bytes_paid, now, bytes)) {
            (Some(lines), Some(bytes)) => {
                self.paid.set((lines, bytes));
                Ok(())
            }
            _ => {
                self.suppressed.set(self.suppressed.get().saturating_add(1));
                Err(Suppressed)
            }
        }
    }

    /// Lines that were suppressed and are not counted any more.
    pub fn take_suppressed(&self) -> u64 {
        self.suppressed.take()
    }

    /// Lines that were suppressed since [`Self::take_suppressed`] took them.
    pub fn suppressed(&self) -> u64 {
        self.suppressed.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const FEW: Rate = Rate { burst: 3, per_second: 2 };
    const SMALL: Rate = Rate { burst: 100, per_second: 10 };

    #[test]
    fn a_burst_goes_through_then_as_much_as_time_allows() {
        let log = Log::new(FEW, SMALL);
        assert_eq!([(); 5].map(|()| log.line(7, 10)), [Ok(()), Ok(()), Ok(()), Err(Suppressed), Err(Suppressed)]);
        assert_eq!(log.line(7 + SECOND / 2, 10), Ok(()));
        assert_eq!(log.line(7 + SECOND / 2, 10), Err(Suppressed));
        assert_eq!(log.line(20 * SECOND, 101), Err(Suppressed), "longer than the bucket is deep");
        assert_eq!((log.suppressed(), log.take_suppressed(), log.suppressed()), (4, 4, 0));
        assert_eq!(log.line(20 * SECOND, 100), Ok(()));
        assert_eq!(log.line(21 * SECOND, 11), Err(Suppressed));
        assert_eq!(log.line(21 * SECOND, 10), Ok(()));
    }

    proptest! {
        /// In any stretch of time no more goes through than a burst and the rate's share of that time.
        #[test]
        fn no_stretch_of_time_sees_more_than_the_rates_allow(
            steps in proptest::collection::vec((0u64..3 * SECOND, 0usize..120), 1..60)
        ) {
            let log = Log::new(FEW, SMALL);
            let (mut now, mut through) = (0, Vec::new());
            for (pause, bytes) in steps {
                now += pause;
                if log.line(now, bytes).is_ok() {
                    through.push((now, bytes as u64));
                }
            }
            for (first, (start, _)) in through.iter().enumerate() {
                let (mut lines, mut bytes) = (0, 0);
                for (at, more) in &through[first..] {
                    (lines, bytes) = (lines + 1, bytes + more);
                    let time = at - start;
                    prop_assert!(lines <= FEW.burst + time * FEW.per_second / SECOND);
                    prop_assert!(bytes <= SMALL.burst + time * SMALL.per_second / SECOND);
                }
            }
        }
    }
}
