//! From a virtual address to the entry that translates it: through the direct map, never
//! through the guest's own mappings.

use super::{
    Hardware, RamFrame,
    edit::{AccessedDirty, Place},
    editor::{Editor, EntryRights},
    entry::Entry,
};
use crate::{
    addr::{GuestAddr, MachineAddr, Mfn, Slot},
    reply::Stop,
};
use core::sync::atomic::Ordering;
use oxen_abi::errno::Errno;

impl<M: Hardware> Editor<'_, M> {
    /// The L1 entry that translates `va` in the address space of a validated root.
    #[inline]
    #[must_use]
    pub fn find(&self, root: RamFrame, va: GuestAddr) -> Option<Place> {
        if self.paging.is_linear { self.find_slow(root, va) } else { self.find_plain(root, va) }
    }

    /// The same where no table has a linear entry.
    #[inline(always)]
    #[must_use]
    pub fn find_plain(&self, root: RamFrame, va: GuestAddr) -> Option<Place> {
        if !va.is_guest_range(1) {
            return None;
        }
        let mut table = root;
        for level in [4, 3, 2] {
            let entry = Entry(self.place(table, level, va.slot(level)).word.load(Ordering::Relaxed));
            table = entry.table()?;
        }
        Some(self.place(table, 1, va.slot(1)))
    }

    /// The same where an entry may refer to a table of its own level: what is found there translates nothing as an L1
    /// entry does, and behind a root's there are the hypervisor's own tables.
    #[cold]
    fn find_slow(&self, root: RamFrame, va: GuestAddr) -> Option<Place> {
        if !va.is_guest_range(1) {
            return None;
        }
        let mut table = root;
        for level in [4, 3, 2] {
            let entry = Entry(self.place(table, level, va.slot(level)).word.load(Ordering::Relaxed));
            table = entry.table()?;
            if self.memory.frames.state(table.mfn()).kind().level() != Some(level - 1) {
                return None;
            }
        }
        Some(self.place(table, 1, va.slot(1)))
    }

    /// The entry at a machine address, which must be one of a validated L1 of the domain.
    ///
    /// # Errors
    /// `Inval` if it is not.
    pub fn find_l1_entry(&self, address: MachineAddr) -> Result<Place, Errno> {
        let slot = Slot::at_offset(address.offset()).ok_or(Errno::Inval)?;
        let mfn = Mfn::containing(address).ok_or(Errno::Inval)?;
        match self.table(mfn)? {
            Some((table, 1)) => Ok(self.place(table, 1, slot)),
            _ => Err(Errno::Inval),
        }
    }

    /// Maps something at a virtual address, or nothing. What an earlier call left to be given back comes first.
    ///
    /// # Errors
    /// `Inval` where no L1 translates the address; else as [`Self::replace`]. `Unfinished` before anything was done.
    #[inline(always)]
    pub fn map_at(&mut self, root: RamFrame, va: GuestAddr, new: u64, rights: &EntryRights) -> Result<(), Stop> {
        if !va.is_guest_range(1) {
            return Err(Errno::Inval.into());
        }
        if !self.is_plain() {
            return self.map_slow(root, va, new, *rights);
        }
        let place = self.find_plain(root, va).ok_or(Errno::Inval)?;
        Ok(self.replace_page(place, new, AccessedDirty::Overwrite, rights)?)
    }

    #[cold]
    #[inline(never)]
    fn map_slow(&mut self, root: RamFrame, va: GuestAddr, new: u64, rights: EntryRights) -> Result<(), Stop> {
        self.settle()?;
        let place = self.find(root, va).ok_or(Errno::Inval)?;
        self.judge_absent(new)?;
        Ok(self.replace_leaf(place, new, AccessedDirty::Overwrite, &rights)?)
    }
}
