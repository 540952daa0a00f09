//! How much of its memory a guest uses, from what was sampled of it in each period.
//!
//! Three numbers, as in Waldspurger's "Memory Resource Management in VMware ESX Server" (OSDI 2002): a slow average
//! that keeps noise away, a fast one that follows a change, and the last period alone. The estimate is the greatest of
//! them: a guest that begins to use memory is believed at once, and one that stops only after a while.

/// A whole: estimates are counted in thousandths.
pub const WHOLE: u32 = 1000;
/// What a new period counts in the fast average: a half.
const FAST: u32 = 2;
/// And in the slow one: an eighth.
const SLOW: u32 = 8;

/// The averages, in thousandths of the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Follows within a few periods.
    pub fast: u32,
    /// Follows within a dozen.
    pub slow: u32,
    /// What was seen in the last period.
    pub last: u32,
}

impl Estimate {
    /// What is seen first is believed. `None` where nothing was sampled.
    #[must_use]
    pub fn first(sampled: u32, touched: u32) -> Option<Self> {
        let last = share(sampled, touched)?;
        Some(Self { fast: last, slow: last, last })
    }

    /// What was seen in another period. Nothing that was sampled says nothing.
    #[must_use]
    pub fn next(self, sampled: u32, touched: u32) -> Self {
        let Some(last) = share(sampled, touched) else { return self };
        let towards = |average: u32, weight: u32| {
            // Rounded up, or an average would never come all the way up.
            if last > average {
                average + (last - average).div_ceil(weight)
            } else {
                average - (average - last) / weight
            }
        };
        Self { fast: towards(self.fast, FAST), slow: towards(self.slow, SLOW), last }
    }

    /// The share of its memory that the guest uses, in thousandths.
    #[must_use]
    pub fn used(self) -> u32 {
        self.last.max(self.fast).max(self.slow)
    }
}

fn share(sampled: u32, touched: u32) -> Option<u32> {
    u64::from(touched.min(sampled)).checked_mul(WHOLE.into())?.checked_div(sampled.into())?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_use_is_believed_at_once_and_less_after_a_while() {
        let idle = Estimate::first(100, 5).unwrap();
        assert_eq!(idle.used(), 50);
        let busy = idle.next(100, 90);
        assert_eq!((busy.used(), busy.fast, busy.slow), (900, 475, 157));
        let mut idle_again = (0..8).fold(busy, |estimate, _| estimate.next(100, 90));
        let mut periods = 0;
        while idle_again.used() > 100 {
            idle_again = idle_again.next(100, 5);
            periods += 1;
        }
        assert!((10..25).contains(&periods), "{periods} periods");
    }

    #[test]
    fn nothing_that_was_sampled_says_nothing() {
        assert_eq!(Estimate::first(0, 0), None);
        let known = Estimate::first(50, 25).unwrap();
        assert_eq!(known.next(0, 0), known);
    }

    #[test]
    fn averages_come_all_the_way() {
        let top = (0..60).fold(Estimate::first(100, 0).unwrap(), |estimate, _| estimate.next(100, 100));
        assert_eq!(top, Estimate { fast: WHOLE, slow: WHOLE, last: WHOLE });
        let bottom = (0..60).fold(top, |estimate, _| estimate.next(100, 0));
        assert!(bottom.used() < 8, "{bottom:?}");
    }
}
