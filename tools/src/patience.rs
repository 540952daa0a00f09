//! How long a machine is waited for: a time in which it could run. What its process waited for a CPU
//! of a busy host does not count.

use std::time::{Duration, Instant};

/// Waiting for less than this is no reason to wait longer.
const WORTH_IT: Duration = Duration::from_millis(100);

/// A deadline that moves by as much as a process was held back.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    deadline: Instant,
    /// What the process had been held back when the deadline was set.
    counted: Duration,
}

impl Patience {
    /// Until `deadline`, for a process that has been held back so long.
    #[must_use]
    pub const fn new(deadline: Instant, held_back: Duration) -> Self {
        Self { deadline, counted: held_back }
    }

    /// When it ends.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// At its end, says whether there is more of it: as much as the process was held back meanwhile.
    pub fn has_more(&mut self, now: Instant, held_back: Duration) -> bool {
        let missed = held_back.saturating_sub(self.counted);
        if missed < WORTH_IT {
            return false;
        }
        *self = Self::new(now + missed, held_back);
        true
    }
}

/// How long a process's threads have been ready to run without a CPU: the thread's that waited longest. Nothing
/// where the host does not tell it.
#[must_use]
pub fn held_back(process: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let told = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok());
    told.filter_map(|told| waited(&told)).max().unwrap_or_default()
}

/// The second word of a thread's `schedstat` (Linux,
/// `Documentation/scheduler/sched-stats.rst`): nanoseconds of waiting.
fn waited(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_held_back_is_waited_for_as_much_longer() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(begin + 10 * second, 3 * second);
        assert!(!patience.has_more(begin + 10 * second, 3 * second), "it had its time");
        assert!(patience.has_more(begin + 10 * second, 11 * second));
        assert_eq!(patience.deadline(), begin + 18 * second);
        assert!(patience.has_more(begin + 18 * second, 13 * second), "and of the new time as well");
        assert_eq!(patience.deadline(), begin + 20 * second);
        assert!(!patience.has_more(begin + 20 * second, 13 * second + Duration::from_millis(50)));
    }

    #[test]
    fn the_hosts_words_are_understood() {
        assert_eq!(waited("12 3400000000 5\n"), Some(Duration::from_millis(3_400)));
        assert_eq!(["", "12", "12 x 5"].map(waited), [None; 3]);
        assert_eq!(held_back(u32::MAX), Duration::ZERO, "nobody");
    }
}
