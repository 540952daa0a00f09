//! The state that a step may change, and how two of them differ.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// The bit that Xen sets in entries for user pages: they survive a switch of roots there, and do not here.
pub(super) const GLOBAL: u64 = 1 << 8;
/// The bits of an entry that name a frame.
pub(super) const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// How many changes of one kind are told; of the others only how many there are.
const MAX_TOLD: usize = 8;

/// How much of a word a step writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// All of it.
    Whole,
    /// Its first bytes: the others say nothing of where memory lies.
    First,
    /// Some of its bytes.
    Bytes,
    /// Some of its bits.
    Bits,
}

impl Parts {
    /// What is told of a word that was `old` and is `new`, where what is left of the old one says where memory lies.
    fn of(self, old: u64, new: u64) -> u64 {
        match self {
            Self::Whole | Self::First => new,
            Self::Bytes => new & changed_bytes(old, new),
            Self::Bits => new & (old ^ new),
        }
    }
}

/// What can be seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effects {
    /// The argument memory by its words.
    pub(crate) memory: Vec<u64>,
    /// The frames by their words, one after the other.
    pub(crate) frames: Vec<u64>,
    /// The entries of the windows, and the slot of the root.
    pub(crate) entries: Vec<u64>,
    /// Of each port whether it is pending and whether it is masked.
    pub(crate) events: Vec<(bool, bool)>,
    /// Whether an upcall is pending, and whether upcalls are masked.
    pub(crate) upcall: (bool, bool),
    /// The grant table's entries.
    pub(super) grants: Vec<super::table::Seen>,
    /// Bytes of the argument memory that are not compared.
    hidden: Vec<(usize, usize)>,
}

impl Effects {
    /// Does not compare these bytes of the argument memory.
    pub(crate) fn hide(&mut self, at: usize, length: usize) {
        self.hidden.push((at, length));
    }

    /// Does not compare the first words of the argument memory.
    pub(crate) fn forget_memory(&mut self, words: usize) {
        self.hide(0, words * 8);
    }

    fn is_hidden(&self, byte: usize) -> bool {
        self.hidden.iter().any(|(at, length)| (*at..at + length).contains(&byte))
    }

    /// Tells what is other afterwards.
    ///
    /// Who writes by `parts` of words leaves of an entry that was there what says where the guest's memory lies: of
    /// such words only the bytes or bits are told that are other.
    pub(crate) fn compare(
        &self,
        after: &Self,
        parts: Parts,
        meaning: impl Fn(u64) -> Option<String>,
        text: &mut String,
    ) {
        let name = |word| meaning(word).unwrap_or_else(|| number(word));
        let mut told = 0;
        for (index, (old, new)) in self.memory.iter().zip(&after.memory).enumerate() {
            if old == new {
                continue;
            }
            let visible: u64 =
                (0..8).filter(|byte| !self.is_hidden(index * 8 + byte)).map(|byte| 0xff << (byte * 8)).sum();
            if (old ^ new) & visible != 0 {
                told += 1;
                if told <= MAX_TOLD {
                    let new = if visible == u64::MAX { name(*new) } else { name(new & visible) };
                    let _ = write!(text, " &{:x}={new}", index * 8);
                }
            }
        }
        rest(text, told);
        told = 0;
        for (index, (old, new)) in changed(&self.frames, &after.frames) {
            // A bit that has no name of its own is not told, nor are the slots of a root that are the hypervisor's.
            if name(*old) == name(*new) || (256..272).contains(&(index % 512)) {
                continue;
            }
            told += 1;
            if told <= MAX_TOLD {
                // An event word in one half of an entry leaves the other half, and bits of its own that mean nothing.
                // Who writes a part of a frame's number names no frame, even where there is one of that number.
                let is_part = meaning(*new).is_none() && (parts == Parts::Bits || meaning(*old).is_some())
                    || matches!(parts, Parts::First | Parts::Bytes) && (*old ^ *new) & FRAME != 0;
                let new = if is_part { number(parts.of(*old, *new)) } else { name(*new) };
                let _ = write!(text, " F{}[{}]={new}", index / 512, index % 512);
            }
        }
        rest(text, told);
        for (index, (_, new)) in changed(&self.entries, &after.entries) {
            let _ = write!(text, " pte{index}={}", name(*new));
        }
        for (index, (_, (prefix, upper, frame, status))) in changed(&self.grants, &after.grants) {
            // A frame that was exchanged for another has no name any more.
            let is_of_old = meaning(*frame).is_none() && (0x100..1 << 20).contains(frame);
            let frame = if is_of_old { "old".into() } else { name(*frame) };
            let _ = write!(text, " gnt{index}={prefix:x}/{upper:x}/{frame}/{status:x}");
        }
        for (port, (_, (pending, masked))) in changed(&self.events, &after.events) {
            let _ = write!(text, " port{port}:{}{}", u8::from(*pending), u8::from(*masked));
        }
        if self.upcall != after.upcall {
            let _ = write!(text, " upcall:{}{}", u8::from(after.upcall.0), u8::from(after.upcall.1));
        }
    }
}

fn changed<'a, T: PartialEq>(old: &'a [T], new: &'a [T]) -> impl Iterator<Item = (usize, (&'a T, &'a T))> {
    old.iter().zip(new).enumerate().filter(|(_, (old, new))| old != new)
}

/// A word that means nothing, but for a bit that Xen sets in entries for user pages.
pub(super) fn number(word: u64) -> String {
    const USER_PAGE: u64 = 1 | 1 << 2;
    format!("{:x}", if word & USER_PAGE == USER_PAGE { word & !GLOBAL } else { word })
}

/// The bytes that are other.
fn changed_bytes(old: u64, new: u64) -> u64 {
    (0..8).map(|byte| 0xff << (byte * 8)).filter(|byte| (old ^ new) & byte != 0).sum()
}

fn rest(text: &mut String, told: usize) {
    if let Some(more @ 1..) = told.checked_sub(MAX_TOLD) {
        let _ = write!(text, " and {more} more");
    }
}
