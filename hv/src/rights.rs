//! What of the machine a domain may touch: memory that is not RAM, I/O ports, interrupts (`XEN_DOMCTL_*_permission`).

use crate::{addr::PAGE_SHIFT, ports::Registers};
use heapless::Vec;
use oxen_abi::errno::Errno;

/// The line of the interval timer, which is the hypervisor's whether it uses the timer or not.
pub(crate) const TIMER_LINE: u32 = 0;

/// Ranges that a set can hold.
const MAX_RANGES: usize = 16;

/// A set of numbers, kept as few ranges: sorted, apart from each other, ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64), MAX_RANGES>);

impl Ranges {
    /// Nothing.
    pub const EMPTY: Self = Self(Vec::new());

    /// Whether there is nothing in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all from `first` to `last` is in the set.
    #[must_use]
    pub fn contains(&self, first: u64, last: u64) -> bool {
        self.0.iter().any(|&(from, to)| from <= first && last <= to)
    }

    /// Puts a range in.
    ///
    /// # Errors
    /// `NoMem` when the set would be of too many ranges; it is as before then.
    pub fn insert(&mut self, first: u64, last: u64) -> Result<(), Errno> {
        let mut merged = (first, last);
        let mut rest: Vec<_, MAX_RANGES> = Vec::new();
        for &(from, to) in &self.0 {
            let apart = to.saturating_add(1) < first || last.saturating_add(1) < from;
            if apart {
                rest.push((from, to)).map_err(|_| Errno::NoMem)?;
            } else {
                merged = (merged.0.min(from), merged.1.max(to));
            }
        }
        rest.push(merged).map_err(|_| Errno::NoMem)?;
        rest.sort_unstable();
        self.0 = rest;
        Ok(())
    }

    /// Takes a range out.
    ///
    /// # Errors
    /// As [`Self::insert`].
    pub fn remove(&mut self, first: u64, last: u64) -> Result<(), Errno> {
        let mut rest: Vec<_, MAX_RANGES> = Vec::new();
        for &(from, to) in &self.0 {
            let before = (from, to.min(first.wrapping_sub(1)));
            let after = (from.max(last.wrapping_add(1)), to);
            if first > 0 && before.0 <= before.1 {
                rest.push(before).map_err(|_| Errno::NoMem)?;
            }
            if last < u64::MAX && after.0 <= after.1 {
                rest.push(after).map_err(|_| Errno::NoMem)?;
            }
        }
        self.0 = rest;
        Ok(())
    }
}

/// The greatest number of a frame that the CPU can address (leaf 0x80000008 of CPUID).
#[must_use]
pub fn last_frame(machine: &impl Registers) -> u64 {
    let [bits, ..] = machine.cpuid(0x8000_0008, 0);
    (1 << (bits & 0xff).clamp(32, 52).saturating_sub(PAGE_SHIFT)) - 1
}

/// A domain's rights. The control domain begins with all.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    /// Frames of memory that is not RAM.
    pub memory: Ranges,
    /// I/O ports.
    pub ports: Ranges,
    /// Interrupt lines.
    pub interrupts: Ranges,
}

impl Rights {
    /// Everything there is, up to the last frame that the CPU can address, but for the line of the interval timer.
    #[must_use]
    pub fn everything(last_frame: u64) -> Self {
        let range = |first, last| {
            let mut all = Ranges::EMPTY;
            // One range always fits an empty set.
            let _fits = all.insert(first, last);
            all
        };
        Self {
            memory: range(0, last_frame),
            ports: range(0, u64::MAX),
            interrupts: range(u64::from(TIMER_LINE) + 1, u64::MAX),
        }
    }

    /// Whether the domain can reach any device, by its memory or by ports: then caches are of concern to it.
    #[must_use]
    pub fn reach_devices(&self) -> bool {
        !self.memory.is_empty() || !self.ports.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_of_ranges_is_a_set(ops in proptest::collection::vec((any::<bool>(), 0..64_u64, 0..16_u64), 1..60)) {
            let mut ranges = Ranges::EMPTY;
            let mut model = [false; 80];
            for (insert, first, length) in ops {
                let last = first + length;
                let done = if insert { ranges.insert(first, last) } else { ranges.remove(first, last) };
                if done.is_ok() {
                    model[first as usize..=last as usize].fill(insert);
                }
                for (n, &is_in) in model.iter().enumerate() {
                    prop_assert_eq!(ranges.contains(n as u64, n as u64), is_in);
                }
                prop_assert!(ranges.0.windows(2).all(|w| w[0].1 + 1 < w[1].0));
            }
        }
    }

    #[test]
    fn the_ends_of_the_numbers_are_numbers() {
        let mut ranges = Rights::everything(0xf_ffff).ports;
        ranges.remove(u64::MAX, u64::MAX).unwrap();
        ranges.remove(0, 0).unwrap();
        assert!(ranges.contains(1, u64::MAX - 1));
        assert!(!ranges.contains(0, 0) && !ranges.contains(u64::MAX, u64::MAX));
    }
}
