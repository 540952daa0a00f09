//! Linear page tables: entries that refer to a table of their own level, so that a kernel reads all of its
//! tables as one array (Xen's `pv-linear-pt`). The CPU takes the table for one of the level below, and its
//! entries for those of a lower table: everything that is reached so was reached already, and the entry's
//! missing right to write covers all of it.
//!
//! - Such an entry is never writable, and refers to a validated table of the same domain.
//! - An entry for its own table holds nothing, or the table would keep itself. Any other holds a use and a reference.
//! - A table that such an entry of another refers to has none itself but for itself, and the other way round. So
//!   nothing goes round in a circle, and no chain is longer than two tables of a level.
//! - Through an entry of a root the hypervisor's slots are found again at an address that is the guest's. The guest
//!   cannot read there, for those entries are the supervisor's; the hypervisor could, in the guest's name. So what it
//!   read at such an address it does not use (`may_read`).
//! - The hypervisor's own way from an address to its entry ([`Editor::find`]) looks at each table on it, from the first
//!   linear entry of a domain on.

use super::{
    Hardware, PagingDomain, RamFrame, editor::Editor, entry::Entry, frame_table::FrameTable, frame_type::FrameType,
    walk::PROGRESS,
};
use crate::{
    addr::{GuestAddr, Mfn, Slot},
    mem::Memory,
};
use core::sync::atomic::Ordering;
use oxen_abi::errno::Errno;

/// Where the count stands in the auxiliary word of a table: above what tables under way need.
const SHIFT: u32 = PROGRESS.count_ones();
/// Linear entries for one table at most.
const MAX_ENTRIES_FOR_ONE: i32 = 1 << (31 - SHIFT);
/// What a slot of a root covers.
const SLOT_BYTES: u64 = 1 << 39;

impl<M: Hardware> Memory<M> {
    /// Whether what was read at a guest's address, under `root`, may be used. To be asked after the read, not before
    /// it, or another CPU could write a linear entry in between; and the one that takes it away says so
    /// ([`Editor::retire_linear`]) until no CPU is between a read and this question.
    #[must_use]
    pub fn may_read(&self, domain: &PagingDomain, root: Mfn, start: GuestAddr, bytes: u64) -> bool {
        let Some(root) = self.frames.ram_frame(root) else { return false };
        let last = GuestAddr::new(start.as_u64().wrapping_add(bytes.saturating_sub(1)));
        let is_linear = |slot: Slot| {
            let words = self.machine.words(root);
            let entry = words.get(slot.index()).map_or(Entry(0), |word| Entry(word.load(Ordering::SeqCst)));
            let refers_to_root = self.frames.is_linear(4, entry);
            refers_to_root || domain.linear_slot_going.load(Ordering::SeqCst) == mark(slot.index())
        };
        bytes <= SLOT_BYTES && !is_linear(start.slot(4)) && !is_linear(last.slot(4))
    }
}

/// A slot in [`PagingDomain::linear_slot_going`], where 0 is none.
const fn mark(slot: usize) -> u32 {
    slot as u32 + 1
}

impl FrameTable {
    /// Whether an entry of a validated table of this level is linear: what it refers to
    /// cannot be anything else meanwhile.
    fn is_linear(&self, level: u32, entry: Entry) -> bool {
        let target = entry.mfn().filter(|_| entry.is_present());
        target.is_some_and(|target| self.state(target).kind().level() == Some(level))
    }

    /// Of a table: how many linear entries for other tables it has; or, below zero, how many others have for it.
    #[must_use]
    pub fn links(&self, table: Mfn) -> i32 {
        self.aux(table) as i32 >> SHIFT
    }

    fn set_links(&self, table: Mfn, count: i32) {
        let progress = self.aux(table) & PROGRESS;
        self.set_aux(table, (count << SHIFT) as u32 | progress);
    }
}

impl<M: Hardware> Editor<'_, M> {
    /// Takes what a linear entry of `table` needs.
    ///
    /// # Errors
    /// `Inval` if it is none that the rules above allow.
    #[cold]
    pub(super) fn take_linear(&mut self, table: RamFrame, level: u32, entry: Entry) -> Result<(), Errno> {
        let target = entry.mfn().filter(|_| !entry.is_writable()).ok_or(Errno::Inval)?;
        let is_dying = self.domain.is_dying.load(Ordering::Acquire);
        if is_dying || !self.memory.has_linear_tables.load(Ordering::Relaxed) {
            return Err(Errno::Inval);
        }
        if target != table.mfn() {
            self.hold_linear(table, level, target)?;
        }
        self.paging.set_linear();
        if level == 4 {
            // For all to see before the entry is.
            self.memory.machine.watch_reads();
        }
        Ok(())
    }

    fn hold_linear(&self, table: RamFrame, level: u32, target: Mfn) -> Result<(), Errno> {
        let kind = FrameType::table(level).ok_or(Errno::Inval)?;
        let state = self.memory.frames.state(target);
        let is_table = state.owner() == self.domain.owner && state.kind() == kind && state.uses() > 0;
        if !is_table || !state.is_validated() {
            return Err(Errno::Inval);
        }
        let (links_here, links_there) = (self.memory.frames.links(table.mfn()), self.memory.frames.links(target));
        if links_here < 0 || links_there > 0 || links_there <= -MAX_ENTRIES_FOR_ONE {
            return Err(Errno::Inval);
        }
        // It is in use as what it is, and only who holds the lock can end that.
        let _ready = self.memory.frames.acquire(target, self.domain.owner, kind).map_err(|_| Errno::Inval)?;
        self.memory.frames.set_links(table.mfn(), links_here + 1);
        self.memory.frames.set_links(target, links_there - 1);
        Ok(())
    }

    /// Ends what a linear entry of `table` is to the table that it refers to, if it is one. Returns whether there is a
    /// use to be given back, as for any entry but one for its own table.
    #[inline]
    pub(super) fn unlink(&self, table: RamFrame, level: u32, target: Mfn) -> bool {
        if self.paging.is_linear { self.unlink_slow(table, level, target) } else { true }
    }

    #[cold]
    fn unlink_slow(&self, table: RamFrame, level: u32, target: Mfn) -> bool {
        if target == table.mfn() {
            return false;
        }
        if self.memory.frames.state(target).kind().level() == Some(level) {
            self.memory.frames.set_links(table.mfn(), self.memory.frames.links(table.mfn()) - 1);
            self.memory.frames.set_links(target, self.memory.frames.links(target) + 1);
        }
        true
    }

    /// Lets `write` replace an entry of a table. Where that was linear and the table is a root, every CPU that ran the
    /// domain is interrupted before the slot is one like any other again: so none has read through the old entry and
    /// not asked yet whether it may use what it read.
    #[inline]
    pub(super) fn retire_linear(&self, level: u32, slot: usize, old: Entry, write: impl FnOnce()) {
        if level == 4 && self.paging.is_linear && self.memory.frames.is_linear(level, old) {
            self.domain.linear_slot_going.store(mark(slot), Ordering::SeqCst);
            write();
            self.memory.flush_cpus(self.memory.frames.tlb.cpus_of(self.domain.owner));
            self.domain.linear_slot_going.store(0, Ordering::SeqCst);
        } else {
            write();
        }
    }
}
