//! From a frame full of numbers to a page table, and back: iterative, bounded, resumable.
//!
//! Both directions work on the same representation, a [`Walk`]: a validation that fails half way is a giving back from
//! there on. What is left of a giving back when time is up waits in the domain's `Paging`; what is left of a validation
//! waits in its tables for whoever comes for them again.

use super::{
    Hardware, RamFrame,
    editor::{Budget, Editor},
    entry::Entry,
    frame_type::{Acquired, FrameState, FrameType, Released},
    walk::{GROUP, Step, Walk, groups, is_any_present, is_hypervisor_slot, one_step, push},
};
use crate::{
    addr::{Mfn, TABLE_ENTRIES},
    layout::{END_HV_SLOT, FIRST_HV_SLOT},
    reply::Stop,
};
use core::sync::atomic::Ordering;
use oxen_abi::errno::Errno;

/// The work of one table, in units of preemption.
const TABLE_UNITS: u32 = 128;

/// What an entry needs before its table can be relied on.
enum Validation {
    Done,
    Into(RamFrame),
    Resume(RamFrame),
    Failed(Errno),
}

impl<M: Hardware> Editor<'_, M> {
    /// Takes a use and a reference of a frame as a table of `level`, validating it and everything below where needed.
    ///
    /// # Errors
    /// `Inval` if the frame is not the domain's, is something else, or contains what no such table may; then nothing
    /// has changed. `Unfinished`: what has been done is kept, the same call goes on.
    #[inline(always)]
    pub fn take_table(&mut self, mfn: Mfn, level: u32) -> Result<RamFrame, Stop> {
        let kind = FrameType::table(level).ok_or(Errno::Inval)?;
        if self.memory.frames.try_get_table_fast(mfn.index(), self.domain.owner, kind) {
            return Ok(RamFrame::counted(mfn));
        }
        self.take_table_slow(mfn, level, kind)?;
        Ok(RamFrame::counted(mfn))
    }

    #[inline(never)]
    fn take_table_slow(&mut self, mfn: Mfn, level: u32, kind: FrameType) -> Result<(), Stop> {
        if self.domain.is_dying.load(Ordering::Acquire) {
            return Err(Errno::Inval.into());
        }
        match self.take_step(mfn, kind) {
            Validation::Done => Ok(()),
            Validation::Into(table) => self.validate(&mut one_step(table, level, 0)),
            Validation::Resume(table) => {
                let mut walk = Walk::new();
                self.resume(&mut walk, table);
                self.validate(&mut walk)
            }
            Validation::Failed(error) => Err(error.into()),
        }
    }

    /// Gives back a use and a reference of a table. If it was the last use, everything below is given back too: now, or
    /// where it is much, before anything else the next time somebody edits the domain's tables. Call [`Self::settle`]
    /// first: two tables cannot both be left for later, and the second would be given back in one go.
    #[inline(always)]
    pub fn put_table(&mut self, table: RamFrame) {
        if !self.memory.frames.try_put_table_fast(table.mfn().index()) {
            self.put_table_slow(table);
        }
    }

    #[inline(never)]
    fn put_table_slow(&mut self, table: RamFrame) {
        if let Some(level) = self.release(table) {
            let mut walk = one_step(table, level, TABLE_ENTRIES);
            let may_stop = self.paging.unfinished.is_none();
            let _ = self.give_back(&mut walk, may_stop);
        }
    }

    /// Goes on with what is left to be given back.
    ///
    /// # Errors
    /// `Unfinished` if there is more of it.
    #[inline(always)]
    pub fn settle(&mut self) -> Result<(), Stop> {
        match self.paging.unfinished {
            None => Ok(()),
            Some(top) => self.settle_now(top),
        }
    }

    #[cold]
    fn settle_now(&mut self, top: RamFrame) -> Result<(), Stop> {
        let mut walk = Walk::new();
        self.resume(&mut walk, top);
        self.paging.set_unfinished(None);
        self.give_back(&mut walk, true)
    }

    /// Gives back a table that [abandoned](super::frame_table::FrameTable::is_abandoned). As for
    /// [`Self::put_table`], call [`Self::settle`] first.
    pub(super) fn abandon(&mut self, table: RamFrame) {
        let mut walk = Walk::new();
        self.resume(&mut walk, table);
        let may_stop = self.paging.unfinished.is_none();
        let _ = self.give_back(&mut walk, may_stop);
    }

    /// Takes a use and a reference for an entry or an operation, and says what is left to do.
    fn take_step(&self, mfn: Mfn, kind: FrameType) -> Validation {
        let frames = &self.memory.frames;
        match frames.acquire(mfn, self.domain.owner, kind) {
            Ok(Acquired::Ready) => Validation::Done,
            Ok(Acquired::Unvalidated { retyped }) => {
                if retyped {
                    self.flush_stale_use(mfn, self.domain.owner);
                }
                // What stood there told of its past.
                self.memory.frames.set_aux(mfn, 0);
                // Who saves the domain while it runs keeps a table otherwise than a page of the same contents.
                self.memory.note_placed(mfn);
                Validation::Into(RamFrame::counted(mfn))
            }
            Ok(Acquired::Changed) => Validation::Failed(Errno::Inval),
            Err(_) => {
                let state = frames.state(mfn);
                let is_ours = state.kind() == kind && state.owner() == self.domain.owner;
                let is_left_over = self.paging.unfinished.map(RamFrame::mfn) == Some(mfn);
                if is_ours && self.memory.frames.is_abandoned(mfn) && !is_left_over {
                    Validation::Resume(RamFrame::counted(mfn))
                } else {
                    Validation::Failed(Errno::Inval)
                }
            }
        }
    }

    /// Validates from where the walk stands to the end.
    fn validate(&mut self, walk: &mut Walk) -> Result<(), Stop> {
        while let Some(step) = walk.last_mut() {
            let (below, table) = (step.level - 1, step.table);
            let progress = if below == 0 { self.validate_l1(step) } else { self.validate_upper(step) };
            if self.paging.is_watched {
                self.look_at(walk, table, matches!(progress, Validation::Done))?;
            }
            match progress {
                Validation::Into(child) => push(walk, Step { table: child, level: below, held: 0 }),
                Validation::Resume(child) => self.resume(walk, child),
                Validation::Done => {
                    self.memory.frames.change(table, FrameState::validated);
                    walk.pop();
                    if let Some(parent) = walk.last_mut() {
                        self.settle_entry(parent);
                        parent.held += 1;
                    }
                    if self.spend(TABLE_UNITS) == Budget::Spent && !walk.is_empty() {
                        self.suspend(walk);
                        return Err(Stop::Unfinished);
                    }
                }
                Validation::Failed(error) => {
                    let may_stop = self.paging.unfinished.is_none();
                    let _ = self.give_back(walk, may_stop);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// All entries of an L1, or none.
    #[inline(never)]
    fn validate_l1(&self, step: &mut Step) -> Validation {
        let rights = self.own_rights();
        for (first, words) in groups(self.memory.machine.words(step.table)) {
            for (slot, word) in (first..).zip(words) {
                let entry = Entry(word.load(Ordering::Relaxed));
                if !entry.is_present() {
                    continue;
                }
                if self.try_hold_page(entry, &rights) {
                    continue;
                }
                match self.hold_page_slow(entry, &rights) {
                    Ok(judged) if judged == entry => {}
                    Ok(judged) => word.store(judged.0, Ordering::Relaxed),
                    Err(error) => {
                        self.drop_pages(step.table, slot);
                        return Validation::Failed(error);
                    }
                }
            }
        }
        step.held = TABLE_ENTRIES;
        Validation::Done
    }

    /// Gives back what the first `held` entries of an L1 hold.
    fn drop_pages(&self, table: RamFrame, held: usize) {
        for (first, words) in groups(self.memory.machine.words(table)) {
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
    fn validate_upper(&mut self, step: &mut Step) -> Validation {
        let words = self.memory.machine.words(step.table);
        let Some(kind) = FrameType::table(step.level - 1) else { return Validation::Failed(Errno::Inval) };
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
                let (judged, child) = match (entry.sanitize_table(step.level), entry.mfn()) {
                    (Ok(judged), Some(child)) => (judged, child),
                    (Err(error), _) => return Validation::Failed(error),
                    (_, None) => return Validation::Failed(Errno::Inval),
                };
                let mut progress = self.take_step(child, kind);
                if matches!(progress, Validation::Failed(_)) {
                    if self.take_linear(step.table, step.level, judged).is_err() {
                        return progress;
                    }
                    progress = Validation::Done;
                }
                if !matches!(progress, Validation::Done) {
                    return progress;
                }
                if judged != entry {
                    word.store(judged.0, Ordering::Relaxed);
                }
            }
            step.held += 1;
        }
        if step.level == 4 {
            self.show_hypervisor(step.table);
        }
        Validation::Done
    }

    /// Writes the next entry of a table as it is judged, now that it holds what it refers to: one that is
    /// refused stays as the guest wrote it.
    fn settle_entry(&self, step: &Step) {
        if let Some(word) = self.memory.machine.words(step.table).get(step.held)
            && let Ok(judged) = Entry(word.load(Ordering::Relaxed)).sanitize_table(step.level)
        {
            word.store(judged.0, Ordering::Relaxed);
            if self.paging.is_shadowed {
                self.note_table(step.table);
            }
        }
    }

    /// Writes the hypervisor's slots into a root.
    fn show_hypervisor(&self, root: RamFrame) {
        let slots = self.memory.machine.words(root).iter().skip(FIRST_HV_SLOT);
        for (word, entry) in slots.zip(self.memory.machine.root_entries()) {
            word.store(*entry, Ordering::Relaxed);
        }
    }

    /// Gives back one use and, unless it was the last, its reference. Otherwise nobody can take the table any more, and
    /// its level says how its entries are to be given back.
    fn release(&self, table: RamFrame) -> Option<u32> {
        let level = self.memory.frames.change_with(table, |state| match state.release_means() {
            Released::InUse | Released::Idle => (state.release(), None),
            Released::MustDevalidate => (state.partial(), state.kind().level()),
        })??;
        if self.paging.is_shadowed {
            self.forget(table, level);
            self.memory.note_placed(table.mfn());
        }
        Some(level)
    }

    /// Gives back what the tables of the walk hold, from where it stands, with the tables themselves.
    pub(super) fn give_back(&mut self, walk: &mut Walk, may_stop: bool) -> Result<(), Stop> {
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
            self.memory.frames.stamp(done.mfn());
            self.memory.frames.change(done, FrameState::devalidated);
            self.memory.frames.put(done.mfn());
            if self.spend(TABLE_UNITS) == Budget::Spent
                && may_stop
                && let Some(top) = walk.first()
            {
                self.paging.set_unfinished(Some(top.table));
                self.suspend(walk);
                return Err(Stop::Unfinished);
            }
        }
        Ok(())
    }

    /// Releases entries of a higher table from the top, up to one that was the last use of its table.
    fn release_upper(&self, step: &mut Step) -> Option<(RamFrame, u32)> {
        let words = self.memory.machine.words(step.table);
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
                && self.unlink(step.table, step.level, child)
                && let Some(level) = self.release(RamFrame::counted(child))
            {
                return Some((RamFrame::counted(child), level));
            }
        }
        None
    }
}
