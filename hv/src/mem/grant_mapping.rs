//! Mappings of granted frames: entries that the grant table's code puts into a guest's L1 and takes out again.

use super::{
    Hardware, RamFrame,
    edit::{AccessedDirty, Place},
    editor::{Editor, EntryRights},
    entry::Entry,
    frame_type::Owner,
};
use crate::{
    addr::{GuestAddr, MachineAddr, Mfn},
    reply::Stop,
};
use core::sync::atomic::Ordering;
use oxen_abi::{errno::Errno, grant_table::MapFlags};
use x86_64::structures::paging::PageTableFlags;

/// Where the guest wants a granted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At a virtual address of the address space with this root.
    Address(RamFrame, GuestAddr),
    /// In the L1 entry at this machine address (`GNTMAP_contains_pte`).
    Entry(MachineAddr),
}

/// The flags of an entry for a mapping with these flags. Nobody runs what another granted. The guest's own
/// three bits are bits 16 to 18 there.
#[must_use]
#[inline]
pub const fn entry_flags(map_flags: MapFlags) -> PageTableFlags {
    let mut flags = Entry::PRESENT.union(Entry::NOTES).union(Entry::NO_EXECUTE);
    if !map_flags.contains(MapFlags::READONLY) {
        flags = flags.union(Entry::WRITABLE);
    }
    if map_flags.contains(MapFlags::APPLICATION_MAP) {
        flags = flags.union(Entry::USER);
    }
    let own = PageTableFlags::from_bits_retain(map_flags.bits() as u64 >> 16 << 9);
    flags.union(own.intersection(Entry::AVAILABLE))
}

impl<M: Hardware> Editor<'_, M> {
    fn at(&self, at: At) -> Result<Place, Errno> {
        match at {
            At::Address(root, va) => self.find(root, va).ok_or(Errno::Inval),
            At::Entry(address) => self.find_l1_entry(address),
        }
    }

    /// The same where [`Self::is_plain`] says so.
    #[inline(always)]
    fn at_plain(&self, at: At) -> Result<Place, Errno> {
        match at {
            At::Address(root, va) => self.find_plain(root, va).ok_or(Errno::Inval),
            At::Entry(address) => self.find_l1_entry(address),
        }
    }

    /// Maps a frame of `granter`. The entry holds a reference, and a writable use where it
    /// is writable, as any entry does.
    ///
    /// # Errors
    /// `Inval` where no L1 entry can be found; else as [`Self::replace`]. Nothing has changed then.
    pub fn map_grant(&mut self, at: At, frame: Mfn, granter: Owner, flags: PageTableFlags) -> Result<(), Stop> {
        let place = self.at(at)?;
        let rights = EntryRights { owner: granter, io: false };
        let entry = Entry::to(frame, flags);
        // What is found at either place is an entry of an L1.
        self.replace_leaf(place, entry.0, AccessedDirty::Overwrite, &rights)?;
        self.memory.mark_lent_by(granter, entry);
        Ok(())
    }

    /// Unmaps it. The caller flushes.
    ///
    /// # Errors
    /// `Inval` if the entry does not map this frame, writable or not, any more; nothing has changed then.
    pub fn unmap_grant(&mut self, at: At, frame: Mfn, writable: bool) -> Result<(), Errno> {
        if !self.is_plain() {
            return self.unmap_slow(at, frame, writable);
        }
        let place = self.at_plain(at)?;
        let old = granted(place, frame, writable)?;
        place.word.store(0, Ordering::Release);
        self.drop_page(old);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn unmap_slow(&self, at: At, frame: Mfn, writable: bool) -> Result<(), Errno> {
        let place = self.at(at)?;
        let old = granted(place, frame, writable)?;
        place.word.store(0, Ordering::Release);
        self.follow_if_shadowed(place);
        self.drop_page(old);
        Ok(())
    }

    /// Unmaps it and moves there what is mapped at `from` (`GNTTABOP_unmap_and_replace`). The caller
    /// flushes, whatever the outcome.
    ///
    /// # Errors
    /// `Inval` where no L1 translates `from`; nothing has changed then. As [`Self::unmap_grant`]; then nothing is
    /// mapped at `from` any more all the same, as on Xen.
    pub fn replace_grant(
        &mut self,
        at: At,
        frame: Mfn,
        writable: bool,
        from: (RamFrame, GuestAddr),
    ) -> Result<(), Errno> {
        let source = self.find(from.0, from.1).ok_or(Errno::Inval)?;
        let found = self.at(at).and_then(|place| Ok((place, granted(place, frame, writable)?)));
        let (place, old) = match found {
            Ok((place, old)) if !core::ptr::eq(place.word, source.word) => (place, old),
            _ => {
                self.replace_leaf(source, 0, AccessedDirty::Overwrite, &self.own_rights())?;
                return Err(Errno::Inval);
            }
        };
        let moved = Entry(source.word.swap(0, Ordering::AcqRel));
        place.word.store(moved.0, Ordering::Release);
        self.follow_if_shadowed(source);
        self.follow_if_shadowed(place);
        self.memory.mark_lent_again(self.domain.owner, moved);
        self.drop_page(old);
        Ok(())
    }
}

/// The entry, if it maps the frame as said.
fn granted(place: Place, frame: Mfn, writable: bool) -> Result<Entry, Errno> {
    let entry = Entry(place.word.load(Ordering::Acquire));
    if !entry.is_present() || entry.mfn() != Some(frame) || entry.is_writable() != writable {
        return Err(Errno::Inval);
    }
    Ok(entry)
}
