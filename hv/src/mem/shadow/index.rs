//! Which table has which shadow: a table of sets, so that each look and each change takes a bounded number of steps.

use super::super::{Ram, RamFrame};
use crate::addr::Mfn;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

/// Pairs of words in a set: what is shadowed, and its shadow.
const SET: usize = 16;
const SET_WORDS: usize = 2 * SET;
const SETS_PER_FRAME: usize = 512 / SET_WORDS;

/// A key: generation, source, level.
const SOURCE_SHIFT: u32 = 3;
const GENERATION_SHIFT: u32 = 35;
/// What stands beside it: round, shadow.
const ROUND_SHIFT: u32 = 32;

/// What a shadow is of: a table, seen as one of a level. A table behind a linear entry is
/// seen as one of the level below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) source: Mfn,
    pub(super) level: u32,
}

/// A shadow of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) frame: RamFrame,
    /// The round of the log in which it was made, or rights to write were last taken from it.
    pub(super) round: u32,
}

impl Found {
    fn word(self) -> u64 {
        u64::from(self.round) << ROUND_SHIFT | self.frame.mfn().raw()
    }
}

/// The index. What an earlier generation left is not there.
#[derive(Debug)]
pub(super) struct Index {
    frames: Box<[RamFrame]>,
    generation: u64,
}

/// Frames that an index takes for shadows in `frames` frames: its sets are half full then.
pub(super) const fn frames_for(frames: u32) -> u32 {
    let pairs = 2 * frames as usize;
    pairs.div_ceil(SETS_PER_FRAME * SET).next_power_of_two() as u32
}

impl Index {
    /// An index in these frames, a power of two of them, filled with zeros.
    pub(super) fn new(frames: Box<[RamFrame]>) -> Self {
        Self { frames, generation: 1 }
    }

    /// The frames that it takes.
    pub(super) fn frames(&self) -> &[RamFrame] {
        &self.frames
    }

    fn word(&self, key: Key) -> u64 {
        self.generation << GENERATION_SHIFT | key.source.raw() << SOURCE_SHIFT | u64::from(key.level)
    }

    /// The set of a key.
    fn set<'a>(&self, ram: &'a impl Ram, key: Key) -> Option<&'a [[AtomicU64; 2]]> {
        const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
        let hash = (key.source.raw() << 2 | u64::from(key.level & 3)).wrapping_mul(MIX) >> 32;
        let set = hash as usize & (self.frames.len() * SETS_PER_FRAME).wrapping_sub(1);
        let frame = self.frames.get(set / SETS_PER_FRAME)?;
        let (sets, _) = ram.words(*frame).as_chunks::<SET_WORDS>();
        sets.get(set % SETS_PER_FRAME).map(|set| set.as_chunks::<2>().0)
    }

    fn pair<'a>(&self, ram: &'a impl Ram, key: Key) -> Option<&'a [AtomicU64; 2]> {
        let word = self.word(key);
        self.set(ram, key)?.iter().find(|[key, _]| key.load(Ordering::Relaxed) == word)
    }

    /// The shadow of a table.
    pub(super) fn find(&self, ram: &impl Ram, key: Key) -> Option<Found> {
        let [_, value] = self.pair(ram, key)?;
        let word = value.load(Ordering::Relaxed);
        let frame = RamFrame::counted(Mfn::truncated(word));
        Some(Found { frame, round: (word >> ROUND_SHIFT) as u32 })
    }

    /// Notes of a shadow that is there what has changed.
    pub(super) fn update(&self, ram: &impl Ram, key: Key, shadow: Found) {
        if let Some([_, value]) = self.pair(ram, key) {
            value.store(shadow.word(), Ordering::Relaxed);
        }
    }

    /// Enters the shadow of a table that has none. Returns whether there is room for it.
    #[must_use]
    pub(super) fn insert(&self, ram: &impl Ram, key: Key, shadow: Found) -> bool {
        let is_free = |word: &AtomicU64| word.load(Ordering::Relaxed) >> GENERATION_SHIFT != self.generation;
        let free = self.set(ram, key).and_then(|set| set.iter().find(|[key, _]| is_free(key)));
        let Some([word, value]) = free else { return false };
        value.store(shadow.word(), Ordering::Relaxed);
        word.store(self.word(key), Ordering::Relaxed);
        true
    }

    /// Takes the shadow of a table out.
    pub(super) fn remove(&self, ram: &impl Ram, key: Key) -> Option<RamFrame> {
        let found = self.find(ram, key)?;
        self.pair(ram, key)?[0].store(0, Ordering::Relaxed);
        Some(found.frame)
    }

    /// Takes all out, in one step but once in a very long time.
    pub(super) fn forget_all(&mut self, ram: &impl Ram) {
        self.generation += 1;
        if self.generation >> (64 - GENERATION_SHIFT) != 0 {
            self.frames.iter().for_each(|&frame| ram.clear(frame));
            self.generation = 1;
        }
    }
}
