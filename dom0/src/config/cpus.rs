//! Sets of the machine's processors, in xl's notation: `all`, `0-3,5,^2`.

use alloc::{format, string::String, vec::Vec};
use core::fmt;

use anyhow::{Context, Result, bail, ensure};

/// Words of a set.
const WORDS: usize = 4;
/// Processors that a set can hold.
pub const MAX_CPUS: u32 = 64 * WORDS as u32;

/// A set of processors, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSet([u64; WORDS]);

impl CpuSet {
    /// Every processor.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// Reads xl's notation: numbers and ranges, parted by commas; `^` takes what follows it out of what was before.
    ///
    /// # Errors
    /// It is another notation, a number is too great, or nothing is left.
    pub fn parse(text: &str) -> Result<Self> {
        let mut set = Self([0; WORDS]);
        for (index, part) in text.split(',').map(str::trim).enumerate() {
            let (part, is_in) = part.strip_prefix('^').map_or((part, true), |rest| (rest, false));
            if matches!(part, "all" | "any") {
                set.0 = if is_in { Self::ALL.0 } else { [0; WORDS] };
                continue;
            }
            // What only takes away takes from all.
            if index == 0 && !is_in {
                set = Self::ALL;
            }
            if part.starts_with("node") {
                bail!("`{part}`: the machine is one node; name processors");
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                let number = text.trim().parse::<u32>().ok().filter(|&number| number < MAX_CPUS);
                number.with_context(|| format!("`{text}` is no processor; write for example 0-3,5 or all"))
            };
            let (first, last) = (number(first)?, number(last)?);
            ensure!(first <= last, "`{part}` runs backwards");
            (first..=last).for_each(|cpu| set.set(cpu, is_in));
        }
        ensure!(set.0 != [0; WORDS], "`{text}` leaves no processor");
        Ok(set)
    }

    fn set(&mut self, cpu: u32, is_in: bool) {
        if let Some(word) = self.0.get_mut(cpu as usize / 64) {
            let bit = 1 << (cpu % 64);
            *word = if is_in { *word | bit } else { *word & !bit };
        }
    }

    /// Whether a processor is in it.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.get(cpu as usize / 64).is_some_and(|word| word >> (cpu % 64) & 1 != 0)
    }

    /// The set as words, the lowest numbers first.
    pub const fn words(&self) -> [u64; WORDS] {
        self.0
    }

    /// The set of words.
    pub const fn of_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    /// As xl shows it on a machine of `count` processors.
    pub fn shown(&self, count: u32) -> String {
        if (0..count).all(|cpu| self.contains(cpu)) { "all".into() } else { format!("{self}") }
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<u32> = (0..MAX_CPUS).filter(|&cpu| self.contains(cpu)).collect();
        for (index, run) in all.chunk_by(|a, b| a + 1 == *b).enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match run {
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [only] => write!(f, "{comma}{only}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_shown_as_xl_does() {
        let shown = |text: &str| CpuSet::parse(text).map(|set| set.shown(8));
        for (text, back) in [
            ("0", "0"),
            ("0-3,5", "0-3,5"),
            ("0-3,^2", "0-1,3"),
            ("all", "all"),
            ("all,^1-7", "0,8-255"),
            ("^0", "1-255"),
            (" 1 , 0", "0-1"),
            ("255", "255"),
        ] {
            assert_eq!(shown(text).unwrap(), back, "{text}");
        }
        for bad in ["", "x", "3-1", "256", "0,^0", "-1", "1-", "node:0", "0x1"] {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }
}
