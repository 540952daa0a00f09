//! Changing one entry of a validated table: take what the new one needs, write, give back what the old one held.

use super::{
    Hardware, RamFrame,
    editor::{Editor, EntryRights},
    entry::Entry,
    walk::is_hypervisor_slot,
};
use crate::{
    addr::{MachineAddr, Mfn, PAGE_SIZE, Slot, TABLE_ENTRIES},
    reply::Stop,
};
use core::sync::atomic::{AtomicU64, Ordering};
use oxen_abi::errno::Errno;

/// What happens to the accessed and dirty bits of an entry which is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessedDirty {
    /// They become what the guest says.
    Overwrite,
    /// Those that are set stay set.
    Keep,
}

/// Where an entry is: its table, that one's level, and the word itself.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    table: RamFrame,
    level: u8,
    slot: Slot,
    pub(super) word: &'static AtomicU64,
}

/// A validated L1 whose entries are changed one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Leaf {
    table: RamFrame,
    start: u64,
    entries: &'static [AtomicU64; TABLE_ENTRIES],
}

impl Leaf {
    /// The entry at a machine address, if it is one of this table.
    #[inline(always)]
    #[must_use]
    pub const fn place(self, address: MachineAddr) -> Option<Place> {
        if self.start != address.as_u64() & !(PAGE_SIZE - 1) {
            return None;
        }
        match Slot::at_offset(address.offset()) {
            Some(slot) => Some(Place { table: self.table, level: 1, slot, word: slot.of(self.entries) }),
            None => None,
        }
    }
}

impl<M: Hardware> Editor<'_, M> {
    /// The validated table that this frame is, and its level.
    ///
    /// # Errors
    /// `Inval` if the frame is none of the domain's.
    #[inline]
    pub fn table(&self, table: Mfn) -> Result<Option<(RamFrame, u32)>, Errno> {
        let state = self.memory.frames.state(table);
        if state.owner() != self.domain.owner || state.refs() == 0 {
            return Err(Errno::Inval);
        }
        if state.uses() == 0 || !state.is_validated() {
            return if state.is_partial() { Err(Errno::Inval) } else { Ok(None) };
        }
        Ok(state.kind().level().map(|level| (RamFrame::counted(table), level)))
    }

    /// An entry of a table of which [`Self::table`] said the level.
    #[inline(always)]
    #[must_use]
    pub fn place(&self, table: RamFrame, level: u32, slot: Slot) -> Place {
        Place { table, level: level as u8, slot, word: slot.of(self.memory.machine.words(table)) }
    }

    /// A table of which [`Self::table`] said that it is an L1, for as long as nothing else is changed.
    #[inline]
    #[must_use]
    pub fn leaf(&self, table: RamFrame) -> Leaf {
        Leaf { table, start: table.mfn().address().as_u64(), entries: self.memory.machine.words(table) }
    }

    /// Replaces an entry. Where it refers to a table, `rights` do not matter: tables are the domain's own. Nothing is
    /// left to be given back ([`Self::settle`]) since the place was chosen.
    ///
    /// # Errors
    /// As [`Self::hold_page`], [`Self::take_table`] and [`Self::judge_absent`]; then the entry is as it was.
    #[inline]
    pub fn replace(&mut self, place: Place, new: u64, notes: AccessedDirty, rights: &EntryRights) -> Result<(), Stop> {
        self.judge_absent(new)?;
        if place.level == 1 {
            Ok(self.replace_leaf(place, new, notes, rights)?)
        } else {
            self.replace_table(place, new, notes)
        }
    }

    /// The same for an entry of an L1.
    ///
    /// # Errors
    /// As [`Self::replace`].
    #[inline(always)]
    pub(super) fn replace_leaf(
        &self,
        place: Place,
        new: u64,
        notes: AccessedDirty,
        rights: &EntryRights,
    ) -> Result<(), Errno> {
        if self.paging.is_shadowed {
            self.replace_shadowed(place, new, notes, *rights)
        } else {
            self.replace_page(place, new, notes, rights)
        }
    }

    /// Whether nothing has to be thought of beside the entry itself: nothing is left to be given back, no table has a
    /// linear entry, the domain runs on no shadows.
    #[inline(always)]
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.paging.needs_care
    }

    /// The same for an entry of an L1, where the domain runs on no shadows.
    ///
    /// # Errors
    /// As [`Self::replace`].
    #[inline(always)]
    pub fn replace_page(
        &self,
        place: Place,
        new: u64,
        notes: AccessedDirty,
        rights: &EntryRights,
    ) -> Result<(), Errno> {
        self.replace_page_and(place, new, notes, rights, || ())
    }

    #[cold]
    #[inline(never)]
    fn replace_shadowed(&self, place: Place, new: u64, notes: AccessedDirty, rights: EntryRights) -> Result<(), Errno> {
        self.replace_page_and(place, new, notes, &rights, || self.follow(place.table, 1, place.slot))
    }

    /// Replaces an entry of an L1; `follow` is called between the write and the giving back.
    #[inline(always)]
    fn replace_page_and(
        &self,
        place: Place,
        new: u64,
        notes: AccessedDirty,
        rights: &EntryRights,
        follow: impl Fn(),
    ) -> Result<(), Errno> {
        let word = place.word;
        let old = Entry(word.load(Ordering::Relaxed));
        let mut new = Entry(new);
        if new.is_present() {
            if old.is_present() {
                let judged = new.sanitize_page(self.domain.is_privileged)?;
                if old.differs_harmlessly(judged) {
                    write(word, old, judged, notes);
                    follow();
                    return Ok(());
                }
            }
            new = self.hold_page(new, rights)?;
        }
        write(word, old, new, notes);
        follow();
        if old.is_present() {
            self.drop_page(old);
        }
        Ok(())
    }

    /// An entry has been written, and what it held is not given back yet.
    #[inline(always)]
    pub(super) fn follow_if_shadowed(&self, place: Place) {
        if self.paging.is_shadowed {
            self.follow(place.table, place.level.into(), place.slot);
        }
    }

    fn replace_table(&mut self, place: Place, new: u64, notes: AccessedDirty) -> Result<(), Stop> {
        let (level, slot) = (u32::from(place.level), place.slot.index());
        if is_hypervisor_slot(level, slot) {
            return Err(Errno::Inval.into());
        }
        debug_assert!(self.paging.unfinished.is_none(), "the table of this place may be given back behind its back");
        let old = Entry(place.word.load(Ordering::Relaxed));
        let mut new = Entry(new);
        if new.is_present() {
            new = new.sanitize_table(level)?;
            if old.is_present() && old.differs_harmlessly(new) {
                write(place.word, old, new, notes);
                self.follow_if_shadowed(place);
                self.renew_copies(level);
                return Ok(());
            }
            match self.take_table(new.mfn().ok_or(Errno::Inval)?, level - 1) {
                Err(Stop::Refused(Errno::Inval)) => self.take_linear(place.table, level, new)?,
                taken => {
                    taken?;
                }
            }
        }
        self.retire_linear(level, slot, old, || {
            write(place.word, old, new, notes);
            self.follow_if_shadowed(place);
        });
        self.renew_copies(level);
        if let Some(child) = old.mfn().filter(|_| old.is_present())
            && self.unlink(place.table, level, child)
        {
            self.put_table(RamFrame::counted(child));
        }
        Ok(())
    }
}

impl<M: Hardware> Editor<'_, M> {
    /// A root has changed, and CPUs may run on copies of it: who comes in makes another on the way out. What a copy
    /// still shows is no more than what a CPU may remember of the root, until it is flushed; but an entry that was not
    /// there it would not remember.
    #[inline]
    fn renew_copies(&self, level: u32) {
        if level == 4 && self.domain.is_apart {
            let memory = self.memory;
            let cpus = memory.frames.tlb.cpus_of(self.domain.owner) & memory.frames.tlb.online();
            let others = cpus & !(1 << (memory.machine.this_cpu().0 & 63));
            if others != 0 {
                memory.flush_cpus(others);
            }
        }
    }
}

/// Writes an entry. The CPU may note its accesses meanwhile; nobody else writes.
#[inline(always)]
fn write(word: &AtomicU64, old: Entry, new: Entry, notes: AccessedDirty) {
    if notes == AccessedDirty::Overwrite {
        return word.store(new.0, Ordering::Release);
    }
    let mut seen = old.0;
    while let Err(now) =
        word.compare_exchange(seen, new.0 | seen & Entry::NOTES.bits(), Ordering::AcqRel, Ordering::Relaxed)
    {
        seen = now;
    }
}
