//! What the guest said, line by line, and where two of them differ.

use std::collections::BTreeMap;
use std::fmt;

use super::known;

/// The lines of a run: by seed (or part) and call.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    lines: BTreeMap<(u64, u64), String>,
    /// A state that could not be had again, by the seed.
    stuck: BTreeMap<u64, String>,
    /// Whether the guest came to its end.
    pub(super) is_done: bool,
}

/// Two answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The seed, or the part.
    pub label: u64,
    /// The call's place in the sequence.
    pub call: u64,
    /// What real Xen answers.
    pub xen: String,
    /// What Oxen answers.
    pub oxen: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} call {}\n    Xen  {}\n    Oxen {}", self.label, self.call, self.xen, self.oxen)
    }
}

/// What stands where a guest said nothing more.
const NOTHING: &str = "nothing: the guest or the machine has ended";

impl Transcript {
    /// Reads lines of the form `fuzz: SEED.CALL …`; what stands before them on a line does not matter.
    pub(super) fn read(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let Some((_, said)) = line.split_once("fuzz: ") else { continue };
            if said.trim() == "done" {
                read.is_done = true;
            }
            let Some((place, rest)) = said.split_once(' ') else { continue };
            let Some((label, call)) = place.split_once('.') else { continue };
            let Ok(label) = label.parse() else { continue };
            match call.parse() {
                Ok(call) => drop(read.lines.insert((label, call), rest.trim_end().to_owned())),
                Err(_) => drop(read.stuck.insert(label, rest.trim_end().to_owned())),
            }
        }
        read
    }

    /// How many steps there are.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The last sequence that was begun.
    pub(super) fn last_label(&self) -> Option<u64> {
        self.lines.keys().map(|(label, _)| *label).chain(self.stuck.keys().copied()).max()
    }

    /// The lines of a sequence.
    pub(super) fn of(&self, label: u64) -> impl Iterator<Item = (u64, &str)> {
        self.lines.range((label, 0)..=(label, u64::MAX)).map(|((_, call), line)| (*call, line.as_str()))
    }

    /// The first difference of each sequence that both began, but for those that are known.
    pub(super) fn differences(&self, oxen: &Self, all: bool) -> Vec<Difference> {
        let mut found = Vec::new();
        let last = self.last_label().min(oxen.last_label());
        let labels = self.lines.keys().chain(oxen.lines.keys()).map(|(label, _)| *label);
        let mut labels: Vec<u64> = labels.filter(|label| Some(*label) <= last).collect();
        labels.dedup();
        labels.sort_unstable();
        labels.dedup();
        for label in labels {
            let mut calls: Vec<u64> = self.of(label).chain(oxen.of(label)).map(|(call, _)| call).collect();
            calls.sort_unstable();
            calls.dedup();
            for call in calls {
                let line = |side: &Self| side.lines.get(&(label, call)).map_or(NOTHING.to_owned(), Clone::clone);
                let (ours, theirs) = (line(oxen), line(self));
                if ours == theirs {
                    continue;
                }
                let is_known = known::is_known(&theirs, &ours);
                if all || !is_known {
                    found.push(Difference { label, call, xen: theirs, oxen: ours });
                    break;
                }
                // What follows a known difference may follow from it.
                if is_known && known::lasts(&theirs, &ours) {
                    break;
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::Transcript;

    #[test]
    fn lines_are_compared_by_seed_and_call() {
        let xen = Transcript::read("(XEN) x\nfuzz: 3.0 a = 0\n(d0) fuzz: 3.1 b = -22\nfuzz: 4.0 c = 1\nfuzz: done\n");
        let oxen = Transcript::read("fuzz: 3.0 a = 0\nfuzz: 3.1 b = -1\nfuzz: 4.0 c = 1\nfuzz: done\n");
        assert!(xen.is_done);
        let found = xen.differences(&oxen, false);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].label, found[0].call), (3, 1));
        assert_eq!((found[0].xen.as_str(), found[0].oxen.as_str()), ("b = -22", "b = -1"));
    }

    #[test]
    fn a_guest_that_ends_early_differs_there() {
        let xen = Transcript::read("fuzz: 3.0 a = 0\nfuzz: 3.1 b = 0\nfuzz: 4.0 c = 0\nfuzz: done\n");
        let oxen = Transcript::read("fuzz: 3.0 a = 0\n");
        let found = xen.differences(&oxen, false);
        assert_eq!(found.len(), 1);
        assert!(found[0].oxen.contains("ended"));
        assert_eq!(oxen.last_label(), Some(3));
    }
}
