//! A fault under a shadow root: what the source allows is shown, all else is the guest's own fault.

use super::{
    super::{Hardware, entry::Entry, frame_type::FrameType, frame_type::Owner, walk::is_hypervisor_slot},
    Shadow,
    index::{Found, Key},
};
use crate::{
    addr::{GuestAddr, Mfn},
    mem::{Memory, RamFrame},
};
use core::sync::atomic::{AtomicU64, Ordering};

/// What the CPU wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Fetching an instruction.
    Fetch,
}

/// What comes of a fault under a shadow root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// The shadows allow it now: the instruction is to be executed again.
    Shown,
    /// The source does not allow it.
    Refused {
        /// Whether the source has a translation.
        is_present: bool,
    },
}

/// How often an entry may change under our eyes before the guest is let fault once more.
const ATTEMPTS: usize = 8;

/// A step on the way through the source.
#[derive(Clone, Copy)]
struct Step {
    table: RamFrame,
    word: &'static AtomicU64,
    entry: Entry,
}

/// Why there is nothing shown yet.
pub(super) enum Again {
    /// An entry changed meanwhile.
    Changed,
    /// There is no room for a shadow.
    Full,
}

impl<M: Hardware> Memory<M> {
    /// Looks whether a fault at `va`, met on a CPU that has `loaded` as its root, is one of shadows, and shows what is
    /// missing. `None` if that is no shadow root.
    pub fn shadow_fault(&self, loaded: Mfn, va: GuestAddr, access: Access) -> Option<Met> {
        if self.shadows.running.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let (owner, index) = self.shadow_root(loaded)?;
        let mut shadows = self.shadows.of(owner)?;
        let shadow = shadows.as_deref_mut()?;
        let root = *shadow.roots.get(index)?;
        let frame = root.frame.filter(|frame| frame.mfn() == loaded)?;
        if shadow.translated.is_some() {
            return Some(shadow.fault_translated(self, owner, index, va, access));
        }
        let source = root.source.filter(|_| va.is_guest_range(1));
        let Some(source) = source else { return Some(Met::Refused { is_present: false }) };
        for _ in 0..ATTEMPTS {
            match shadow.show(self, owner, (frame, source), va, access) {
                Ok(met) => return Some(met),
                Err(Again::Changed) => {}
                Err(Again::Full) => shadow.drop_all(self, owner),
            }
        }
        Some(Met::Shown)
    }

    /// Whose a shadow root is.
    #[must_use]
    pub fn owner_of_shadow(&self, root: Mfn) -> Option<Owner> {
        let (owner, index) = self.shadow_root(root)?;
        let shadows = self.shadows.of(owner)?;
        shadows.as_deref()?.roots.get(index).filter(|known| known.frame.map(RamFrame::mfn) == Some(root)).map(|_| owner)
    }

    /// Whose root, and which of its roots, a frame claims to be: to be compared with what that one has.
    pub(super) fn shadow_root(&self, frame: Mfn) -> Option<(Owner, usize)> {
        let home = self.frames.aux(frame) as usize;
        Some((Owner::domain(home >> 16)?, home & 0xffff))
    }
}

impl Shadow {
    fn show<M: Hardware>(
        &mut self,
        memory: &Memory<M>,
        owner: Owner,
        (root, source): (RamFrame, RamFrame),
        va: GuestAddr,
        access: Access,
    ) -> Result<Met, Again> {
        let mut path: heapless::Vec<Step, 4> = heapless::Vec::new();
        let mut table = source;
        let (mut may_write, mut may_fetch) = (true, true);
        for level in (1..=4).rev() {
            let slot = va.slot(level).index();
            // Behind a linear entry a root is one table among others, but for what in it is the hypervisor's.
            let is_root = level < 4 && memory.frames.state(table.mfn()).kind() == FrameType::L4;
            let word = memory.machine.words(table).get(slot).filter(|_| !is_root || !is_hypervisor_slot(4, slot));
            let Some(word) = word else { return Ok(Met::Refused { is_present: false }) };
            let entry = Entry(word.load(Ordering::Acquire));
            let below = entry.mfn().filter(|_| entry.is_present());
            let Some(below) = below else { return Ok(Met::Refused { is_present: false }) };
            may_write &= entry.is_writable();
            may_fetch &= !entry.has(Entry::NO_EXECUTE);
            // There is room for four.
            let _ = path.push(Step { table, word, entry });
            // A table, or in the last step the page behind it.
            table = RamFrame::counted(below);
        }
        if access == Access::Write && !may_write || access == Access::Fetch && !may_fetch {
            return Ok(Met::Refused { is_present: true });
        }
        self.set_notes(memory, owner, &mut path, access)?;
        let page = table.mfn();
        if access == Access::Write && memory.frames.state(page).owner() == owner {
            self.mark(memory, owner, page);
            self.stats.faults = self.stats.faults.wrapping_add(1);
        }
        let mut at = root;
        for (level, step) in (1..=4).rev().zip(&path) {
            let mut below = at;
            let shown = if level == 1 {
                // Where the log has no room the guest goes on, and who reads the log is told.
                self.leaf(memory, owner, step.entry, access == Access::Write)
            } else {
                let source = step.entry.mfn().ok_or(Again::Changed)?;
                let child = self.shadow_of(memory, owner, Key { source, level: level - 1 }, access)?;
                below = child.frame;
                self.link(step.entry, child)
            };
            if let Some(word) = memory.machine.words(at).get(va.slot(level).index()) {
                word.store(shown.0, Ordering::Release);
            }
            at = below;
        }
        Ok(Met::Shown)
    }

    /// Sets in the source what the CPU would have noted there.
    fn set_notes<M: Hardware>(
        &mut self,
        memory: &Memory<M>,
        owner: Owner,
        path: &mut [Step],
        access: Access,
    ) -> Result<(), Again> {
        for (level, step) in (1..=4).rev().zip(path) {
            let is_written = level == 1 && access == Access::Write;
            let noted = step.entry.with(if is_written { Entry::NOTES } else { Entry::ACCESSED });
            if noted == step.entry {
                continue;
            }
            let exchanged = step.word.compare_exchange(step.entry.0, noted.0, Ordering::AcqRel, Ordering::Relaxed);
            exchanged.map_err(|_| Again::Changed)?;
            step.entry = noted;
            self.mark(memory, owner, step.table.mfn());
        }
        Ok(())
    }

    /// The shadow of a table, made if there is none. Where it is to be written through, it is one of this round.
    fn shadow_of<M: Hardware>(
        &mut self,
        memory: &Memory<M>,
        owner: Owner,
        key: Key,
        access: Access,
    ) -> Result<Found, Again> {
        let (ram, round) = (&memory.machine, self.round);
        if let Some(shadow) = self.index.find(ram, key) {
            if access != Access::Write || shadow.round == round {
                return Ok(shadow);
            }
            take_write_rights(ram.words(shadow.frame));
            let shadow = Found { round, ..shadow };
            self.index.update(ram, key, shadow);
            return Ok(shadow);
        }
        let shadow = Found { frame: self.pool.take(memory, owner).ok_or(Again::Full)?, round };
        if self.index.insert(ram, key, shadow) { Ok(shadow) } else { Err(Again::Full) }
    }

    /// What a shadow shows of an entry of a higher level. Through a table of an earlier round nothing can be written:
    /// its entries may still allow it.
    pub(super) fn link(&self, entry: Entry, child: Found) -> Entry {
        let mut kept = Entry::PRESENT | Entry::USER | Entry::NO_EXECUTE;
        kept.set(Entry::WRITABLE, child.round == self.round);
        Entry::to(child.frame.mfn(), entry.flags() & kept | Entry::ACCESSED)
    }

    /// What a shadow shows of an entry of level 1.
    pub(super) fn leaf<M: Hardware>(&self, memory: &Memory<M>, owner: Owner, entry: Entry, is_written: bool) -> Entry {
        let may_write = |page: Mfn| {
            let is_own = memory.frames.state(page).owner() == owner;
            is_written || !is_own || self.is_noted(memory, page)
        };
        let is_writable = entry.has(Entry::WRITABLE | Entry::DIRTY) && entry.mfn().is_some_and(may_write);
        let mut kept = Entry::PRESENT | Entry::USER | Entry::NO_EXECUTE | Entry::CACHING;
        kept.set(Entry::WRITABLE | Entry::DIRTY, is_writable);
        entry.only(kept).with(Entry::ACCESSED)
    }
}

/// Takes the right to write from all entries. No CPU notes anything in them, and none remembers that right.
pub(super) fn take_write_rights(words: &[AtomicU64]) {
    for word in words {
        let entry = Entry(word.load(Ordering::Relaxed));
        if entry.is_writable() {
            word.store(entry.without(Entry::WRITABLE).0, Ordering::Relaxed);
        }
    }
}
