//! One word and one stamp for every frame of the machine.

use super::frame_type::{Acquired, FrameState, FrameType, Owner};
use crate::{addr::Mfn, config::MAX_DOMAINS};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use oxen_abi::errno::Errno;

/// The frame table. Twelve bytes a frame: the state, and an auxiliary word that means, by state: free, the next free
/// frame; partial, the next slot to (de)validate; otherwise, the TLB clock when the last type use ended.
#[derive(Debug)]
pub struct FrameTable {
    state: &'static [AtomicU64],
    aux: &'static [AtomicU32],
    /// Frames in each domain's reservation, by slot of the domain table.
    reserved: [AtomicU32; MAX_DOMAINS],
}

impl FrameTable {
    /// A table over the machine's storage, every frame free and in no allocator's hands.
    #[must_use]
    pub fn new(state: &'static [AtomicU64], aux: &'static [AtomicU32]) -> Self {
        for word in state {
            word.store(FrameState::FREE.raw(), Ordering::Relaxed);
        }
        Self { state, aux, reserved: [const { AtomicU32::new(0) }; MAX_DOMAINS] }
    }

    /// Frame numbers below this one are in the table.
    #[inline]
    #[must_use]
    pub fn end(&self) -> usize {
        self.state.len()
    }

    /// The frame's state at this moment; a free frame's for numbers beyond the table.
    #[inline]
    #[must_use]
    pub fn state(&self, mfn: Mfn) -> FrameState {
        self.state.get(mfn.index()).map_or(FrameState::FREE, |w| FrameState::from_raw(w.load(Ordering::Acquire)))
    }

    /// The auxiliary word.
    #[inline]
    #[must_use]
    pub fn aux(&self, mfn: Mfn) -> u32 {
        self.aux.get(mfn.index()).map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// Sets the auxiliary word.
    #[inline]
    pub fn set_aux(&self, mfn: Mfn, value: u32) {
        if let Some(word) = self.aux.get(mfn.index()) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Makes a transition, again if somebody else made one meanwhile. Returns the new state and what the step returned.
    ///
    /// # Errors
    /// The step's own; `Inval` for a frame beyond the table.
    #[inline]
    pub fn update<R>(
        &self,
        mfn: Mfn,
        mut step: impl FnMut(FrameState) -> Result<(FrameState, R), Errno>,
    ) -> Result<(FrameState, R), Errno> {
        let word = self.state.get(mfn.index()).ok_or(Errno::Inval)?;
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let (next, out) = step(FrameState::from_raw(seen))?;
            match word.compare_exchange_weak(seen, next.raw(), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok((next, out)),
                Err(now) => seen = now,
            }
        }
    }

    /// Takes a reference on a frame of `owner`.
    ///
    /// # Errors
    /// `Inval` if it is not `owner`'s.
    #[inline]
    pub fn reference(&self, mfn: Mfn, owner: Owner) -> Result<(), Errno> {
        self.update(mfn, |s| Ok((s.reference(owner)?, ()))).map(|_| ())
    }

    /// Takes a reference and a use of `kind` on a frame of `owner`. The caller validates where it is told to.
    ///
    /// # Errors
    /// See [`FrameState::acquire`].
    #[inline]
    pub fn acquire(&self, mfn: Mfn, owner: Owner, kind: FrameType) -> Result<Acquired, Errno> {
        self.update(mfn, |s| s.acquire(owner, kind)).map(|(_, todo)| todo)
    }

    /// Frames in the reservation of the domain in `slot`.
    #[must_use]
    pub fn reserved(&self, slot: usize) -> u32 {
        self.reserved.get(slot).map_or(0, |n| n.load(Ordering::Relaxed))
    }

    /// The counter behind [`Self::reserved`], for the allocator.
    #[inline]
    #[must_use]
    pub fn reserved_counter(&self, owner: Owner) -> Option<&AtomicU32> {
        self.reserved.get(owner.slot()?)
    }
}
