//! When a guest that is moved while it runs is stopped for the last round.

use core::fmt;

/// Nanoseconds for which a guest may stand still for its last pages: below that, another round gains nothing.
const SHORT: u64 = 5_000_000;
/// Pages that are few in any case.
const FEW: usize = 32;
/// Rounds, at most.
const MOST: u32 = 30;
/// Rounds in a row that leave no less than the shortest round before them: the line is too slow.
const IN_VAIN: u32 = 3;

/// Why a guest is stopped now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Little is left.
    Little,
    /// The guest writes as fast as the line carries.
    Faster,
    /// There were many rounds.
    Many,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Little => "little is left",
            Self::Faster => "it writes as fast as the line carries",
            Self::Many => "there were many rounds",
        })
    }
}

/// The rounds so far.
#[derive(Debug, Default)]
pub struct Rounds {
    count: u32,
    /// The fewest pages that a round left.
    fewest: Option<usize>,
    in_vain: u32,
}

impl Rounds {
    /// How many there were.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// A round has sent `sent` pages in `nanoseconds`, and `dirty` were written to meanwhile: whether the guest is to
    /// be stopped before the next one, and why.
    pub fn judge(&mut self, sent: usize, nanoseconds: u64, dirty: usize) -> Option<Stop> {
        self.count += 1;
        if dirty <= FEW || expected(sent, nanoseconds, dirty) <= SHORT {
            return Some(Stop::Little);
        }
        match self.fewest {
            // A tenth less is no progress: it would go on so for dozens of rounds.
            Some(fewest) if dirty.saturating_add(fewest / 10) >= fewest => self.in_vain += 1,
            _ => self.in_vain = 0,
        }
        self.fewest = Some(self.fewest.map_or(dirty, |fewest| fewest.min(dirty)));
        if self.in_vain == IN_VAIN {
            return Some(Stop::Faster);
        }
        (self.count == MOST).then_some(Stop::Many)
    }
}

/// Nanoseconds that so many pages take at the pace of a round.
fn expected(sent: usize, nanoseconds: u64, dirty: usize) -> u64 {
    let whole = u128::from(nanoseconds) * dirty as u128 / (sent as u128).max(1);
    u64::try_from(whole).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MILLISECOND: u64 = 1_000_000;

    #[test]
    fn a_guest_that_writes_little_is_stopped_after_the_first_round() {
        assert_eq!(Rounds::default().judge(8192, 400 * MILLISECOND, 20), Some(Stop::Little));
        assert_eq!(Rounds::default().judge(8192, 400 * MILLISECOND, 100), Some(Stop::Little), "5 ms");
        assert_eq!(Rounds::default().judge(8192, 400 * MILLISECOND, 200), None);
    }

    #[test]
    fn rounds_go_on_while_they_become_shorter() {
        let mut rounds = Rounds::default();
        for dirty in [4000, 2000, 1000, 500, 250] {
            assert_eq!(rounds.judge(2 * dirty, 2 * dirty as u64 * MILLISECOND / 20, dirty), None, "{dirty}");
        }
        assert_eq!(rounds.judge(250, 250 * MILLISECOND / 20, 60), Some(Stop::Little));
        assert_eq!(rounds.count(), 6);
    }

    #[test]
    fn a_guest_that_writes_faster_than_the_line_carries_is_stopped_soon() {
        let mut rounds = Rounds::default();
        let all: Vec<_> = (0..4).map(|_| rounds.judge(4000, 400 * MILLISECOND, 4000)).collect();
        assert_eq!(all, [None, None, None, Some(Stop::Faster)]);
    }

    proptest! {
        /// Whatever the guest does, it is stopped, and says little only where it is.
        #[test]
        fn every_guest_is_stopped(dirty in proptest::collection::vec(0..1_000_000_usize, 40)) {
            let (mut rounds, mut sent, mut stopped) = (Rounds::default(), 1_000_000, None);
            for dirty in dirty {
                stopped = rounds.judge(sent, sent as u64 * 50_000, dirty);
                if stopped == Some(Stop::Little) {
                    prop_assert!(dirty <= 100);
                }
                if stopped.is_some() {
                    break;
                }
                sent = dirty;
            }
            prop_assert!(stopped.is_some());
        }
    }
}
