//! One word and one stamp for every frame of the machine.
//!
//! Whose a frame is changes in this folder only: [`free`] has the frames that nobody has, [`transit`] those on their
//! way from one holder to another. All others count references and uses.

mod claims;
mod free;
mod transit;

pub use free::{MAX_ORDER, Shortage};
pub use transit::{Contents, Recalled, Taken, Withdrawn};

use super::{
    RamFrame,
    frame_type::{Acquired, FrameState, FrameType, Owner, Released},
    tlb::TlbClock,
};
use crate::{
    addr::Mfn,
    config::MAX_DOMAINS,
    lock::{Lock, rank},
    rights::Ranges,
};
use claims::Claims;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use free::FreeFrames;
use oxen_abi::errno::Errno;

/// The frame table. Twelve bytes a frame: the state, and an auxiliary word that means, by state: free, the next free
/// frame; partial, the next slot to (de)validate; otherwise, the TLB clock when the last type use ended.
#[derive(Debug)]
pub struct FrameTable {
    state: &'static [AtomicU64],
    aux: &'static [AtomicU32],
    /// Frames in each domain's reservation, by slot of the domain table.
    reserved: [AtomicU32; MAX_DOMAINS],
    /// Frames lent to each domain outside of its reservation.
    shared: [AtomicU32; MAX_DOMAINS],
    /// Frames of RAM.
    ram: AtomicU32,
    /// How often each slot has got a domain.
    generations: [AtomicU32; MAX_DOMAINS],
    /// When what was flushed.
    pub tlb: TlbClock,
    free: Lock<FreeFrames, { rank::FREE_FRAMES }>,
    claims: Claims,
    /// Device memory that the hypervisor drives itself.
    forbidden_io: Lock<Ranges, { rank::FORBIDDEN_IO }>,
}

impl FrameTable {
    /// A table over the machine's storage. Every frame is taken for device memory until [`Self::donate`] or
    /// [`Self::keep`] says that it is RAM.
    #[must_use]
    pub fn new(state: &'static [AtomicU64], aux: &'static [AtomicU32]) -> Self {
        for word in state {
            word.store(FrameState::IO.raw(), Ordering::Relaxed);
        }
        Self {
            state,
            aux,
            reserved: [const { AtomicU32::new(0) }; MAX_DOMAINS],
            shared: [const { AtomicU32::new(0) }; MAX_DOMAINS],
            ram: AtomicU32::new(0),
            generations: [const { AtomicU32::new(0) }; MAX_DOMAINS],
            tlb: TlbClock::default(),
            free: Lock::new(FreeFrames::default()),
            claims: Claims::new(),
            forbidden_io: Lock::new(Ranges::EMPTY),
        }
    }

    /// Frame numbers below this one are in the table.
    #[inline]
    #[must_use]
    pub fn end(&self) -> usize {
        self.state.len()
    }

    /// The frame's state at this moment; device memory's for numbers beyond the table.
    #[inline]
    #[must_use]
    pub fn state(&self, mfn: Mfn) -> FrameState {
        self.state.get(mfn.index()).map_or(FrameState::IO, |w| FrameState::from_raw(w.load(Ordering::Acquire)))
    }

    /// Frames of RAM that there are.
    #[must_use]
    pub fn ram(&self) -> u32 {
        self.ram.load(Ordering::Relaxed)
    }

    /// Says that a frame is RAM, free or the hypervisor's.
    fn set_ram(&self, mfn: Mfn, state: FrameState) {
        if !self.is_ram(mfn) {
            self.ram.fetch_add(1, Ordering::Relaxed);
        }
        self.set_state(mfn, state);
    }

    /// Whether there is RAM behind the number.
    #[inline]
    #[must_use]
    pub fn is_ram(&self, mfn: Mfn) -> bool {
        self.state(mfn).owner() != Owner::IO
    }

    /// Keeps frames of device memory, ends included, to the hypervisor: no domain may map them.
    ///
    /// # Errors
    /// `NoMem` when there are too many.
    pub fn forbid_io(&self, first: Mfn, last: Mfn) -> Result<(), Errno> {
        self.forbidden_io.lock().insert(first.raw(), last.raw())
    }

    /// Whether a frame of device memory is the hypervisor's.
    #[must_use]
    pub fn is_forbidden_io(&self, mfn: Mfn) -> bool {
        self.forbidden_io.lock().contains(mfn.raw(), mfn.raw())
    }

    /// Overwrites the state of a frame that nobody else can refer to.
    #[inline]
    fn set_state(&self, mfn: Mfn, state: FrameState) {
        if let Some(word) = self.state.get(mfn.index()) {
            word.store(state.raw(), Ordering::Release);
        }
    }

    /// The auxiliary word.
    #[inline]
    #[must_use]
    pub fn aux(&self, mfn: Mfn) -> u32 {
        self.aux.get(mfn.index()).map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// Sets the auxiliary word.
    #[inline]
    pub(super) fn set_aux(&self, mfn: Mfn, value: u32) {
        if let Some(word) = self.aux.get(mfn.index()) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Stamps a frame with the moment at which its last use as something ended. The entries
    /// that mapped it are gone already.
    #[inline]
    pub(super) fn stamp(&self, mfn: Mfn) {
        self.set_aux(mfn, self.tlb.stamp());
    }

    /// Makes a transition, again if somebody else made one meanwhile. Returns the new state and what the step returned.
    ///
    /// # Errors
    /// The step's own; `Inval` for a frame beyond the table.
    #[inline(always)]
    pub(super) fn update<R>(
        &self,
        mfn: Mfn,
        mut step: impl FnMut(FrameState) -> Result<(FrameState, R), Errno>,
    ) -> Result<(FrameState, R), Errno> {
        let word = self.state.get(mfn.index()).ok_or(Errno::Inval)?;
        let mut seen = word.load(Ordering::Acquire);
        loop {
            let (next, out) = step(FrameState::from_raw(seen))?;
            match word.compare_exchange_weak(seen, next.raw(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok((next, out)),
                Err(now) => seen = now,
            }
        }
    }

    /// Makes a transition that nothing prevents.
    #[inline]
    pub(super) fn change(&self, frame: RamFrame, step: impl Fn(FrameState) -> FrameState) {
        let _done: Option<()> = self.change_with(frame, |state| (step(state), ()));
    }

    /// The same, with what the step returned. (Every frame of RAM is in the table.)
    #[inline]
    pub(super) fn change_with<R>(&self, frame: RamFrame, step: impl Fn(FrameState) -> (FrameState, R)) -> Option<R> {
        self.update(frame.mfn(), |state| Ok(step(state))).ok().map(|(_, out)| out)
    }

    /// Takes what an entry needs of a frame of `owner`, where that is no more than counting on. Returns whether it was.
    #[inline(always)]
    #[must_use]
    pub(super) fn try_get_page_fast(&self, index: usize, owner: Owner, writable: bool) -> bool {
        let Some(word) = self.state.get(index) else { return false };
        let seen = FrameState::from_raw(word.load(Ordering::Acquire));
        if writable {
            seen.plus_writable_fast(owner).is_some_and(|next| exchange(word, seen, next))
        } else {
            seen.plus_reference_fast(owner).is_some_and(|next| exchange(word, seen, next))
        }
    }

    /// Gives back what an entry held of a frame, where that is no more than counting down. Returns whether it was.
    #[inline(always)]
    #[must_use]
    pub(super) fn try_put_page_fast(&self, index: usize, writable: bool) -> bool {
        let Some(word) = self.state.get(index) else { return false };
        let seen = FrameState::from_raw(word.load(Ordering::Acquire));
        if !writable {
            return seen.minus_reference_fast().is_some_and(|next| exchange(word, seen, next));
        }
        let Some((next, is_last_use)) = seen.minus_writable_fast() else { return false };
        if is_last_use && let Some(stamp) = self.aux.get(index) {
            stamp.store(self.tlb.stamp(), Ordering::Relaxed);
        }
        exchange(word, seen, next)
    }

    /// Takes a use of a validated table of `owner`, where that is no more than counting on. Returns whether it was.
    #[inline(always)]
    #[must_use]
    pub(super) fn try_get_table_fast(&self, index: usize, owner: Owner, kind: FrameType) -> bool {
        let Some(word) = self.state.get(index) else { return false };
        let seen = FrameState::from_raw(word.load(Ordering::Acquire));
        seen.plus_table_use_fast(owner, kind).is_some_and(|next| exchange(word, seen, next))
    }

    /// Gives back a use of a table that is not the last. Returns whether it was so.
    #[inline(always)]
    #[must_use]
    pub(super) fn try_put_table_fast(&self, index: usize) -> bool {
        let Some(word) = self.state.get(index) else { return false };
        let seen = FrameState::from_raw(word.load(Ordering::Acquire));
        seen.minus_table_use_fast().is_some_and(|next| exchange(word, seen, next))
    }

    /// Takes a reference on a frame of `owner`.
    ///
    /// # Errors
    /// `Inval` if it is not `owner`'s.
    #[inline]
    pub(super) fn reference(&self, mfn: Mfn, owner: Owner) -> Result<(), Errno> {
        self.update(mfn, |s| Ok((s.reference(owner)?, ()))).map(|_| ())
    }

    /// Takes a reference and a use of `kind` on a frame of `owner`. The caller validates where it is told to.
    ///
    /// # Errors
    /// See [`FrameState::acquire`].
    #[inline]
    pub(super) fn acquire(&self, mfn: Mfn, owner: Owner, kind: FrameType) -> Result<Acquired, Errno> {
        self.update(mfn, |s| s.acquire(owner, kind)).map(|(_, todo)| todo)
    }

    /// Gives a reference back. With the last one the frame is nobody's and returns to the allocator.
    #[inline]
    pub(super) fn put(&self, mfn: Mfn) {
        let _ = self.give_up(mfn, |state| Ok(state.unreference()));
    }

    /// Gives back a writable use and its reference.
    #[inline]
    pub(super) fn put_use(&self, mfn: Mfn) {
        let _ = self.give_up(mfn, |state| {
            debug_assert!(!state.kind().needs_validation(), "the use of a table is given back by its domain's editor");
            if state.release_means() != Released::InUse {
                self.stamp(mfn);
            }
            Ok(state.release())
        });
    }

    /// Takes the frame out of its owner's reservation and gives back the reference that stood for it.
    ///
    /// # Errors
    /// `Inval` if it is not in `owner`'s reservation.
    pub fn release_from_reservation(&self, mfn: Mfn, owner: Owner) -> Result<(), Errno> {
        self.give_up(mfn, |state| {
            if state.owner() != owner || !state.is_allocated() {
                return Err(Errno::Inval);
            }
            Ok(state.deallocated().unreference())
        })
    }

    /// Makes a step that gives a reference back, and frees the frame if that was the last.
    #[inline]
    fn give_up(&self, mfn: Mfn, step: impl Fn(FrameState) -> Result<FrameState, Errno>) -> Result<(), Errno> {
        let (_, last) = self.update(mfn, |state| {
            let next = step(state)?;
            Ok(if next.refs() == 0 { (FrameState::OWN, Some(state)) } else { (next, None) })
        })?;
        if let Some(last) = last {
            self.free_last_ref(mfn, last);
        }
        Ok(())
    }

    /// Frees a frame. The mark is made before the owner's counter goes down: after that,
    /// the slot may get another domain.
    #[cold]
    fn free_last_ref(&self, mfn: Mfn, last: FrameState) {
        let left = self.left_by(last.owner());
        let counters = if last.is_shared() { &self.shared } else { &self.reserved };
        if let Some(counter) = last.owner().slot().and_then(|slot| counters.get(slot)) {
            counter.fetch_sub(1, Ordering::AcqRel);
        }
        self.retire(mfn, left);
    }

    /// A new domain gets a slot: it knows nothing of what the one before it left behind.
    pub fn new_generation(&self, owner: Owner) {
        if let Some(generation) = owner.slot().and_then(|slot| self.generations.get(slot)) {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The state of a free frame that the domain now in `owner`'s slot was the last to have.
    fn left_by(&self, owner: Owner) -> FrameState {
        let generation = owner.slot().and_then(|slot| self.generations.get(slot));
        generation.map_or(FrameState::FREE, |n| FrameState::left_by(owner, n.load(Ordering::Acquire)))
    }

    /// Frames that the domain in `slot` owns, whoever refers to them: its reservation, and what left it but is still
    /// mapped somewhere.
    #[must_use]
    pub fn reserved(&self, slot: usize) -> u32 {
        self.reserved.get(slot).map_or(0, |n| n.load(Ordering::Relaxed))
    }

    /// Frames lent to the domain in `slot`. Its slot may go to another domain when this
    /// and [`Self::reserved`] are zero.
    #[must_use]
    pub fn shared(&self, slot: usize) -> u32 {
        self.shared.get(slot).map_or(0, |n| n.load(Ordering::Relaxed))
    }

    /// The counter behind [`Self::reserved`], for the allocator.
    #[inline]
    #[must_use]
    pub(super) fn reserved_counter(&self, owner: Owner) -> Option<&AtomicU32> {
        self.reserved.get(owner.slot()?)
    }
}

#[inline(always)]
fn exchange(word: &AtomicU64, seen: FrameState, next: FrameState) -> bool {
    word.compare_exchange(seen.raw(), next.raw(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
}
