//! Whoever changes a domain's page tables: holds the paging lock, counts the work done, holds and gives back pages.

use super::{
    Hardware, Paging, PagingDomain,
    entry::Entry,
    frame_type::{Acquired, FrameType, Owner},
};
use crate::{addr::Mfn, config::PREEMPT_INTERVAL, lock::Guard, mem::Memory, reply::Stop};
use oxen_abi::errno::Errno;

/// Exclusive access to the page tables of one domain: holds its paging lock.
#[derive(Debug)]
pub struct Editor<'a, M> {
    pub(super) memory: &'a Memory<M>,
    pub(super) domain: &'a PagingDomain,
    pub(super) paging: Guard<'a, Paging>,
    spent: u32,
}

/// Whether there may be more work before it is time to look for something more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Budget {
    /// There may.
    Left,
    /// It is time.
    Spent,
}

impl Budget {
    /// Of who has done so many units of work.
    #[inline]
    pub const fn after(units: u32) -> Self {
        if units >= PREEMPT_INTERVAL { Self::Spent } else { Self::Left }
    }
}

/// What the entries of an L1 may map.
#[derive(Clone, Copy, Debug)]
pub struct EntryRights {
    /// RAM of this owner; [`Owner::IO`] for none.
    pub owner: Owner,
    /// Whether what is not RAM may be mapped.
    pub io: bool,
}

impl<'a, M: Hardware> Editor<'a, M> {
    /// Takes the paging lock. What an earlier call left to be given back comes first: call [`Self::settle`].
    #[inline(always)]
    #[must_use]
    pub fn lock(memory: &'a Memory<M>, domain: &'a PagingDomain) -> Self {
        Self { memory, domain, paging: domain.paging.lock(), spent: 0 }
    }

    /// Takes the paging lock, and first finishes what an earlier call left to be given back.
    ///
    /// # Errors
    /// `Unfinished` if that is not finished yet.
    #[inline]
    pub fn open(memory: &'a Memory<M>, domain: &'a PagingDomain) -> Result<Self, Stop> {
        let mut editor = Self::lock(memory, domain);
        editor.settle()?;
        Ok(editor)
    }

    /// What the domain may map by itself.
    #[inline]
    #[must_use]
    pub fn own_rights(&self) -> EntryRights {
        EntryRights { owner: self.domain.owner, io: self.domain.is_privileged }
    }

    /// The owner of the tables.
    #[inline]
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.domain.owner
    }

    /// Whether the numbers in its tables are translated: there is nothing to be edited.
    #[must_use]
    pub fn is_translated(&self) -> bool {
        self.domain.is_translated()
    }

    /// Units of work done so far.
    #[must_use]
    pub const fn spent(&self) -> u32 {
        self.spent
    }

    /// Counts units of work.
    #[inline]
    pub const fn spend(&mut self, units: u32) -> Budget {
        self.spent += units;
        Budget::after(self.spent)
    }

    /// Takes what a present L1 entry needs of its page. Returns the entry as it may stand in the table.
    ///
    /// # Errors
    /// `Inval` for what no entry may contain, `Perm` for what is not RAM and not to be mapped, `Busy` if the page
    /// cannot be had like this: somebody else's, nobody's, or writable while it is a table.
    #[inline(always)]
    pub(super) fn hold_page(&self, entry: Entry, rights: &EntryRights) -> Result<Entry, Errno> {
        if !entry.has_any(Entry::CACHING)
            && let Ok(judged) = entry.sanitize_page(false)
            && self.memory.frames.try_get_page_fast(entry.frame_index(), rights.owner, entry.is_writable())
        {
            return Ok(judged);
        }
        self.hold_page_slow(entry, rights)
    }

    /// The same for an entry of which nothing has to be changed. Returns whether it is one, and its page can be had.
    #[inline(always)]
    pub(super) fn try_hold_page(&self, entry: Entry, rights: &EntryRights) -> bool {
        entry.flags().intersection(Entry::CACHING.union(Entry::USER)) == Entry::USER
            && self.memory.frames.try_get_page_fast(entry.frame_index(), rights.owner, entry.is_writable())
    }

    /// The same for any entry.
    #[cold]
    pub(super) fn hold_page_slow(&self, entry: Entry, rights: &EntryRights) -> Result<Entry, Errno> {
        // Who has devices may say how a page is cached, whoever owns it.
        let entry = entry.sanitize_page(self.domain.is_privileged)?;
        // A frame beyond all machines is one like any other that is not RAM; but the last number of all is none.
        let refusal = if entry.0 & Entry::FRAME == Entry::FRAME { Errno::Inval } else { Errno::Perm };
        let mfn = entry.mfn().ok_or(refusal)?;
        if !self.memory.frames.is_ram(mfn) {
            return if rights.io { self.io_entry(entry, mfn) } else { Err(Errno::Perm) };
        }
        // RAM has one way to be cached, or a stale line could hide what the hypervisor validated.
        let entry = entry.without(Entry::CACHING);
        let held = if entry.is_writable() {
            match self.memory.frames.acquire(mfn, rights.owner, FrameType::Writable) {
                Ok(Acquired::Changed) => {
                    self.flush_stale_use(mfn, rights.owner);
                    Ok(())
                }
                Ok(Acquired::Ready | Acquired::Unvalidated { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        } else {
            self.memory.frames.reference(mfn, rights.owner)
        };
        match held {
            Ok(()) => Ok(entry),
            Err(_) => Err(Errno::Busy),
        }
    }

    /// An entry for a frame that is not RAM, as the domain may have it: not cached. What the hypervisor writes for the
    /// domain, the domain can read.
    #[cold]
    fn io_entry(&self, entry: Entry, mfn: Mfn) -> Result<Entry, Errno> {
        if self.memory.frames.is_forbidden_io(mfn) || !self.domain.rights.lock().memory.contains(mfn.raw(), mfn.raw()) {
            return Err(Errno::Perm);
        }
        let is_read_only = entry.is_writable() && self.memory.pci.lock().is_read_only(mfn);
        let entry = entry.uncached();
        Ok(if is_read_only { entry.without(Entry::WRITABLE) } else { entry })
    }

    /// Gives back what a present L1 entry held.
    #[inline(always)]
    pub(super) fn drop_page(&self, entry: Entry) {
        if !self.memory.frames.try_put_page_fast(entry.frame_index(), entry.is_writable()) {
            self.drop_page_slow(entry);
        }
    }

    #[cold]
    fn drop_page_slow(&self, entry: Entry) {
        let Some(mfn) = entry.mfn() else { return };
        if !self.memory.frames.is_ram(mfn) {
            return;
        }
        if entry.is_writable() {
            self.memory.frames.put_use(mfn);
        } else {
            self.memory.frames.put(mfn);
        }
    }

    /// Flushes what CPUs may know of the last use of a frame whose new type has just been published.
    #[cold]
    pub(super) fn flush_stale_use(&self, mfn: Mfn, owner: Owner) {
        self.memory.flush_stale(owner, self.memory.frames.aux(mfn));
    }
}
