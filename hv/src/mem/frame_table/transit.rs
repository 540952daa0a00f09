//! Frames between two holders: taken from the free ones, or out of a reservation. Whoever gives up on the way drops
//! them, and they are where they were, as they were.

use super::FrameTable;
use crate::{
    addr::Mfn,
    mem::{
        RamFrame,
        frame_type::{FrameState, Owner},
    },
};
use core::{mem::forget, ops::Range, sync::atomic::Ordering};
use oxen_abi::errno::Errno;

/// Whose contents stand in a frame that a domain gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Its own: it was the very last to have the frame.
    Own,
    /// Anybody's, the hypervisor's included.
    Foreign,
}

/// `1 << order` frames that nobody has and no TLB knows. Dropped, they are free again.
#[derive(Debug)]
#[must_use]
pub struct Taken<'a> {
    frames: &'a FrameTable,
    first: Mfn,
    order: u32,
}

impl<'a> Taken<'a> {
    #[inline]
    pub(super) const fn new(frames: &'a FrameTable, first: Mfn, order: u32) -> Self {
        Self { frames, first, order }
    }

    /// The numbers of the frames.
    #[inline]
    #[must_use]
    pub const fn numbers(&self) -> Range<u64> {
        self.first.raw()..self.first.raw() + (1 << self.order)
    }

    /// The hypervisor keeps them. `clear` fills each with zeros.
    #[inline]
    #[must_use]
    pub fn into_own(self, clear: impl Fn(RamFrame)) -> RamFrame {
        self.hand_out(FrameState::OWN, |frame, _| clear(frame))
    }

    /// The hypervisor keeps them and lends them to `owner`, in whose count of such frames they are from now on.
    #[inline]
    #[must_use]
    pub fn into_shared(self, owner: Owner, clear: impl Fn(RamFrame)) -> RamFrame {
        if let Some(counter) = owner.slot().and_then(|slot| self.frames.shared.get(slot)) {
            counter.fetch_add(1 << self.order, Ordering::AcqRel);
        }
        self.hand_out(FrameState::shared(owner), |frame, _| clear(frame))
    }

    /// They are `owner`'s, who has them counted already. `prepare` is told of each frame whose contents these are.
    #[inline]
    #[must_use]
    pub fn into_reservation(self, owner: Owner, prepare: impl Fn(RamFrame, Contents)) -> Mfn {
        if self.frames.claims.is_any() {
            self.frames.redeem(owner, 1 << self.order);
        }
        let left_by_owner = self.frames.left_by(owner);
        let first = self.hand_out(FrameState::fresh(owner), |frame, state| {
            prepare(frame, if state == left_by_owner { Contents::Own } else { Contents::Foreign });
        });
        first.mfn()
    }

    #[inline]
    fn hand_out(self, state: FrameState, prepare: impl Fn(RamFrame, FrameState)) -> RamFrame {
        // Only RAM is ever free.
        let first = RamFrame::counted(self.first);
        for frame in self.numbers().filter_map(Mfn::new) {
            prepare(RamFrame::counted(frame), self.frames.state(frame));
            self.frames.set_state(frame, state);
        }
        forget(self);
        first
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.frames.put_back(self.first, self.order);
    }
}

/// A frame out of a reservation to which nobody refers; CPUs may know it. Dropped, it is in the
/// reservation again, its past included.
#[derive(Debug)]
#[must_use]
pub struct Withdrawn<'a> {
    frames: &'a FrameTable,
    frame: Mfn,
    owner: Owner,
}

impl Withdrawn<'_> {
    /// The frame is free. Its owner's count stays as it is.
    pub fn retire(self) {
        self.frames.retire(self.frame, self.frames.left_by(self.owner));
        forget(self);
    }

    /// The frame is another's, contents included. `flush` makes every CPU that ran its owner forget what it knows.
    pub fn hand_over(self, to: Owner, flush: impl FnOnce()) {
        flush();
        let taken = Taken::new(self.frames, self.frame, 0);
        forget(self);
        let _ = taken.hand_out(FrameState::fresh(to), |_, _| {});
    }
}

impl Drop for Withdrawn<'_> {
    fn drop(&mut self) {
        let state = self.frames.state(self.frame).restored(self.owner);
        self.frames.set_state(self.frame, state);
    }
}

/// A frame that was lent to a domain and that nobody but the hypervisor refers to; CPUs may know
/// it. Dropped, it is lent again.
#[derive(Debug)]
#[must_use]
pub struct Recalled<'a> {
    frames: &'a FrameTable,
    frame: Mfn,
    owner: Owner,
}

impl Recalled<'_> {
    /// The frame is free.
    #[inline(never)]
    pub fn retire(self) {
        self.frames.free_last_ref(self.frame, FrameState::shared(self.owner));
        forget(self);
    }
}

impl Drop for Recalled<'_> {
    fn drop(&mut self) {
        self.frames.set_state(self.frame, FrameState::shared(self.owner));
    }
}

impl FrameTable {
    /// Takes back a frame that was lent to `owner` ([`Taken::into_shared`]) and to which nobody else refers: in one
    /// step with finding that out, and from then on nobody can.
    ///
    /// # Errors
    /// `Inval` if it was not lent to `owner`, `Busy` if somebody refers to it.
    #[inline(never)]
    pub fn recall(&self, frame: Mfn, owner: Owner) -> Result<Recalled<'_>, Errno> {
        self.update(frame, |state| match state {
            _ if state.owner() != owner || !state.is_shared() => Err(Errno::Inval),
            _ if state != FrameState::shared(owner) => Err(Errno::Busy),
            _ => Ok((FrameState::OWN, ())),
        })?;
        Ok(Recalled { frames: self, frame, owner })
    }

    /// Takes a frame to which nobody refers out of its owner's reservation.
    ///
    /// # Errors
    /// `Inval` if it is not `owner`'s, `Busy` if somebody refers to it.
    pub fn withdraw(&self, frame: Mfn, owner: Owner) -> Result<Withdrawn<'_>, Errno> {
        self.update(frame, |state| Ok((state.withdrawn(owner)?, ())))?;
        Ok(Withdrawn { frames: self, frame, owner })
    }

    /// A frame of the hypervisor's is free again. `clear` fills it with zeros.
    ///
    /// # Errors
    /// `Inval` if it is not the hypervisor's.
    pub fn free_own(&self, frame: Mfn, clear: impl FnOnce(RamFrame)) -> Result<(), Errno> {
        let to_free = |state| if state == FrameState::OWN { Ok((FrameState::FREE, ())) } else { Err(Errno::Inval) };
        self.update(frame, to_free)?;
        clear(RamFrame::counted(frame));
        self.put_back(frame, 0);
        Ok(())
    }
}
