//! Linear page tables: entries that refer to a table of their own level, so that a kernel reads all of its tables as one
//! array (Xen's `pv-linear-pt`). The CPU takes the table for one of the level below, and its entries for those of a lower
//! table: everything that is reached so was reached already, and the entry's missing right to write covers all of it.
//!
//! - Such an entry is never writable, and refers to a validated table of the same domain.
//! - An entry for its own table holds nothing, or the table would keep itself. Any other holds a use and a reference.
//! - A table that such an entry of another refers to has none itself but for itself, and the other way round. So nothing
//!   goes round in a circle, and no chain is longer than two tables of a level.
//! - Through an entry of a root the hypervisor's slots are found again at an address that is the guest's. The guest cannot
//!   read there, for those entries are the supervisor's; the hypervisor could, in the guest's name. So under a root that
//!   has, or had, such an entry it reads nothing in the guest's name in a slot that was linear in any root of the domain
//!   ([`may_read`]).
//! - The hypervisor's own way from an address to its entry ([`Editor::find`]) looks at each table on it, from the first
//!   linear entry of a domain on.

use super::{editor::Editor, entry::Entry, frame_type::FrameType, walk::PROGRESS};
use crate::{
    Hypervisor,
    addr::{GuestAddr, Mfn, TABLE_ENTRIES},
    domain::Domain,
    machine::Machine,
};
use core::sync::atomic::{AtomicU64, Ordering};
use oxen_abi::errno::Errno;

/// In the auxiliary word of a root, above what tables under way need: it has a linear entry, or had one since it is one.
const IS_LINEAR_ROOT: u32 = PROGRESS + 1;
/// Where the count stands.
const SHIFT: u32 = PROGRESS.count_ones() + 1;
/// Linear entries for one table at most.
const MAX_ENTRIES_FOR_ONE: i32 = 1 << (31 - SHIFT);
const BITS: usize = u64::BITS as usize;
/// What a slot of a root covers.
const SLOT_BYTES: u64 = 1 << 39;

/// The slots of a domain's roots that are linear in one of them, or were.
#[derive(Debug, Default)]
pub struct LinearSlots([AtomicU64; TABLE_ENTRIES / BITS]);

impl LinearSlots {
    fn note(&self, slot: usize) {
        if let Some(word) = self.0.get(slot / BITS) {
            word.fetch_or(1 << (slot % BITS), Ordering::SeqCst);
        }
    }

    /// Whether any of `bytes` bytes from `start` lie in one of them, or may: there are more than in a slot.
    #[must_use]
    pub fn touch(&self, start: GuestAddr, bytes: u64) -> bool {
        let last = GuestAddr(start.0.wrapping_add(bytes.saturating_sub(1)));
        let is_linear = |place: GuestAddr| {
            let slot = place.slot(4).index();
            self.0.get(slot / BITS).is_some_and(|word| word.load(Ordering::SeqCst) >> (slot % BITS) & 1 != 0)
        };
        bytes > SLOT_BYTES || is_linear(start) || is_linear(last)
    }
}

/// Whether what was read at a guest's address, under `root`, may be used. Asked after the read: what is written down of a
/// linear entry is there before it is.
#[must_use]
pub fn may_read<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, root: Mfn, start: GuestAddr, bytes: u64) -> bool {
    hv.frames.aux(root) & IS_LINEAR_ROOT == 0 || !domain.linear_slots.touch(start, bytes)
}

/// Of a table: how many linear entries for other tables it has; or, below zero, how many others have for it.
#[must_use]
pub fn links<M: Machine>(hv: &Hypervisor<M>, table: Mfn) -> i32 {
    hv.frames.aux(table) as i32 >> SHIFT
}

impl<M: Machine> Editor<'_, M> {
    /// Takes what a linear entry in a slot of `table` needs.
    ///
    /// # Errors
    /// `Inval` if it is none that the rules above allow.
    #[cold]
    pub(super) fn take_linear(&mut self, table: Mfn, level: u32, slot: usize, entry: Entry) -> Result<(), Errno> {
        let target = entry.mfn().filter(|_| !entry.is_writable()).ok_or(Errno::Inval)?;
        let is_dying = self.domain.is_dying.load(Ordering::Acquire);
        if is_dying || !self.hv.has_linear_tables.load(Ordering::Relaxed) {
            return Err(Errno::Inval);
        }
        if target != table {
            self.hold_linear(table, level, target)?;
        }
        self.paging.is_linear = true;
        if level == 4 {
            // All of it is there for all to see before the entry is.
            self.domain.linear_slots.note(slot);
            self.hv.frames.set_aux(table, self.hv.frames.aux(table) | IS_LINEAR_ROOT);
            self.hv.machine.watch_reads();
        }
        Ok(())
    }

    fn hold_linear(&self, table: Mfn, level: u32, target: Mfn) -> Result<(), Errno> {
        let kind = FrameType::table(level).ok_or(Errno::Inval)?;
        let state = self.hv.frames.state(target);
        let is_table = state.owner() == self.domain.owner && state.kind() == kind && state.uses() > 0;
        if !is_table || !state.is_validated() {
            return Err(Errno::Inval);
        }
        let (links_here, links_there) = (links(self.hv, table), links(self.hv, target));
        if links_here < 0 || links_there > 0 || links_there <= -MAX_ENTRIES_FOR_ONE {
            return Err(Errno::Inval);
        }
        // It is in use as what it is, and only who holds the lock can end that.
        let _ready = self.hv.frames.acquire(target, self.domain.owner, kind).map_err(|_| Errno::Inval)?;
        self.set_links(table, links_here + 1);
        self.set_links(target, links_there - 1);
        Ok(())
    }

    /// Ends what a linear entry of `table` is to the table that it refers to, if it is one. Says whether there is a use to
    /// be given back, as for any entry but one for its own table.
    #[inline]
    pub(super) fn unlink(&self, table: Mfn, level: u32, target: Mfn) -> bool {
        if self.paging.is_linear { self.unlink_with_care(table, level, target) } else { true }
    }

    #[cold]
    fn unlink_with_care(&self, table: Mfn, level: u32, target: Mfn) -> bool {
        if target == table {
            return false;
        }
        if self.hv.frames.state(target).kind().level() == Some(level) {
            self.set_links(table, links(self.hv, table) - 1);
            self.set_links(target, links(self.hv, target) + 1);
        }
        true
    }

    fn set_links(&self, table: Mfn, count: i32) {
        let others = self.hv.frames.aux(table) & (PROGRESS | IS_LINEAR_ROOT);
        self.hv.frames.set_aux(table, (count << SHIFT) as u32 | others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_a_linear_slot_by_any_of_its_bytes() {
        let slots = LinearSlots::default();
        slots.note(255);
        slots.note(300);
        let start = GuestAddr(255 << 39);
        assert!(
            slots.touch(start, 1) && slots.touch(GuestAddr(start.0 - 1), 2) && !slots.touch(GuestAddr(start.0 - 2), 2)
        );
        assert!(slots.touch(GuestAddr(start.0 + (1 << 39) - 1), 8));
        assert!(!slots.touch(GuestAddr(0), 1 << 39) && slots.touch(GuestAddr(0), 2 << 39));
        assert!(slots.touch(GuestAddr(0xffff_0000_0000_0000 | 300 << 39), 8));
        assert!(!slots.touch(GuestAddr(0xffff_0000_0000_0000 | 301 << 39), 0));
        slots.note(0);
        assert!(slots.touch(GuestAddr(u64::MAX - 7), 16), "around the end");
    }
}
