//! One bit for each pseudo-physical frame: a tree of frames, of which only those are there in which a bit was ever set.

use super::{
    super::{Hardware, Ram, RamFrame},
    pool::Pool,
};
use crate::{addr::Mfn, mem::Memory};
use core::sync::atomic::{AtomicU64, Ordering};

/// Bits in a leaf.
pub(super) const LEAF_BITS: u64 = 1 << LEAF_SHIFT;
const LEAF_SHIFT: u32 = 15;
/// Places in a node.
const NODE_SHIFT: u32 = 9;
/// Levels of nodes above the leaves.
const NODES: u32 = 2;
/// The first number that has no bit: 32 TiB of guest memory.
pub(super) const END: u64 = 1 << (LEAF_SHIFT + NODES * NODE_SHIFT);

/// A node's word: which frame comes next, if any.
fn below(word: &AtomicU64) -> Option<RamFrame> {
    let value = word.load(Ordering::Relaxed);
    if value == 0 { None } else { Mfn::new(value - 1).map(RamFrame::counted) }
}

/// A bitmap. Its frames are the pool's for good.
#[derive(Debug, Default)]
pub(super) struct Bitmap {
    root: Option<RamFrame>,
}

impl Bitmap {
    fn step(ram: &impl Ram, node: RamFrame, number: u64, level: u32) -> Option<&'static AtomicU64> {
        let place = number >> (LEAF_SHIFT + level * NODE_SHIFT) & ((1 << NODE_SHIFT) - 1);
        ram.words(node).get(place as usize)
    }

    /// The leaf with the bit of this number, if any bit near it was ever set.
    pub(super) fn leaf(&self, ram: &impl Ram, number: u64) -> Option<RamFrame> {
        let mut node = self.root.filter(|_| number < END)?;
        for level in (0..NODES).rev() {
            node = below(Self::step(ram, node, number, level)?)?;
        }
        Some(node)
    }

    fn bit(ram: &impl Ram, leaf: RamFrame, number: u64) -> Option<(&'static AtomicU64, u64)> {
        let place = number % LEAF_BITS;
        ram.words(leaf).get((place / 64) as usize).map(|word| (word, 1 << (place % 64)))
    }

    /// Whether the bit is set.
    pub(super) fn has(&self, ram: &impl Ram, number: u64) -> bool {
        let found = self.leaf(ram, number).and_then(|leaf| Self::bit(ram, leaf, number));
        found.is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Sets a bit below [`END`]. Returns whether there was memory for it; what was found by then stays.
    #[must_use]
    pub(super) fn set<M: Hardware>(&mut self, memory: &Memory<M>, pool: &mut Pool, number: u64) -> bool {
        if self.root.is_none() {
            self.root = pool.keep(memory);
        }
        let Some(mut node) = self.root.filter(|_| number < END) else { return false };
        for level in (0..NODES).rev() {
            let Some(word) = Self::step(&memory.machine, node, number, level) else { return false };
            node = match below(word) {
                Some(next) => next,
                None => {
                    let Some(new) = pool.keep(memory) else { return false };
                    word.store(new.mfn().raw() + 1, Ordering::Relaxed);
                    new
                }
            };
        }
        let Some((word, bit)) = Self::bit(&memory.machine, node, number) else { return false };
        word.fetch_or(bit, Ordering::Relaxed);
        true
    }

    /// The first number from `from` on, in steps of a leaf, whose leaf is there, unless that is beyond `end`.
    pub(super) fn next_leaf(&self, ram: &impl Ram, from: u64, end: u64) -> Option<u64> {
        let end = end.min(END);
        let root = self.root?;
        let mut number = from;
        while number < end {
            let upper = Self::step(ram, root, number, 1).and_then(below);
            match upper {
                None => number = (number | ((LEAF_BITS << NODE_SHIFT) - 1)) + 1,
                Some(node) if Self::step(ram, node, number, 0).and_then(below).is_some() => return Some(number),
                Some(_) => number = (number | (LEAF_BITS - 1)) + 1,
            }
        }
        None
    }
}
