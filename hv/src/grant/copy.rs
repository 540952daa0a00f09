//! Copies between granted frames, the caller's own, or both (`GNTTABOP_copy`).

use super::{
    Claim, Peer, drop_frame,
    entry::{Access, Status},
    take_frame,
};
use crate::{
    addr::{Mfn, PAGE_BYTES},
    caller::Caller,
    domain::Domain,
    machine::Machine,
};
use alloc::sync::Arc;
use oxen_abi::{
    domid::DomId,
    grant_table::{self as abi, GnttabCopy, GnttabCopyPtr},
};

/// Whose frame one end of a copy is, and how the right to it was had.
struct End {
    owner: Arc<Domain>,
    frame: Mfn,
    access: Access,
    claim: Option<Claim>,
}

/// The domains of the copy before, which are often those of the next.
#[derive(Debug, Default)]
pub struct Peers {
    source: Peer,
    dest: Peer,
}

/// Does one copy.
///
/// # Errors
/// The status; nothing was copied then.
pub fn copy<M: Machine>(caller: &Caller<'_, M>, peers: &mut Peers, op: &GnttabCopy) -> Result<(), Status> {
    let by_reference = |flag: u16| op.flags & flag != 0;
    let source_by_ref = by_reference(abi::GNTCOPY_SOURCE_GREF);
    let dest_by_ref = by_reference(abi::GNTCOPY_DEST_GREF);
    let source_owner = owner(caller, &mut peers.source, &op.source, source_by_ref)?;
    let dest_owner = owner(caller, &mut peers.dest, &op.dest, dest_by_ref)?;
    let source = claim(caller, source_owner, &op.source, Access::Read, source_by_ref)?;
    let outcome = claim(caller, dest_owner, &op.dest, Access::Write, dest_by_ref).and_then(|dest| {
        let outcome = copy_bytes(caller, &source, &dest, op);
        release(caller, dest);
        outcome
    });
    release(caller, source);
    outcome
}

/// Whose frame it is: another domain's only by reference.
fn owner<M: Machine>(
    caller: &Caller<'_, M>,
    peer: &mut Peer,
    end: &GnttabCopyPtr,
    by_reference: bool,
) -> Result<Arc<Domain>, Status> {
    if end.domid == DomId::SELF {
        return Ok(Arc::clone(caller.domain));
    }
    if !by_reference {
        return Err(abi::GNTST_PERMISSION_DENIED);
    }
    peer.get(caller.hv, end.domid).cloned()
}

fn claim<M: Machine>(
    caller: &Caller<'_, M>,
    owner: Arc<Domain>,
    end: &GnttabCopyPtr,
    access: Access,
    by_reference: bool,
) -> Result<End, Status> {
    let hv = caller.hv;
    if by_reference {
        let claim = owner.grants.lock().table.claim(hv, &owner, caller.domain, end.u as u32, access, false)?;
        return Ok(End { owner, frame: claim.frame, access, claim: Some(claim) });
    }
    let frame = Mfn::new(end.u).ok_or(abi::GNTST_BAD_PAGE)?;
    take_frame(hv, &owner, frame, access).map_err(|_| abi::GNTST_BAD_PAGE)?;
    Ok(End { owner, frame, access, claim: None })
}

fn release<M: Machine>(caller: &Caller<'_, M>, end: End) {
    if let Some(claim) = end.claim {
        end.owner.grants.lock().table.release(&caller.hv.machine, claim);
    }
    drop_frame(caller.hv, end.frame, end.access);
}

fn copy_bytes<M: Machine>(caller: &Caller<'_, M>, source: &End, dest: &End, op: &GnttabCopy) -> Result<(), Status> {
    let [from, to, bytes] = [op.source.offset, op.dest.offset, op.len].map(usize::from);
    if from + bytes > PAGE_BYTES || to + bytes > PAGE_BYTES {
        return Err(abi::GNTST_BAD_COPY_ARG);
    }
    caller.hv.machine.copy_bytes(source.frame, from, dest.frame, to, bytes);
    Ok(())
}
