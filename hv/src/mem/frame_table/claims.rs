//! Memory that a domain is promised but has not got yet (`XENMEM_claim_pages`): nobody else gets it meanwhile.

use super::FrameTable;
use crate::{config::MAX_DOMAINS, mem::frame_type::Owner};
use core::sync::atomic::{AtomicU32, Ordering};
use oxen_abi::errno::Errno;

/// Frames promised to each domain, by slot, and in all. Changed by whom has the lock of the free frames.
#[derive(Debug)]
pub(super) struct Claims {
    of: [AtomicU32; MAX_DOMAINS],
    all: AtomicU32,
}

impl Claims {
    pub(super) const fn new() -> Self {
        Self { of: [const { AtomicU32::new(0) }; MAX_DOMAINS], all: AtomicU32::new(0) }
    }

    /// Whether there are any: nearly always there are none, and nothing more has to be looked at.
    #[inline]
    pub(super) fn is_any(&self) -> bool {
        self.all.load(Ordering::Relaxed) != 0
    }

    fn of(&self, owner: Owner) -> Option<&AtomicU32> {
        self.of.get(owner.slot()?)
    }

    /// Whether taking `pages` of `free` frames for `owner` would break a promise to somebody else.
    #[cold]
    pub(super) fn forbid(&self, owner: Owner, pages: u32, free: u32) -> bool {
        let own = self.of(owner).map_or(0, |claim| claim.load(Ordering::Relaxed));
        let others = self.all.load(Ordering::Relaxed).saturating_sub(own);
        free.saturating_sub(others) < pages
    }

    fn lower(&self, owner: Owner, pages: u32) {
        let Some(claim) = self.of(owner) else { return };
        let left = claim.load(Ordering::Relaxed);
        let lower = left.min(pages);
        claim.store(left - lower, Ordering::Relaxed);
        self.all.fetch_sub(lower, Ordering::Relaxed);
    }
}

impl FrameTable {
    /// Promises `owner` that it can have `pages` frames in all.
    ///
    /// # Errors
    /// `Inval` if there is a promise already, or `owner` has so many frames; `NoMem` if there are not so many.
    pub fn claim(&self, owner: Owner, pages: u32) -> Result<(), Errno> {
        let free = self.free.lock();
        let claim = self.claims.of(owner).ok_or(Errno::Inval)?;
        let has = self.reserved_counter(owner).map_or(0, |n| n.load(Ordering::Relaxed));
        if claim.load(Ordering::Relaxed) != 0 || pages <= has {
            return Err(Errno::Inval);
        }
        if self.claims.forbid(owner, pages - has, free.count()) {
            return Err(Errno::NoMem);
        }
        claim.store(pages - has, Ordering::Relaxed);
        self.claims.all.fetch_add(pages - has, Ordering::Relaxed);
        Ok(())
    }

    /// Ends what is left of a promise.
    pub fn end_claim(&self, owner: Owner) {
        self.redeem(owner, u32::MAX);
    }

    /// Frames still promised to the domain in `slot`.
    #[must_use]
    pub fn claimed_by(&self, slot: usize) -> u32 {
        self.claims.of.get(slot).map_or(0, |claim| claim.load(Ordering::Relaxed))
    }

    /// Frames still promised to all domains.
    #[must_use]
    pub fn claimed(&self) -> u32 {
        self.claims.all.load(Ordering::Relaxed)
    }

    /// `owner` got so many frames of those promised.
    #[cold]
    pub(super) fn redeem(&self, owner: Owner, pages: u32) {
        let _free = self.free.lock();
        self.claims.lower(owner, pages);
    }
}
