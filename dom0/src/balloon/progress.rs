//! How guests follow their targets, and when one counts as not reacting.

use core::fmt;

/// How near to its target a guest counts as there, in KiB.
pub const SLACK: u64 = 1 << 10;
/// Looks at a guest without progress before it is named.
pub const PATIENCE: u32 = 10;

/// How a guest moves toward its target, look by look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    nearest: u64,
    without: u32,
    named: bool,
}

/// What a look at a guest found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is where it should be, or near enough.
    Arrived,
    /// On its way.
    Moving,
    /// It stands still, but not yet for long.
    Waiting,
    /// It has stood still for [`PATIENCE`] looks: say so, once.
    Stuck,
    /// It was named already and still stands.
    StillStuck,
}

impl Progress {
    /// A new target was given while the guest was `distance` KiB away from it.
    pub fn new(distance: u64) -> Self {
        Self { nearest: distance, without: 0, named: false }
    }

    /// Whether the guest stands still for longer than anybody waits.
    pub fn is_stuck(&self) -> bool {
        self.without >= PATIENCE
    }

    /// Looks again; only coming nearer than ever before counts as progress, so a guest that moves to and
    /// fro is named too.
    pub fn look(&mut self, current: u64, target: u64) -> Finding {
        let distance = current.abs_diff(target);
        if distance <= SLACK {
            *self = Self::new(distance);
            return Finding::Arrived;
        }
        if distance < self.nearest {
            *self = Self::new(distance);
            return Finding::Moving;
        }
        self.without = self.without.saturating_add(1);
        match (self.is_stuck(), self.named) {
            (false, _) => Finding::Waiting,
            (true, true) => Finding::StillStuck,
            (true, false) => {
                self.named = true;
                Finding::Stuck
            }
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let still = self.without;
        write!(f, "{} MiB away at its nearest, {still} s without progress", self.nearest.div_ceil(1024))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_balloon_is_named_once() {
        let mut progress = Progress::new(10 << 10);
        let looks: alloc::vec::Vec<_> = (0..20).map(|_| progress.look(20 << 10, 10 << 10)).collect();
        assert_eq!(looks.iter().filter(|f| **f == Finding::Stuck).count(), 1);
        assert_eq!(looks[usize::try_from(PATIENCE).unwrap() - 1], Finding::Stuck);
        assert_eq!(looks[19], Finding::StillStuck);
        assert_eq!(progress.look(19 << 10, 10 << 10), Finding::Moving);
    }

    #[test]
    fn a_balloon_that_moves_to_and_fro_is_named() {
        let mut progress = Progress::new(10 << 10);
        let stuck = (0..30).any(|i| progress.look((20 << 10) + (i % 2) * 512, 10 << 10) == Finding::Stuck);
        assert!(stuck);
    }

    #[test]
    fn a_slow_balloon_is_not_named() {
        let mut progress = Progress::new(10_000);
        for i in 0..8u64 {
            assert_eq!(progress.look(19_999 - i * 1000, 10_000), Finding::Moving);
            (1..PATIENCE).for_each(|_| assert_eq!(progress.look(19_999 - i * 1000, 10_000), Finding::Waiting));
        }
        assert_eq!(progress.look(10_500, 10_000), Finding::Arrived);
    }
}
