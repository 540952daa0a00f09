//! From a frame full of numbers to a page table, and back: iterative, bounded, resumable.
//!
//! A table under way is described by one number, how many of its entries hold what they refer to; going up it becomes 512,
//! going down 0. When time is up the number goes into the table's auxiliary word, for it and for every table below it that
//! is under way too, and the tables are *partial*: nobody else can take them. A partial table that belongs to no other
//! ([`NESTED`] is not set) holds one use and one reference for whoever comes back for it; the next attempt to take it adopts
//! both and goes on. Giving back works on the same representation, so a validation that fails half way is a giving back.

use super::{
    editor::Editor,
    entry::Entry,
    frame_type::{Acquired, FrameType, Released},
};
use crate::{
    Hypervisor,
    addr::{Mfn, TABLE_ENTRIES},
    caller::Refusal,
    layout::{END_HV_SLOT, FIRST_HV_SLOT},
    machine::Machine,
};
use core::sync::atomic::{AtomicU64, Ordering};
use heapless::Vec;
use oxen_abi::errno::Errno;

/// The work of one table, in units of preemption.
const TABLE_UNITS: u32 = 128;
/// In the auxiliary word of a partial table: entries that hold what they refer to.
const HELD: u32 = 0x3ff;
/// The next entry refers to a table that is itself under way.
const INSIDE: u32 = 1 << 10;
/// The table is under way for an entry of another.
const NESTED: u32 = 1 << 11;

/// A table under way.
#[derive(Clone, Copy, Debug)]
struct Step {
    table: Mfn,
    level: u32,
    held: usize,
}

/// Tables under way, from the uppermost down.
type Walk = Vec<Step, 4>;

enum Progress {
    Done,
    Into(Mfn),
    Resume(Mfn),
    Failed(Errno),
}

impl<M: Machine> Editor<'_, M> {
    /// Takes a use and a reference of a frame as a table of `level`, validating it and everything below where needed.
    ///
    /// # Errors
    /// `Inval` if the frame is not the domain's, is something else, or contains what no such table may; then nothing has
    /// changed. `Preempted`: what has been done is kept, the same call goes on.
    #[inline(always)]
    pub fn take_table(&mut self, mfn: Mfn, level: u32) -> Result<(), Refusal> {
        let kind = FrameType::table(level).ok_or(Errno::Inval)?;
        if self.hv.frames.hold_table_once_more(mfn.index(), self.domain.owner, kind) {
            return Ok(());
        }
        self.take_table_with_care(mfn, level, kind)
    }

    #[inline(never)]
    fn take_table_with_care(&mut self, mfn: Mfn, level: u32, kind: FrameType) -> Result<(), Refusal> {
        if self.domain.is_dying.load(Ordering::Acquire) {
            return Err(Errno::Inval.into());
        }
        match self.take_step(mfn, kind) {
            Progress::Done => Ok(()),
            Progress::Into(_) => self.validate(&mut one_step(mfn, level, 0)),
            Progress::Resume(_) => {
                let mut walk = Walk::new();
                self.resume(&mut walk, mfn, level);
                self.validate(&mut walk)
            }
            Progress::Failed(error) => Err(error.into()),
        }
    }

    /// Gives back a use and a reference of a table. If it was the last use, everything below is given back too: now, or
    /// where it is much, before anything else the next time somebody edits the domain's tables. Call [`Self::settle`] first:
    /// two tables cannot both be left for later, and the second would be given back in one go.
    #[inline(always)]
    pub fn put_table(&mut self, mfn: Mfn) {
        if !self.hv.frames.hold_table_once_less(mfn.index()) {
            self.put_table_with_care(mfn);
        }
    }

    #[inline(never)]
    fn put_table_with_care(&mut self, mfn: Mfn) {
        if let Some(level) = self.release(mfn) {
            let mut walk = one_step(mfn, level, TABLE_ENTRIES);
            let may_stop = self.paging.unfinished.is_none();
            let _ = self.give_back(&mut walk, may_stop);
        }
    }

    /// Goes on with what is left to be given back.
    ///
    /// # Errors
    /// `Preempted` if there is more of it.
    #[inline(always)]
    pub fn settle(&mut self) -> Result<(), Refusal> {
        match self.paging.unfinished {
            None => Ok(()),
            Some(top) => self.settle_now(top),
        }
    }

    #[cold]
    fn settle_now(&mut self, top: Mfn) -> Result<(), Refusal> {
        let mut walk = Walk::new();
        if let Some(level) = self.hv.frames.state(top).kind().level() {
            self.resume(&mut walk, top, level);
        }
        self.paging.unfinished = None;
        self.give_back(&mut walk, true)
    }

    /// Gives back a table that [`is_abandoned`]. As for [`Self::put_table`], call [`Self::settle`] first.
    pub(super) fn abandon(&mut self, mfn: Mfn) {
        if let Some(level) = self.hv.frames.state(mfn).kind().level() {
            let mut walk = Walk::new();
            self.resume(&mut walk, mfn, level);
            let may_stop = self.paging.unfinished.is_none();
            let _ = self.give_back(&mut walk, may_stop);
        }
    }

    /// Takes a use and a reference for an entry or an operation, and says what is left to do.
    fn take_step(&self, mfn: Mfn, kind: FrameType) -> Progress {
        let frames = &self.hv.frames;
        match frames.acquire(mfn, self.domain.owner, kind) {
            Ok(Acquired::Ready) => Progress::Done,
            Ok(Acquired::Unvalidated { retyped }) => {
                if retyped {
                    self.forget_old_use(mfn, self.domain.owner);
                }
                Progress::Into(mfn)
            }
            Ok(Acquired::Changed) => Progress::Failed(Errno::Inval),
            Err(_) => {
                let state = frames.state(mfn);
                let is_ours = state.kind() == kind && state.owner() == self.domain.owner;
                let is_left_over = self.paging.unfinished == Some(mfn);
                if is_ours && is_abandoned(self.hv, mfn) && !is_left_over {
                    Progress::Resume(mfn)
                } else {
                    Progress::Failed(Errno::Inval)
                }
            }
        }
    }

    /// Validates from where the walk stands to the end.
    fn validate(&mut self, walk: &mut Walk) -> Result<(), Refusal> {
        while let Some(step) = walk.last_mut() {
            let below = step.level - 1;
            let progress = if below == 0 { self.validate_l1(step) } else { self.validate_upper(step) };
            match progress {
                Progress::Into(child) => push(walk, Step { table: child, level: below, held: 0 }),
                Progress::Resume(child) => self.resume(walk, child, below),
                Progress::Done => {
                    let done = step.table;
                    let _ = self.hv.frames.update(done, |state| Ok((state.validated(), ())));
                    walk.pop();
                    if let Some(parent) = walk.last_mut() {
                        parent.held += 1;
                    }
                    if self.spend(TABLE_UNITS) && !walk.is_empty() {
                        self.suspend(walk);
                        return Err(Refusal::Preempted);
                    }
                }
                Progress::Failed(error) => {
                    let may_stop = self.paging.unfinished.is_none();
                    let _ = self.give_back(walk, may_stop);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// All entries of an L1, or none.
    fn validate_l1(&mut self, step: &mut Step) -> Progress {
        let rights = self.own_rights();
        for (first, words) in groups(self.hv.machine.words(step.table)) {
            for (slot, word) in (first..).zip(words) {
                let entry = Entry(word.load(Ordering::Relaxed));
                if !entry.is_present() {
                    continue;
                }
                match self.hold_page(entry, &rights) {
                    Ok(judged) if judged == entry => {}
                    Ok(judged) => word.store(judged.0, Ordering::Relaxed),
                    Err(error) => {
                        self.drop_pages(step.table, slot);
                        return Progress::Failed(error);
                    }
                }
            }
        }
        step.held = TABLE_ENTRIES;
        Progress::Done
    }

    /// Gives back what the first `held` entries of an L1 hold.
    fn drop_pages(&self, table: Mfn, held: usize) {
        for (first, words) in groups(self.hv.machine.words(table)) {
            if first >= held {
                return;
            }
            for word in words.iter().take(held - first) {
                let entry = Entry(word.load(Ordering::Relaxed));
                if entry.is_present() {
                    self.drop_page(entry);
                }
            }
        }
    }

    /// The entries of a higher table, up to the first that needs work of its own.
    fn validate_upper(&mut self, step: &mut Step) -> Progress {
        let words = self.hv.machine.words(step.table);
        let Some(kind) = FrameType::table(step.level - 1) else { return Progress::Failed(Errno::Inval) };
        while let Some(word) = words.get(step.held) {
            if step.held.is_multiple_of(GROUP)
                && let Some(group) = words.as_chunks::<GROUP>().0.get(step.held / GROUP)
                && !is_any_present(group)
            {
                step.held += GROUP;
                continue;
            }
            if is_hypervisor_slot(step.level, step.held) {
                step.held = END_HV_SLOT;
                continue;
            }
            let entry = Entry(word.load(Ordering::Relaxed));
            if entry.is_present() {
                let (judged, child) = match (entry.judged_table(), entry.mfn()) {
                    (Ok(judged), Some(child)) => (judged, child),
                    (Err(error), _) => return Progress::Failed(error),
                    (_, None) => return Progress::Failed(Errno::Inval),
                };
                let progress = self.take_step(child, kind);
                if matches!(progress, Progress::Failed(_)) {
                    return progress;
                }
                if judged != entry {
                    word.store(judged.0, Ordering::Relaxed);
                }
                if !matches!(progress, Progress::Done) {
                    return progress;
                }
            }
            step.held += 1;
        }
        if step.level == 4 {
            self.show_hypervisor(step.table);
        }
        Progress::Done
    }

    /// Writes the hypervisor's slots into a root.
    fn show_hypervisor(&self, root: Mfn) {
        let slots = self.hv.machine.words(root).iter().skip(FIRST_HV_SLOT);
        for (word, entry) in slots.zip(self.hv.machine.root_entries()) {
            word.store(*entry, Ordering::Relaxed);
        }
    }

    /// Gives back one use and, unless it was the last, its reference. Otherwise nobody can take the table any more, and its
    /// level says how its entries are to be given back.
    fn release(&self, mfn: Mfn) -> Option<u32> {
        let released = self.hv.frames.update(mfn, |state| {
            Ok(match state.release_means() {
                Released::InUse | Released::Idle => (state.release(), None),
                Released::MustDevalidate => (state.partial(), state.kind().level()),
            })
        });
        released.ok().and_then(|(_, level)| level)
    }

    /// Gives back what the tables of the walk hold, from where it stands, with the tables themselves.
    fn give_back(&mut self, walk: &mut Walk, may_stop: bool) -> Result<(), Refusal> {
        while let Some(step) = walk.last_mut() {
            let child = if step.level == 1 {
                self.drop_pages(step.table, step.held);
                None
            } else {
                self.release_upper(step)
            };
            if let Some((child, level)) = child {
                push(walk, Step { table: child, level, held: TABLE_ENTRIES });
                continue;
            }
            let done = step.table;
            walk.pop();
            self.hv.frames.set_aux(done, self.hv.frames.tlb.now());
            let _ = self.hv.frames.update(done, |state| Ok((state.devalidated(), ())));
            self.hv.frames.put(done);
            if self.spend(TABLE_UNITS)
                && may_stop
                && let Some(top) = walk.first()
            {
                self.paging.unfinished = Some(top.table);
                self.suspend(walk);
                return Err(Refusal::Preempted);
            }
        }
        Ok(())
    }

    /// Releases entries of a higher table from the top, up to one that was the last use of its table.
    fn release_upper(&self, step: &mut Step) -> Option<(Mfn, u32)> {
        let words = self.hv.machine.words(step.table);
        while step.held > 0 {
            if step.held.is_multiple_of(GROUP)
                && let Some(group) = words.as_chunks::<GROUP>().0.get(step.held / GROUP - 1)
                && !is_any_present(group)
            {
                step.held -= GROUP;
                continue;
            }
            if is_hypervisor_slot(step.level, step.held - 1) {
                step.held = FIRST_HV_SLOT;
                continue;
            }
            step.held -= 1;
            let entry = words.get(step.held).map_or(Entry(0), |word| Entry(word.load(Ordering::Relaxed)));
            if let Some(child) = entry.mfn().filter(|_| entry.is_present())
                && let Some(level) = self.release(child)
            {
                return Some((child, level));
            }
        }
        None
    }

    /// Writes down where the walk stands.
    fn suspend(&self, walk: &Walk) {
        for (depth, step) in walk.iter().enumerate() {
            let inside = if depth + 1 < walk.len() { INSIDE } else { 0 };
            let nested = if depth > 0 { NESTED } else { 0 };
            self.hv.frames.set_aux(step.table, step.held as u32 | inside | nested);
            let _ = self.hv.frames.update(step.table, |state| Ok((state.partial(), ())));
        }
    }

    /// Reads where a walk stood, from a partial table down.
    fn resume(&self, walk: &mut Walk, top: Mfn, level: u32) {
        let mut next = Some((top, level));
        while let Some((table, level)) = next {
            let aux = self.hv.frames.aux(table);
            let held = (aux & HELD) as usize;
            push(walk, Step { table, level, held });
            next = (aux & INSIDE != 0)
                .then(|| self.hv.machine.words(table).get(held))
                .flatten()
                .and_then(|word| Some((Entry(word.load(Ordering::Relaxed)).mfn()?, level.checked_sub(1)?)));
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

/// How far a table under way is, if it is one.
#[must_use]
pub fn under_way<M: Machine>(hv: &Hypervisor<M>, mfn: Mfn) -> Option<UnderWay> {
    let state = hv.frames.state(mfn);
    let aux = hv.frames.aux(mfn);
    (state.is_partial() && state.kind().level().is_some()).then_some(UnderWay {
        held: (aux & HELD) as usize,
        is_inside: aux & INSIDE != 0,
        is_nested: aux & NESTED != 0,
    })
}

/// Whether a table is under way for no other table: whoever was at it may or may not come back.
#[must_use]
pub(super) fn is_abandoned<M: Machine>(hv: &Hypervisor<M>, mfn: Mfn) -> bool {
    under_way(hv, mfn).is_some_and(|at| !at.is_nested)
}

/// Whether the slot of a table of this level is the hypervisor's.
#[inline]
#[must_use]
pub const fn is_hypervisor_slot(level: u32, slot: usize) -> bool {
    level == 4 && slot >= FIRST_HV_SLOT && slot < END_HV_SLOT
}

/// Entries that are looked at together.
const GROUP: usize = 8;

/// Those groups of a table's entries in which something is present, with the slot of the first. Most tables are mostly
/// empty.
#[inline(always)]
fn groups(table: &[AtomicU64; TABLE_ENTRIES]) -> impl Iterator<Item = (usize, &[AtomicU64; GROUP])> {
    let (groups, _) = table.as_chunks::<GROUP>();
    groups.iter().enumerate().filter_map(|(n, group)| is_any_present(group).then_some((n * GROUP, group)))
}

#[inline(always)]
fn is_any_present(group: &[AtomicU64; GROUP]) -> bool {
    let all = group.iter().fold(0, |all, word| all | word.load(Ordering::Relaxed));
    Entry(all).is_present()
}

fn one_step(table: Mfn, level: u32, held: usize) -> Walk {
    let mut walk = Walk::new();
    push(&mut walk, Step { table, level, held });
    walk
}

/// A walk has room for four steps, and each is a level below the one before.
fn push(walk: &mut Walk, step: Step) {
    let full = walk.push(step).is_err();
    debug_assert!(!full, "five levels of page tables");
}
