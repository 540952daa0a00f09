//! Which frame is where in a domain's memory: a tree of frames, of which only those are there in which anything stands.
//!
//! An entry of the tree is to its frame what an entry of a page table is: it holds a writable use of it, or, where the
//! frame cannot be had so, a reference.

use super::super::{
    super::{Hardware, Ram, RamFrame, entry::Entry},
    pool::Pool,
};
use crate::{addr::Mfn, mem::Memory};
use core::sync::atomic::{AtomicU64, Ordering};

/// Entries in a leaf, and places in a node.
const PLACES_SHIFT: u32 = 9;
const PLACES: u64 = 1 << PLACES_SHIFT;
/// Levels, the leaves included.
const LEVELS: u32 = 3;
/// The first number that has no place: 512 GiB of guest memory.
pub(super) const END: u64 = 1 << (LEVELS * PLACES_SHIFT);

/// A p2m. Its frames are the pool's for good.
#[derive(Debug, Default)]
pub(super) struct P2m {
    root: Option<RamFrame>,
}

/// A node's word: which frame comes next, if any.
fn below(word: &AtomicU64) -> Option<RamFrame> {
    Entry(word.load(Ordering::Relaxed)).table()
}

fn step(ram: &impl Ram, node: RamFrame, gfn: u64, level: u32) -> Option<&'static AtomicU64> {
    ram.words(node).get((gfn >> (level * PLACES_SHIFT) & (PLACES - 1)) as usize)
}

impl P2m {
    /// Where the entry of a frame is, if any near it ever stood there.
    pub(super) fn place(&self, ram: &impl Ram, gfn: u64) -> Option<&'static AtomicU64> {
        let mut node = self.root.filter(|_| gfn < END)?;
        for level in (1..LEVELS).rev() {
            node = below(step(ram, node, gfn, level)?)?;
        }
        step(ram, node, gfn, 0)
    }

    /// The entry of a frame, if there is one.
    pub(super) fn entry(&self, ram: &impl Ram, gfn: u64) -> Option<Entry> {
        self.place(ram, gfn).map(|word| Entry(word.load(Ordering::Relaxed))).filter(|entry| entry.is_present())
    }

    /// Where the entry of a frame is to be, made if need be; `None` without memory for it, and beyond [`END`].
    pub(super) fn make_place<M: Hardware>(
        &mut self,
        memory: &Memory<M>,
        pool: &mut Pool,
        gfn: u64,
    ) -> Option<&'static AtomicU64> {
        if gfn >= END {
            return None;
        }
        if self.root.is_none() {
            self.root = pool.keep(memory);
        }
        let mut node = self.root?;
        for level in (1..LEVELS).rev() {
            let word = step(&memory.machine, node, gfn, level)?;
            node = match below(word) {
                Some(next) => next,
                None => {
                    let new = pool.keep(memory)?;
                    word.store(Entry::to(new.mfn(), Entry::PRESENT).0, Ordering::Relaxed);
                    new
                }
            };
        }
        step(&memory.machine, node, gfn, 0)
    }

    /// The first entry from `gfn` on, and whose it is.
    pub(super) fn next(&self, ram: &impl Ram, mut gfn: u64) -> Option<(u64, Entry)> {
        let root = self.root?;
        while gfn < END {
            let Some(node) = step(ram, root, gfn, 2).and_then(below) else {
                gfn = (gfn | (PLACES * PLACES - 1)) + 1;
                continue;
            };
            let Some(leaf) = step(ram, node, gfn, 1).and_then(below) else {
                gfn = (gfn | (PLACES - 1)) + 1;
                continue;
            };
            let entry = step(ram, leaf, gfn, 0).map_or(Entry(0), |word| Entry(word.load(Ordering::Relaxed)));
            if entry.is_present() {
                return Some((gfn, entry));
            }
            gfn += 1;
        }
        None
    }
}

/// An entry that holds a frame.
pub(super) fn entry_of(frame: Mfn, is_writable: bool) -> Entry {
    let mut flags = Entry::PRESENT;
    flags.set(Entry::WRITABLE, is_writable);
    Entry::to(frame, flags)
}
