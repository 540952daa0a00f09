//! Which memory targets are allowed, whoever wants them: a person or a policy.

use core::fmt;

/// What is never given away below a guest's own needs, in KiB.
pub const RESERVE: u64 = 4 << 10;
/// What the machine keeps free for the hypervisor's own use, in KiB.
pub const MACHINE_RESERVE: u64 = 4 << 10;
/// What is known of a guest when a target is judged; everything in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// What the hypervisor counts for the guest now.
    pub current: u64,
    /// The target it was last given.
    pub target: u64,
    /// The most it may ever have.
    pub maximum: u64,
    /// What its kernel, ramdisk and tables took when it was built.
    pub built: u64,
    /// What the machine has free.
    pub machine_free: u64,
}

impl Situation {
    /// Below this a guest would only swap or die: what it was built with and a reserve, but never more
    /// than its maximum.
    pub fn floor(&self) -> u64 {
        self.built.saturating_add(RESERVE).min(self.maximum)
    }
}

/// Why a target is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Below the floor, which is this many KiB.
    BelowFloor(u64),
    /// Above the maximum, which is this many KiB.
    AboveMaximum(u64),
    /// The machine lacks this many KiB.
    Lacking(u64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BelowFloor(floor) => {
                let mib = floor.div_ceil(1024);
                write!(f, "its floor is {mib} MiB: what its kernel, ramdisk and tables take, and a reserve")
            }
            Self::AboveMaximum(maximum) => {
                write!(f, "its maximum is {} MiB; raise it first with `xl mem-max`", maximum >> 10)
            }
            Self::Lacking(kib) => {
                write!(f, "the machine lacks {} MiB for it; lower another guest's target first", kib.div_ceil(1024))
            }
        }
    }
}

impl core::error::Error for Refusal {}

/// Judges whether a guest may be told to go to `target` KiB.
///
/// # Errors
/// Why not: the target is below the guest's floor or above its maximum, or the machine lacks memory for it.
pub fn judge(situation: &Situation, target: u64) -> Result<(), Refusal> {
    if target < situation.floor() {
        return Err(Refusal::BelowFloor(situation.floor()));
    }
    if target > situation.maximum {
        return Err(Refusal::AboveMaximum(situation.maximum));
    }
    let more = target.saturating_sub(situation.current);
    let available = situation.machine_free.saturating_sub(MACHINE_RESERVE);
    if more > available { Err(Refusal::Lacking(more - available)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    const GUEST: Situation =
        Situation { current: 64 << 10, target: 64 << 10, maximum: 128 << 10, built: 10 << 10, machine_free: 40 << 10 };

    #[test]
    fn targets_are_judged_with_reasons() {
        assert_eq!(judge(&GUEST, 14 << 10), Ok(()));
        assert_eq!(judge(&GUEST, (14 << 10) - 1), Err(Refusal::BelowFloor(14 << 10)));
        assert_eq!(judge(&GUEST, 129 << 10), Err(Refusal::AboveMaximum(128 << 10)));
        assert_eq!(judge(&GUEST, 100 << 10), Ok(()));
        assert_eq!(judge(&GUEST, 101 << 10), Err(Refusal::Lacking(1 << 10)));
        assert!(judge(&GUEST, 0).unwrap_err().to_string().contains("14 MiB"));
        let full = Situation { machine_free: 0, ..GUEST };
        assert_eq!(judge(&full, 64 << 10), Ok(()), "staying costs nothing");
    }

    proptest! {
        #[test]
        fn what_is_allowed_is_between_floor_and_maximum(
            current in 0u64..1 << 30, maximum in 0u64..1 << 30, built in 0u64..1 << 30,
            machine_free in 0u64..1 << 30, target in 0u64..1 << 31
        ) {
            let s = Situation { current, target: current, maximum, built, machine_free };
            if judge(&s, target).is_ok() {
                prop_assert!(s.floor() <= target && target <= maximum);
                prop_assert!(target <= current || target - current <= machine_free);
            }
        }
    }
}
