//! What the guest said, line by line, and where two of them differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::known;

/// With what the guest begins all that it says of sequences.
pub(super) const SAID: &str = "fuzz: ";

/// Where in what was asked: the seed (or the part), and the call.
pub(super) type Place = (u64, u64);

/// The lines of a run: by seed (or part) and call.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    lines: BTreeMap<Place, String>,
    /// A state that could not be had again, by the seed.
    stuck: BTreeMap<u64, String>,
    /// Whether the guest came as far as to begin.
    pub(super) is_ready: bool,
    /// Whether the guest came to its end.
    pub(super) is_done: bool,
    /// Whether the machine was stopped, since the guest said nothing more.
    is_hung: bool,
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

impl Transcript {
    /// Reads lines of the form `fuzz: SEED.CALL …`; what stands before them on a line does not matter. A
    /// machine that was stopped has hung.
    pub(super) fn read(text: &str, was_stopped: bool) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let Some((_, said)) = line.split_once(SAID) else { continue };
            match said.trim() {
                "ready" => read.is_ready = true,
                "done" => read.is_done = true,
                _ => {}
            }
            let Some((place, rest)) = said.split_once(' ') else { continue };
            let Some((label, call)) = place.split_once('.') else { continue };
            let Ok(label) = label.parse() else { continue };
            match call.parse() {
                Ok(call) => drop(read.lines.insert((label, call), rest.trim_end().to_owned())),
                Err(_) => drop(read.stuck.insert(label, rest.trim_end().to_owned())),
            }
        }
        read.is_hung = was_stopped && !read.is_done;
        read
    }

    /// How many steps there are.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The lines of a sequence.
    pub(super) fn of(&self, label: u64) -> impl Iterator<Item = (u64, &str)> {
        self.lines.range((label, 0)..=(label, u64::MAX)).map(|((_, call), line)| (*call, line.as_str()))
    }

    /// What the guest said of a step, or why it said nothing.
    pub(super) fn line(&self, place: Place) -> String {
        match (self.lines.get(&place), self.stuck.get(&place.0)) {
            (Some(line), _) => line.clone(),
            (None, Some(what)) => format!("nothing: {what}"),
            (None, None) if self.is_hung => "nothing: it hangs".to_owned(),
            (None, None) => "nothing: the guest or the machine has ended".to_owned(),
        }
    }

    /// How many steps of a plan both have done, up to where one of them came.
    pub(super) fn common(&self, other: &Self, plan: impl Iterator<Item = Place>, reached: Option<Place>) -> usize {
        let is_common = |place: &Place| self.lines.contains_key(place) && other.lines.contains_key(place);
        plan.take_while(|(label, _)| reached.is_none_or(|(last, _)| *label <= last)).filter(is_common).count()
    }

    /// The first step of a plan without an answer on either side.
    pub(super) fn reached(&self, other: &Self, mut plan: impl Iterator<Item = Place>) -> Option<Place> {
        plan.find(|place| !self.lines.contains_key(place) || !other.lines.contains_key(place))
    }

    /// The first difference of each sequence, but for those that are known; where one came no further than
    /// `reached`, up to that sequence's end.
    pub(super) fn differences(&self, oxen: &Self, reached: Option<Place>, all: bool) -> Vec<Difference> {
        let mut found: Vec<Difference> = Vec::new();
        let places: BTreeSet<Place> = self.lines.keys().chain(oxen.lines.keys()).copied().chain(reached).collect();
        let mut is_over = None;
        for place in places.into_iter().take_while(|(label, _)| reached.is_none_or(|(last, _)| *label <= last)) {
            let (label, call) = place;
            let (ours, theirs) = (oxen.line(place), self.line(place));
            if is_over == Some(label) || ours == theirs {
                continue;
            }
            let is_known = known::is_known(&theirs, &ours);
            // What follows a known difference may follow from it.
            if !is_known || all || known::lasts(&theirs, &ours) {
                is_over = Some(label);
            }
            if all || !is_known {
                found.push(Difference { label, call, xen: theirs, oxen: ours });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::Transcript;

    const PLAN: [(u64, u64); 3] = [(3, 0), (3, 1), (4, 0)];

    /// The differences within the plan, and where the first without an answer is.
    fn compared(xen: &Transcript, oxen: &Transcript) -> (Vec<super::Difference>, Option<(u64, u64)>) {
        let reached = xen.reached(oxen, PLAN.into_iter());
        (xen.differences(oxen, reached, false), reached)
    }

    #[test]
    fn lines_are_compared_by_seed_and_call() {
        let said = "fuzz: ready\n(XEN) x\nfuzz: 3.0 a = 0\n(d0) fuzz: 3.1 b = -22\nfuzz: 4.0 c = 1\nfuzz: done\n";
        let xen = Transcript::read(said, false);
        let oxen = Transcript::read("fuzz: 3.0 a = 0\nfuzz: 3.1 b = -1\nfuzz: 4.0 c = 1\nfuzz: done\n", false);
        assert!(xen.is_ready && xen.is_done);
        let (found, reached) = compared(&xen, &oxen);
        assert_eq!((found.len(), reached), (1, None));
        assert_eq!((found[0].label, found[0].call), (3, 1));
        assert_eq!((found[0].xen.as_str(), found[0].oxen.as_str()), ("b = -22", "b = -1"));
        assert_eq!(xen.common(&oxen, PLAN.into_iter(), reached), 3);
    }

    #[test]
    fn a_guest_that_ends_early_differs_there() {
        let xen = Transcript::read("fuzz: 3.0 a = 0\nfuzz: 3.1 b = 0\nfuzz: 4.0 c = 0\nfuzz: done\n", false);
        let oxen = Transcript::read("fuzz: 3.0 a = 0\n", false);
        let (found, reached) = compared(&xen, &oxen);
        assert_eq!((found.len(), reached), (1, Some((3, 1))));
        assert!(found[0].oxen.contains("ended"));
        assert_eq!(xen.common(&oxen, PLAN.into_iter(), reached), 1);
    }

    #[test]
    fn who_hangs_alone_differs_and_who_hangs_together_does_not() {
        let said = "fuzz: 3.0 a = 0\n";
        let (hung, other) = (Transcript::read(said, true), Transcript::read(said, true));
        assert_eq!(compared(&hung, &other), (Vec::new(), Some((3, 1))));
        // An end of another kind at the same step.
        let (found, _) = compared(&hung, &Transcript::read(said, false));
        assert_eq!((found.len(), found[0].call), (1, 1));
        assert!(found[0].xen.contains("hangs") && found[0].oxen.contains("ended"));
        let (found, _) =
            compared(&Transcript::read("fuzz: 3.0 a = 0\nfuzz: 3.1 b = 0\nfuzz: 4.0 c = 0\n", false), &hung);
        assert_eq!((found.len(), found[0].xen.as_str()), (1, "b = 0"));
        assert!(found[0].oxen.contains("hangs"));
    }

    #[test]
    fn the_first_step_of_all_may_hang() {
        let (xen, oxen) = (Transcript::read("fuzz: ready\n", true), Transcript::read("fuzz: ready\n", false));
        let (found, reached) = compared(&xen, &oxen);
        assert_eq!((found.len(), reached), (1, Some((3, 0))));
    }
}
