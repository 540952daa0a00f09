//! By use: each guest gets what it uses, a quarter more and [`ROOM`], so that it can show that it needs more. Where
//! that is more than there is, all get the same part of it.

use alloc::vec::Vec;

use super::{Claim, greatest_level};

/// KiB that a guest gets beyond what it uses and a quarter: what a kernel keeps free, and some pages to begin with.
const ROOM: u64 = 8 << 10;
/// All of what a guest should have.
const ALL: u64 = 1000;

pub(super) fn targets(claims: &[Claim], memory: u64) -> Vec<u64> {
    let at = |level: u64| claims.iter().map(move |claim| claim.clamp(part(claim, level)));
    let level = greatest_level(ALL, memory, |level| at(level).fold(0, u64::saturating_add));
    at(level).collect()
}

/// So many thousandths of what a guest should have.
fn part(claim: &Claim, thousandths: u64) -> u64 {
    let active = u128::from(claim.active());
    let all = active + active / 4 + u128::from(ROOM);
    (all * u128::from(thousandths) / u128::from(ALL)).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Claim =
        Claim { current: 64 << 10, given: 64 << 10, floor: 8 << 10, maximum: 256 << 10, shares: 1000, used: Some(500) };

    #[test]
    fn who_uses_half_gets_that_and_room_to_grow() {
        assert_eq!(targets(&[GUEST, Claim { used: Some(0), ..GUEST }], 1 << 20), [48 << 10, 8 << 10]);
        assert_eq!(targets(&[Claim { used: None, ..GUEST }], 1 << 20), [88 << 10], "of whom nothing is known");
    }

    #[test]
    fn what_is_too_much_for_the_machine_is_cut_for_all_alike() {
        let [one, other] = targets(&[GUEST, Claim { used: Some(1000), ..GUEST }], 60 << 10)[..] else { panic!() };
        assert!(one + other <= 60 << 10 && one + other > 59 << 10, "{one} {other}");
        assert!((one * 88).abs_diff(other * 48) < 88 << 8, "{one} {other}");
    }
}
