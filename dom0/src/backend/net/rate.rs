//! How fast a guest may send: a budget of bytes that grows with time.

use oxen_domu_lib::time;

use crate::config::vif::Rate;

/// The least that may be saved up, however small the rate: enough for a longest frame or two.
const MIN_BURST: i64 = 131_072;

/// What may be sent now.
#[derive(Debug)]
pub struct RateLimiter {
    rate: Rate,
    /// Negative after a frame that was larger than what was left: it is paid back first.
    left: i64,
    since: u64,
}

impl RateLimiter {
    /// A full budget at the time `now`.
    pub fn new(rate: Rate, now: u64) -> Self {
        Self { rate, left: Self::burst(rate), since: now }
    }

    fn burst(rate: Rate) -> i64 {
        i64::try_from(rate.bytes).unwrap_or(i64::MAX).max(MIN_BURST)
    }

    const fn interval(&self) -> u64 {
        let nanoseconds = self.rate.interval as u64 * (time::MILLISECOND / 1000);
        if nanoseconds == 0 { 1 } else { nanoseconds }
    }

    /// Whether another frame may be sent at the time `now`.
    pub fn admits(&mut self, now: u64) -> bool {
        let intervals = now.saturating_sub(self.since) / self.interval();
        if intervals != 0 {
            self.since += intervals * self.interval();
            let more = i64::try_from(intervals.saturating_mul(self.rate.bytes)).unwrap_or(i64::MAX);
            self.left = self.left.saturating_add(more).min(Self::burst(self.rate));
        }
        self.left > 0
    }

    /// Takes a frame's bytes out of the budget.
    pub fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Nanoseconds from `now` until the budget grows.
    pub fn pause(&self, now: u64) -> u64 {
        (self.since + self.interval()).saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_long_run_the_rate_is_kept() {
        let rate = Rate { bytes: 50_000, interval: 50_000 };
        let mut budget = RateLimiter::new(rate, 0);
        let (mut now, mut sent) = (0, 0_u64);
        while now < 100 * time::SECOND {
            if budget.admits(now) {
                budget.spend(60_000);
                sent += 60_000;
            } else {
                let pause = budget.pause(now);
                assert!(pause > 0 && pause <= 50 * time::MILLISECOND);
                now += pause;
            }
        }
        // 1,000,000 bytes a second, and what was saved up at the start.
        assert!((100_000_000..=100_300_000).contains(&sent), "{sent}");
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let mut budget = RateLimiter::new(Rate { bytes: u64::MAX, interval: 0 }, 0);
        assert!(budget.admits(u64::MAX));
        let mut budget = RateLimiter::new(Rate { bytes: 1000, interval: 1000 }, 0);
        assert!(budget.admits(1 << 62));
        budget.spend(MIN_BURST as usize);
        assert!(!budget.admits(1 << 62));
    }
}
