//! Tables under way between plain memory and page table, and how they are left alone and found again.
//!
//! A table under way is described by one number, how many of its entries hold what they refer to; going up it becomes
//! 512, going down 0. When time is up the number goes into the table's auxiliary word, for it and for every table below
//! it that is under way too, and the tables are *partial*: nobody else can take them. A partial table that belongs to
//! no other ([`NESTED`] is not set) holds one use and one reference for whoever comes back for it; the next attempt to
//! take it adopts both and goes on.

use super::{Hardware, RamFrame, editor::Editor, entry::Entry, frame_table::FrameTable, frame_type::FrameState};
use crate::{
    addr::{Mfn, TABLE_ENTRIES},
    layout::{END_HV_SLOT, FIRST_HV_SLOT},
};
use core::sync::atomic::{AtomicU64, Ordering};
use heapless::Vec;

/// In the auxiliary word of a partial table: entries that hold what they refer to.
const HELD: u32 = 0x3ff;
/// The next entry refers to a table that is itself under way.
const INSIDE: u32 = 1 << 10;
/// The table is under way for an entry of another.
const NESTED: u32 = 1 << 11;
/// What of the word is for tables under way. The bits above are [`super::linear`]'s.
pub(super) const PROGRESS: u32 = (1 << 12) - 1;

/// A table under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) table: RamFrame,
    pub(super) level: u32,
    pub(super) held: usize,
}

/// Tables under way, from the uppermost down: of each level but the first two at most, one
/// behind the other's linear entry.
pub(super) type Walk = Vec<Step, 7>;

impl<M: Hardware> Editor<'_, M> {
    /// Writes down where the walk stands.
    pub(super) fn suspend(&self, walk: &Walk) {
        for (depth, step) in walk.iter().enumerate() {
            let inside = if depth + 1 < walk.len() { INSIDE } else { 0 };
            let nested = if depth > 0 { NESTED } else { 0 };
            let others = self.memory.frames.aux(step.table.mfn()) & !PROGRESS;
            self.memory.frames.set_aux(step.table.mfn(), step.held as u32 | inside | nested | others);
            self.memory.frames.change(step.table, FrameState::partial);
        }
    }

    /// Reads where a walk stood, from a partial table down.
    pub(super) fn resume(&self, walk: &mut Walk, top: RamFrame) {
        let mut next = Some(top);
        while let Some(table) = next {
            let aux = self.memory.frames.aux(table.mfn());
            let held = (aux & HELD) as usize;
            let Some(level) = self.memory.frames.state(table.mfn()).kind().level() else { return };
            push(walk, Step { table, level, held });
            next = (aux & INSIDE != 0)
                .then(|| self.memory.machine.words(table).get(held))
                .flatten()
                .and_then(|word| Entry(word.load(Ordering::Relaxed)).mfn())
                .map(RamFrame::counted);
        }
    }
}

/// A partial table, as an audit sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// Entries that hold what they refer to.
    pub held: usize,
    /// Whether the next one's table is under way for it, too.
    pub is_inside: bool,
    /// Whether it is under way for another table's entry.
    pub is_nested: bool,
}

impl FrameTable {
    /// How far a table under way is, if it is one.
    #[must_use]
    pub fn under_way(&self, mfn: Mfn) -> Option<UnderWay> {
        let state = self.state(mfn);
        let aux = self.aux(mfn);
        (state.is_partial() && state.kind().level().is_some()).then_some(UnderWay {
            held: (aux & HELD) as usize,
            is_inside: aux & INSIDE != 0,
            is_nested: aux & NESTED != 0,
        })
    }

    /// Whether a table is under way for no other table: whoever was at it may or may not come back.
    #[must_use]
    pub(super) fn is_abandoned(&self, mfn: Mfn) -> bool {
        self.under_way(mfn).is_some_and(|at| !at.is_nested)
    }
}

/// Whether the slot of a table of this level is the hypervisor's.
#[inline]
#[must_use]
pub const fn is_hypervisor_slot(level: u32, slot: usize) -> bool {
    level == 4 && slot >= FIRST_HV_SLOT && slot < END_HV_SLOT
}

/// Entries that are looked at together.
pub(super) const GROUP: usize = 8;

/// Those groups of a table's entries in which something is present, with the slot of the first. Most tables are mostly
/// empty.
#[inline(always)]
pub(super) fn groups(table: &[AtomicU64; TABLE_ENTRIES]) -> impl Iterator<Item = (usize, &[AtomicU64; GROUP])> {
    let (groups, _) = table.as_chunks::<GROUP>();
    groups.iter().enumerate().filter_map(|(n, group)| is_any_present(group).then_some((n * GROUP, group)))
}

#[inline(always)]
pub(super) fn is_any_present(group: &[AtomicU64; GROUP]) -> bool {
    let all = group.iter().fold(0, |all, word| all | word.load(Ordering::Relaxed));
    Entry(all).is_present()
}

pub(super) fn one_step(table: RamFrame, level: u32, held: usize) -> Walk {
    let mut walk = Walk::new();
    push(&mut walk, Step { table, level, held });
    walk
}

/// A walk has room for seven steps: each is a level below the one before, or behind a linear entry of
/// it, and what is there has none.
pub(super) fn push(walk: &mut Walk, step: Step) {
    let full = walk.push(step).is_err();
    debug_assert!(!full, "more page tables on the way than there can be");
}
