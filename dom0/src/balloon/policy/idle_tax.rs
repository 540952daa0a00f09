//! By shares, with a tax on idle memory, as VMware ESX has it (Waldspurger, OSDI 2002).
//!
//! A guest pays with its shares for memory. A page that it uses costs 1, one that it does not use costs `k = 1 / (1 -
//! tax)`: at a tax of 75 % an idle page costs as much as four pages in use. Everybody pays the same price for a unit,
//! so a guest with `S` shares, of which the level `l` is paid a share, can have
//!
//! ```text
//! P = l·S                        up to what it uses, A
//! P = A + (l·S - A)·(1 - tax)    beyond
//! ```
//!
//! and the level is the highest for which there is memory. Without a tax these are pure shares. With a tax of 100 %
//! nobody has idle memory while somebody can use it; what is left then stays free.

use alloc::vec::Vec;

use super::{Claim, greatest_level};

/// Levels are counted in parts of a KiB.
const UNIT: u128 = 1 << 16;

pub(super) fn targets(claims: &[Claim], memory: u64, percent: u8) -> Vec<u64> {
    let at = |level: u64| claims.iter().map(move |claim| claim.clamp(paid(claim, level, percent)));
    // Nobody can have more than its maximum: at this level all do, or have all that they will ever pay for.
    let most = claims.iter().map(|claim| highest(claim, percent)).max().unwrap_or(0);
    let level = greatest_level(most, memory, |level| at(level).fold(0, u64::saturating_add));
    at(level).collect()
}

/// What a guest's shares pay for at this level.
fn paid(claim: &Claim, level: u64, percent: u8) -> u64 {
    let (means, active) = (u128::from(level) * u128::from(claim.shares) / UNIT, u128::from(claim.active()));
    let idle = means.saturating_sub(active) * u128::from(100 - percent.min(100)) / 100;
    (means.min(active) + idle).try_into().unwrap_or(u64::MAX)
}

/// A level at which a guest has its maximum, or would not have more at any.
fn highest(claim: &Claim, percent: u8) -> u64 {
    let keeps = u128::from(100 - percent.min(100)).max(1);
    let means = (u128::from(claim.maximum) + 1) * 100 / keeps + u128::from(claim.active());
    (means * UNIT / u128::from(claim.shares.max(1)) + 1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 10;
    const GUEST: Claim = Claim {
        current: 180 * MIB,
        given: 180 * MIB,
        floor: 8 * MIB,
        maximum: 512 * MIB,
        shares: 1000,
        used: Some(1000),
    };
    const IDLE: Claim = Claim { used: Some(0), ..GUEST };

    /// In MiB, rounded.
    fn share_out(claims: &[Claim], memory: u64, percent: u8) -> Vec<u64> {
        targets(claims, memory * MIB, percent).iter().map(|kib| (kib + MIB / 2) / MIB).collect()
    }

    #[test]
    fn without_a_tax_equal_shares_are_equal_parts_used_or_not() {
        assert_eq!(share_out(&[IDLE, GUEST], 360, 0), [180, 180]);
        assert_eq!(share_out(&[Claim { shares: 3000, ..IDLE }, GUEST], 360, 0), [270, 90]);
    }

    #[test]
    fn a_tax_moves_memory_from_who_does_not_use_it() {
        // What the active one has not used yet costs it four, too.
        let [idle, active] = share_out(&[IDLE, GUEST], 360, 75)[..] else { panic!() };
        assert!((112..=113).contains(&idle) && (247..=248).contains(&active), "{idle} {active}");
        // Once it has shown that it uses all of that, it gets more.
        let grown = Claim { current: active * MIB, ..GUEST };
        let [idle, active] = share_out(&[IDLE, grown], 360, 75)[..] else { panic!() };
        assert!((87..=88).contains(&idle) && (272..=273).contains(&active), "{idle} {active}");
    }

    #[test]
    fn it_settles_at_the_price_of_four() {
        let (mut idle, mut active) = (IDLE, GUEST);
        for _ in 0..20 {
            let now = targets(&[idle, active], 360 * MIB, 75);
            (idle.current, active.current) = (now[0], now[1]);
        }
        assert_eq!((idle.current + MIB / 2) / MIB, 72, "a fifth");
        assert_eq!((active.current + MIB / 2) / MIB, 288);
    }

    #[test]
    fn with_a_tax_of_all_the_idle_have_their_floor() {
        let (mut idle, mut active) = (IDLE, GUEST);
        for _ in 0..30 {
            let now = targets(&[idle, active], 360 * MIB, 100);
            (idle.current, active.current) = (now[0], now[1].max(active.current));
        }
        assert_eq!(idle.current / MIB, 8);
    }

    #[test]
    fn who_has_its_maximum_leaves_the_rest_to_others() {
        let small = Claim { maximum: 50 * MIB, ..GUEST };
        assert_eq!(share_out(&[small, GUEST], 360, 0), [50, 310]);
        assert_eq!(share_out(&[small, small], 360, 0), [50, 50], "and some to nobody");
        assert_eq!(share_out(&[], 360, 75), [0; 0]);
    }
}
