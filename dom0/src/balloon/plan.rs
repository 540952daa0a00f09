//! From what a policy wants to the next targets: who has too much gives first, and what has come free is handed on.

use alloc::vec::Vec;

use super::progress::SLACK;

/// A guest between what it has and what a policy wants; in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// What it has.
    pub current: u64,
    /// Where it was told to go.
    pub target: u64,
    /// Where the policy wants it.
    pub wanted: u64,
}

impl Way {
    /// Whether there is something to do. Small differences are left alone: they would move memory to and fro with every
    /// estimate.
    fn is_off(&self) -> bool {
        self.target.abs_diff(self.wanted) > SLACK.max(self.target / 32)
    }

    /// The target, after who has too much was told so.
    fn lowered(&self) -> u64 {
        if self.is_off() { self.target.min(self.wanted) } else { self.target }
    }
}

/// New targets, where there are any, in the order of `ways`. `free` KiB can be given away; what was promised by earlier
/// targets comes out of it first.
#[must_use]
pub fn next_targets(ways: &[Way], free: u64) -> Vec<Option<u64>> {
    let promised = |way: &Way| way.lowered().saturating_sub(way.current);
    let mut left = free.saturating_sub(ways.iter().map(promised).sum());
    let mut next = |way: &Way| {
        if !way.is_off() {
            return None;
        }
        if way.wanted < way.target {
            return Some(way.wanted);
        }
        let from = way.target.max(way.current.min(way.wanted));
        let more = (way.wanted - from).min(left);
        left -= more;
        let is_worth_it = from + more > way.target && (more > SLACK || from + more == way.wanted);
        is_worth_it.then_some(from + more)
    };
    ways.iter().map(&mut next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 10;

    fn way(current: u64, target: u64, wanted: u64) -> Way {
        Way { current: current * MIB, target: target * MIB, wanted: wanted * MIB }
    }

    #[test]
    fn who_has_too_much_gives_first_and_what_came_free_is_handed_on() {
        let [mut idle, mut hungry] = [way(60, 60, 20), way(60, 60, 100)];
        assert_eq!(next_targets(&[idle, hungry], 0), [Some(20 * MIB), None]);
        idle.target = 20 * MIB;
        idle.current = 45 * MIB;
        assert_eq!(next_targets(&[idle, hungry], 15 * MIB), [None, Some(75 * MIB)]);
        hungry.target = 75 * MIB;
        // Not again, before the guest has taken it.
        assert_eq!(next_targets(&[idle, hungry], 15 * MIB), [None, None]);
    }

    #[test]
    fn small_differences_are_left_alone() {
        assert_eq!(next_targets(&[way(64, 64, 63), way(64, 64, 65)], 10 * MIB), [None, None]);
        assert_eq!(next_targets(&[way(640, 640, 630)], 0), [None], "a thirty-second of it");
        assert_eq!(next_targets(&[], 5), [None; 0]);
    }

    proptest! {
        #[test]
        fn no_more_is_promised_than_is_free(
            ways in proptest::collection::vec((0u64..1 << 20, 0u64..1 << 20, 0u64..1 << 20), 0..9),
            free in 0u64..1 << 20
        ) {
            let ways: Vec<_> =
                ways.into_iter().map(|(current, target, wanted)| Way { current, target, wanted }).collect();
            let next = next_targets(&ways, free);
            let grows = |way: &Way, target: u64| target.saturating_sub(way.current);
            let before: u64 = ways.iter().map(|way| grows(way, way.target)).sum();
            let after: u64 = ways.iter().zip(&next).map(|(way, next)| grows(way, next.unwrap_or(way.target))).sum();
            prop_assert!(after <= free.max(before), "{after} of {free}, {before} before");
            for (way, next) in ways.iter().zip(&next) {
                let Some(next) = *next else { continue };
                prop_assert!(next.abs_diff(way.wanted) < way.target.abs_diff(way.wanted), "nearer");
            }
        }
    }
}
