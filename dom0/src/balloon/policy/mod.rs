//! What memory each guest should have: policies, each a pure function of what is known of all guests.
//!
//! | policy | what a guest gets |
//! |---|---|
//! | [`Policy::Fixed`] | what a person gave it |
//! | [`Policy::Shares`] | its part by its shares, used or not |
//! | [`Policy::WorkingSet`] | what it uses, a quarter and 8 MiB more, whatever its shares |
//! | [`Policy::IdleTax`] | its part by its shares, where memory that it does not use costs more |
//!
//! None gives a guest less than its floor or more than its maximum. The memory that is shared out is what guests have
//! and what the machine has free, but for a reserve.

mod idle_tax;
pub mod limits;
mod working_set;

use alloc::{string::String, vec::Vec};
use core::fmt;

use super::estimate::WHOLE;

/// The tax on idle memory where nobody says another, in percent.
pub const DEFAULT_TAX: u8 = 75;
/// Shares of a guest of whose configuration nothing is said.
pub const DEFAULT_SHARES: u32 = 1000;

/// A guest as policies see it; memory in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What it has.
    pub current: u64,
    /// What a person or its configuration gave it.
    pub given: u64,
    /// The least it can have.
    pub floor: u64,
    /// The most.
    pub maximum: u64,
    /// Its shares.
    pub shares: u32,
    /// Thousandths of its memory that it uses; `None` if nothing is known.
    pub used: Option<u32>,
}

impl Claim {
    /// What it uses, in KiB. Of a guest of which nothing is known, all it has.
    fn active(&self) -> u64 {
        let used = u64::from(self.used.unwrap_or(WHOLE).min(WHOLE));
        (u128::from(self.current) * u128::from(used) / u128::from(WHOLE)).try_into().unwrap_or(self.current)
    }

    /// The nearest that it can have.
    fn clamp(&self, wanted: u64) -> u64 {
        wanted.min(self.maximum).max(self.floor.min(self.maximum))
    }
}

/// How memory is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// As people say.
    Fixed,
    /// By shares.
    Shares,
    /// By use.
    WorkingSet,
    /// By shares, with a tax of so many percent on idle memory.
    IdleTax(u8),
}

/// Not the name of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown(String);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no policy: fixed, shares, working-set, idle-tax or idle-tax=PERCENT (0 to 100)", self.0)
    }
}

impl core::error::Error for Unknown {}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed => f.write_str("fixed"),
            Self::Shares => f.write_str("shares"),
            Self::WorkingSet => f.write_str("working-set"),
            Self::IdleTax(percent) => write!(f, "idle-tax={percent}"),
        }
    }
}

impl core::str::FromStr for Policy {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let tax = |percent: &str| percent.parse().ok().filter(|percent| *percent <= 100).map(Self::IdleTax);
        match text {
            "fixed" => Some(Self::Fixed),
            "shares" => Some(Self::Shares),
            "working-set" => Some(Self::WorkingSet),
            "idle-tax" => Some(Self::IdleTax(DEFAULT_TAX)),
            other => other.strip_prefix("idle-tax=").and_then(tax),
        }
        .ok_or_else(|| Unknown(text.into()))
    }
}

impl Policy {
    /// Whether it asks what guests use.
    #[must_use]
    pub fn watches(self) -> bool {
        matches!(self, Self::WorkingSet | Self::IdleTax(_))
    }

    /// What each should have of `memory` KiB, in the order of `claims`. More than there is is shared out only where
    /// floors ask for it.
    #[must_use]
    pub fn targets(self, claims: &[Claim], memory: u64) -> Vec<u64> {
        match self {
            Self::Fixed => claims.iter().map(|claim| claim.clamp(claim.given)).collect(),
            Self::Shares => idle_tax::targets(claims, memory, 0),
            Self::WorkingSet => working_set::targets(claims, memory),
            Self::IdleTax(percent) => idle_tax::targets(claims, memory, percent),
        }
    }
}

/// The greatest level from 0 to `most` at which `sum` does not exceed `memory`; `sum` never falls with the level.
fn greatest_level(most: u64, memory: u64, sum: impl Fn(u64) -> u64) -> u64 {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if sum(middle) <= memory {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    const POLICIES: [Policy; 6] = [
        Policy::Fixed,
        Policy::Shares,
        Policy::WorkingSet,
        Policy::IdleTax(0),
        Policy::IdleTax(75),
        Policy::IdleTax(100),
    ];

    #[test]
    fn policies_are_named_as_they_are_read() {
        for policy in POLICIES {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!("idle-tax".parse(), Ok(Policy::IdleTax(75)));
        for bad in ["", "idle-tax=101", "idle-tax=", "share", "idle-tax=-1", "FIXED"] {
            assert!(bad.parse::<Policy>().is_err(), "{bad}");
        }
    }

    fn claims() -> impl Strategy<Value = Vec<Claim>> {
        let claim = (0u64..1 << 22, 1u64..1 << 20, 0u64..1 << 22, 1u32..10_000, proptest::option::of(0u32..1001));
        let claim = claim.prop_map(|(current, floor, more, shares, used)| Claim {
            current,
            given: current,
            floor,
            maximum: floor + more,
            shares,
            used,
        });
        proptest::collection::vec(claim, 0..12)
    }

    proptest! {
        #[test]
        fn everybody_gets_what_it_can_have_and_no_more_is_given_than_there_is(
            claims in claims(), memory in 0u64..1 << 24
        ) {
            for policy in POLICIES {
                let targets = policy.targets(&claims, memory);
                prop_assert_eq!(targets.len(), claims.len());
                for (claim, target) in claims.iter().zip(&targets) {
                    let is_possible = claim.floor <= *target && *target <= claim.maximum;
                    prop_assert!(is_possible, "{policy:?} {claim:?} {target}");
                }
                let floors: u64 = claims.iter().map(|claim| claim.floor).sum();
                let sum: u64 = targets.iter().sum();
                let is_there = policy == Policy::Fixed || sum <= memory.max(floors);
                prop_assert!(is_there, "{policy:?}: {sum} of {memory}");
            }
        }
    }
}
