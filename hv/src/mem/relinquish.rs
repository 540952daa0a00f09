//! The end of a domain's memory: pins, tables half way, the reservation; step by step.

use super::{
    Hardware, PagingDomain,
    editor::{Budget, Editor},
};
use crate::{
    addr::Mfn,
    config::FRAMES_PER_UNIT,
    mem::{Memory, RamFrame},
    reply::Stop,
};

impl<M: Hardware> Memory<M> {
    /// Gives back what a dying domain has in memory, from frame `next` on; none of its vcpus may run or hold roots or
    /// descriptor pages any more. Frames that others map go when they unmap them: the domain's slot is free for another
    /// when [`super::frame_table::FrameTable::reserved`] and `shared` say zero.
    ///
    /// # Errors
    /// `Unfinished` with `next` moved on: call again.
    pub fn relinquish(&self, domain: &PagingDomain, next: &mut usize) -> Result<(), Stop> {
        let mut editor = Editor::open(self, domain)?;
        let end = self.frames.end();
        // A second pass finds what somebody who did not yet know gave the domain behind our back.
        let is_gone = |next| next >= end && domain.owner.slot().is_none_or(|slot| self.frames.reserved(slot) == 0);
        while *next < 2 * end && !is_gone(*next) {
            let Some(mfn) = Mfn::new((*next % end) as u64) else { break };
            let state = self.frames.state(mfn);
            if state.owner() == domain.owner {
                if state.is_pinned() {
                    editor.unpin(mfn)?;
                }
                editor.settle()?;
                if self.frames.is_abandoned(mfn) {
                    editor.abandon(RamFrame::counted(mfn));
                }
                if state.is_allocated() {
                    let _ = self.frames.release_from_reservation(mfn, domain.owner);
                }
            }
            *next += 1;
            let units = u32::from(next.is_multiple_of(FRAMES_PER_UNIT) || state.owner() == domain.owner);
            if editor.spend(units) == Budget::Spent && *next < 2 * end && !is_gone(*next) {
                return Err(Stop::Unfinished);
            }
        }
        editor.settle()
    }
}
