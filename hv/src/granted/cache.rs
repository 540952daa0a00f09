//! Cache maintenance on granted pages (`GNTTABOP_cache_flush`).

use crate::{
    addr::{MachineAddr, Mfn, PAGE_BYTES},
    caller::Caller,
    domain::Domain,
    grant::entry,
    machine::Machine,
    reply::Stop,
};
use oxen_abi::{
    errno::Errno,
    grant_table::{CacheFlags, GnttabCacheFlush},
};

/// Entries of a table that are looked at between two looks for something more urgent: as many as a step of the
/// continuation that the ABI keeps in the command's upper bits.
const STEP: u32 = 4096;

impl<M: Machine> Caller<'_, M> {
    /// Judges a request to flush part of a page that is the caller's or granted to it and in use, looking at its
    /// owner's entries from `first` on. Caches are coherent with all that reads memory on this machine, so there is
    /// nothing to be flushed then.
    ///
    /// # Errors
    /// `Inval` for a range or an operation that cannot be, for what is no memory, and for a page that another domain
    /// has not granted to the caller; `OpNotSupp` for dropping what was written, and for a page by its reference;
    /// `Perm` for a page that is no domain's; `IlSeq` where nothing is asked for, but from another entry than the first
    /// on. `Unfinished` with `first` moved on, below which no entry grants the page to the caller: call again.
    pub fn flush_granted_cache(&self, op: &GnttabCacheFlush, first: &mut u32) -> Result<(), Stop> {
        let wanted = CacheFlags::from_bits(op.op).ok_or(Errno::Inval)?;
        let end = usize::from(op.offset) + usize::from(op.length);
        if usize::from(op.offset) >= PAGE_BYTES || end > PAGE_BYTES || wanted.contains(CacheFlags::SOURCE_GREF) {
            return Err(Errno::Inval.into());
        }
        if op.length == 0 || wanted.is_empty() {
            return if *first == 0 { Ok(()) } else { Err(Errno::IlSeq.into()) };
        }
        let frames = &self.hv.memory.frames;
        let frame =
            Mfn::containing(MachineAddr::new(op.a)).filter(|frame| frame.index() < frames.end()).ok_or(Errno::Inval)?;
        let state = frames.state(frame);
        let owner = state.owner().slot().filter(|_| state.refs() != 0);
        let owner = owner.and_then(|slot| self.hv.domains.in_slot(slot)).ok_or(Errno::Perm)?;
        if owner.id != self.domain.id {
            check_granted(&owner, self.domain, frame, first)?;
        }
        if wanted == CacheFlags::INVAL { Err(Errno::OpNotSupp.into()) } else { Ok(()) }
    }
}

/// Whether one of a row of entries grants the frame to the grantee, who uses it.
fn check_granted(granter: &Domain, grantee: &Domain, frame: Mfn, first: &mut u32) -> Result<(), Stop> {
    let grants = granter.grants.lock();
    let end = first.saturating_add(STEP);
    let slot = entry::slot(grantee.owner());
    let mut row = grants.table.pinned(*first..end);
    if row.any(|(_, pins)| Some(pins.slot()) == slot && pins.frame() == Some(frame)) {
        return Ok(());
    }
    if end >= grants.table.entries() {
        return Err(Errno::Inval.into());
    }
    *first = end;
    Err(Stop::Unfinished)
}
