//! Pages that somebody else may write to at any moment: other domains that map them, and the hypervisor where the guest
//! gave it a place to write to.
//!
//! Their writes meet no shadow of the page's owner. So such a page counts as written to in every round in which it was
//! lent for a moment. Who maps a page marks it, after the entry is there; and at the beginning of a round, after the
//! marks of the last have gone into the log, all tables of others are looked through for what they still map. An entry
//! that is there at that moment is found, and one that comes later is marked.

use super::{
    super::{Hardware, entry::Entry, frame_type::FrameType, frame_type::Owner, walk::groups},
    Log,
};
use crate::{
    addr::Mfn,
    config::{FRAMES_PER_UNIT, PREEMPT_INTERVAL},
    mem::{Memory, RamFrame},
    reply::Stop,
};
use core::sync::atomic::Ordering;

/// The work of looking through a table, in units.
const TABLE_UNITS: u32 = 16;

impl<M: Hardware> Memory<M> {
    /// Notes that a frame of `owner` may be written to by somebody else from now on, if that is logged.
    #[inline(always)]
    pub fn mark_lent(&self, owner: Owner, frame: Mfn) {
        if self.is_any_logging() {
            self.mark_lent_slow(owner, frame);
        }
    }

    #[cold]
    #[inline(never)]
    fn mark_lent_slow(&self, owner: Owner, frame: Mfn) {
        if let Some(shadow) = self.shadows.of(owner).as_deref_mut().and_then(Option::as_deref_mut)
            && shadow.is_logging
            && let Some(pfn) = self.place_of(frame)
            && !shadow.lent.has(&self.machine, pfn)
        {
            shadow.note(self, owner, pfn, Log::Lent);
        }
    }

    /// Marks the page that an entry of another domain's maps, if that is one of `owner` and can be written to so.
    #[inline(always)]
    pub fn mark_lent_by(&self, owner: Owner, entry: Entry) {
        if self.is_any_logging() {
            self.mark_lent_by_slow(owner, entry);
        }
    }

    #[cold]
    #[inline(never)]
    fn mark_lent_by_slow(&self, owner: Owner, entry: Entry) {
        if let Some(frame) = entry.mfn().filter(|_| entry.is_present() && entry.is_writable())
            && self.frames.state(frame).owner() == owner
        {
            self.mark_lent(owner, frame);
        }
    }

    /// An entry of `mapper`'s stands at another place now: what maps another's page may have been overlooked at both.
    #[inline]
    pub(in super::super) fn mark_lent_again(&self, mapper: Owner, entry: Entry) {
        if self.is_any_logging()
            && let Some(owner) = entry.mfn().map(|frame| self.frames.state(frame).owner())
            && owner != mapper
        {
            self.mark_lent_by(owner, entry);
        }
    }

    /// Looks for pages of `owner` that tables of others map so that they can be written to, from frame `next` on.
    ///
    /// # Errors
    /// `Unfinished` with `next` moved on: call again.
    pub fn find_lent(&self, owner: Owner, next: &mut usize) -> Result<(), Stop> {
        let mut spent = 0;
        while let Some(table) = Mfn::new(*next as u64).filter(|_| *next < self.frames.end()) {
            let state = self.frames.state(table);
            let is_table = state.kind() == FrameType::L1 && state.uses() != 0;
            if is_table && state.owner() != owner && state.owner().slot().is_some() {
                for (_, words) in groups(self.machine.words(RamFrame::counted(table))) {
                    words.iter().for_each(|word| self.mark_lent_by(owner, Entry(word.load(Ordering::Acquire))));
                }
                spent += TABLE_UNITS;
            }
            *next += 1;
            spent += u32::from(next.is_multiple_of(FRAMES_PER_UNIT));
            if spent >= PREEMPT_INTERVAL {
                return Err(Stop::Unfinished);
            }
        }
        Ok(())
    }
}
