//! By use: each guest gets what it uses and a quarter more, so that it can show that it needs it. Where that is more
//! than there is, all get the same part of what they use.

use alloc::vec::Vec;

use super::{Claim, greatest_level};

/// Thousandths of what a guest uses that it gets where there is enough.
const ROOM: u64 = 1250;

pub(super) fn targets(claims: &[Claim], memory: u64) -> Vec<u64> {
    let at = |level: u64| claims.iter().map(move |claim| claim.clamp(part(claim.active(), level)));
    let level = greatest_level(ROOM, memory, |level| at(level).fold(0, u64::saturating_add));
    at(level).collect()
}

fn part(active: u64, thousandths: u64) -> u64 {
    (u128::from(active) * u128::from(thousandths) / 1000).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Claim =
        Claim { current: 64 << 10, given: 64 << 10, floor: 8 << 10, maximum: 256 << 10, shares: 1000, used: Some(500) };

    #[test]
    fn who_uses_half_gets_that_and_room_to_grow() {
        assert_eq!(targets(&[GUEST, Claim { used: Some(0), ..GUEST }], 1 << 20), [40 << 10, 8 << 10]);
        assert_eq!(targets(&[Claim { used: None, ..GUEST }], 1 << 20), [80 << 10], "of whom nothing is known");
    }

    #[test]
    fn what_is_too_much_for_the_machine_is_cut_for_all_alike() {
        let [one, other] = targets(&[GUEST, Claim { used: Some(1000), ..GUEST }], 60 << 10)[..] else { panic!() };
        assert!(one + other <= 60 << 10 && one + other > 59 << 10, "{one} {other}");
        assert!((2 * one).abs_diff(other) < 200, "{one} {other}");
    }
}
