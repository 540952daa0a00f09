//! A frame held for a while: the count is taken when the value is made, and given back when it is dropped.
//!
//! What is to stay counted when the value is gone stands in a table: a page table's entry, a grant's pins, a vcpu's or
//! a domain's own word. [`Held::into_entry`] leaves the count to it, [`FrameTable::put_entry`] ends it there.

use super::{
    Hardware, Memory, RamFrame,
    frame_table::FrameTable,
    frame_type::{Acquired, FrameType, Owner},
};
use crate::addr::Mfn;
use core::mem::forget;
use oxen_abi::errno::Errno;

/// What is held of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A reference: it goes to nobody else.
    Reference,
    /// A writable use with its reference: it is no table meanwhile.
    Writable,
}

/// A frame that is held.
#[derive(Debug)]
#[must_use]
pub struct Held<'a> {
    frames: &'a FrameTable,
    frame: RamFrame,
    hold: Hold,
}

impl Held<'_> {
    /// The frame.
    #[inline]
    #[must_use]
    pub const fn frame(&self) -> RamFrame {
        self.frame
    }

    /// The count stands in a table from now on.
    #[inline]
    #[must_use]
    pub fn into_entry(self) -> RamFrame {
        let frame = self.frame;
        forget(self);
        frame
    }
}

impl Drop for Held<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.frames.put_entry(self.frame.mfn(), self.hold);
    }
}

impl FrameTable {
    /// Gives back what an entry held ([`Held::into_entry`]). The entry is gone already.
    #[inline(always)]
    pub fn put_entry(&self, mfn: Mfn, hold: Hold) {
        if !self.try_put_page_fast(mfn.index(), hold == Hold::Writable) {
            self.put_entry_slow(mfn, hold);
        }
    }

    #[cold]
    #[inline(never)]
    fn put_entry_slow(&self, mfn: Mfn, hold: Hold) {
        match hold {
            Hold::Reference => self.put(mfn),
            Hold::Writable => self.put_use(mfn),
        }
    }
}

impl<M: Hardware> Memory<M> {
    /// Takes a reference on a frame of `owner`.
    ///
    /// # Errors
    /// `Inval` if it is not `owner`'s.
    #[inline]
    pub fn hold(&self, mfn: Mfn, owner: Owner) -> Result<Held<'_>, Errno> {
        self.hold_as(mfn, owner, Hold::Reference)
    }

    /// Takes a writable use of a frame of `owner`, outside of any table: to write to it for the guest.
    ///
    /// # Errors
    /// `Inval` if it is not `owner`'s, `Busy` if it is in use as something else. It may be on its way out of a table's
    /// life ([`Editor::open`](super::editor::Editor::open) on the owner finishes that).
    #[inline]
    pub fn hold_writable(&self, mfn: Mfn, owner: Owner) -> Result<Held<'_>, Errno> {
        self.hold_as(mfn, owner, Hold::Writable)
    }

    /// Takes either.
    ///
    /// # Errors
    /// As for each.
    #[inline(always)]
    pub fn hold_as(&self, mfn: Mfn, owner: Owner, hold: Hold) -> Result<Held<'_>, Errno> {
        if !self.frames.try_get_page_fast(mfn.index(), owner, hold == Hold::Writable)
            && let Err(error) = self.count_slow(mfn, owner, hold)
        {
            return self.hold_meant(mfn, owner, hold, error);
        }
        Ok(Held { frames: &self.frames, frame: RamFrame::counted(mfn), hold })
    }

    /// Holds the frame that `named` means by a number, if that is no frame's; `error` is why it is none.
    #[cold]
    #[inline(never)]
    fn hold_meant(&self, number: Mfn, named: Owner, hold: Hold, error: Errno) -> Result<Held<'_>, Errno> {
        let owner = named.behind_numbers().ok_or(error)?;
        let (mfn, _) = self.translation(owner, number.raw()).ok_or(Errno::Inval)?;
        self.count_slow(mfn, owner, hold)?;
        Ok(Held { frames: &self.frames, frame: RamFrame::counted(mfn), hold })
    }

    /// Counts where it takes more than one step.
    #[cold]
    #[inline(never)]
    fn count_slow(&self, mfn: Mfn, owner: Owner, hold: Hold) -> Result<(), Errno> {
        match hold {
            Hold::Reference => self.frames.reference(mfn, owner)?,
            Hold::Writable => {
                if self.frames.acquire(mfn, owner, FrameType::Writable)? == Acquired::Changed {
                    self.flush_stale(owner, self.frames.aux(mfn));
                }
            }
        }
        Ok(())
    }

    /// The guest's own frame with this number, to be written for it.
    ///
    /// # Errors
    /// `Inval` if it is none of `owner`'s that can be written.
    #[inline]
    pub fn hold_own(&self, gfn: u64, owner: Owner) -> Result<Held<'_>, Errno> {
        let mfn = Mfn::new(gfn).ok_or(Errno::Inval)?;
        let held = self.hold_writable(mfn, owner).map_err(|_| Errno::Inval)?;
        self.mark_lent(owner, held.frame().mfn());
        Ok(held)
    }
}
