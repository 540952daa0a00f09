//! Copies between granted frames, the caller's own, or both (`GNTTABOP_copy`). Those of version 1 are done here; what version
//! 2 has a part in is [`parts`]'.

use super::{
    Grants, Peer,
    claim::Claim,
    drop_frame,
    entry::{Access, Status},
    entry_v2::Extent,
    lock_both, parts, refusal,
    table::Table,
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

/// Does copies, and fills in statuses. Answers how many: all.
pub fn copy<M: Machine>(caller: &Caller<'_, M>, ops: &mut [GnttabCopy]) -> usize {
    let (mut sources, mut dests) = (Peer::default(), Peer::default());
    for op in ops.iter_mut() {
        op.status = copy_one(caller, &mut sources, &mut dests, op).err().unwrap_or(abi::GNTST_OKAY);
    }
    ops.len()
}

#[inline]
fn copy_one<M: Machine>(
    caller: &Caller<'_, M>,
    sources: &mut Peer,
    dests: &mut Peer,
    op: &GnttabCopy,
) -> Result<(), Status> {
    let by_ref = [abi::GNTCOPY_SOURCE_GREF, abi::GNTCOPY_DEST_GREF].map(|flag| op.flags & flag != 0);
    let from = owner(caller, sources, &op.source, by_ref[0])?;
    let to = owner(caller, dests, &op.dest, by_ref[1])?;
    // The tables stay locked until the copy is done.
    let (mut own, mut other) = lock_both(from, to);
    let Grants { table, .. } = &mut *own;
    let is_known = |table: &Table, end: &GnttabCopyPtr, by_ref: bool| !by_ref || (end.u as u32) < table.v1_entries;
    let dest_table = other.as_ref().map_or(&*table, |other| &other.table);
    if !is_known(table, &op.source, by_ref[0]) || !is_known(dest_table, &op.dest, by_ref[1]) {
        drop((own, other));
        return parts::copy(caller, (&**from, &**to), by_ref, op);
    }
    let source = End::claim(caller, from, table, &op.source, Access::Read, by_ref[0])?;
    let dest_table = other.as_mut().map_or(&mut *table, |other| &mut other.table);
    let outcome = End::claim(caller, to, dest_table, &op.dest, Access::Write, by_ref[1]).and_then(|dest| {
        let outcome = copy_bytes(caller, (source.frame, Extent::WHOLE), (dest.frame, Extent::WHOLE), op);
        dest.release(caller, dest_table);
        outcome
    });
    source.release(caller, table);
    outcome
}

/// Whose frame it is: another domain's only by reference.
#[inline]
fn owner<'a, M: Machine>(
    caller: &Caller<'a, M>,
    peer: &'a mut Peer,
    end: &GnttabCopyPtr,
    by_reference: bool,
) -> Result<&'a Arc<Domain>, Status> {
    if end.domid == DomId::SELF {
        Ok(caller.domain)
    } else if by_reference {
        peer.get(caller.hv, end.domid)
    } else {
        Err(abi::GNTST_PERMISSION_DENIED)
    }
}

/// One end of a copy: a frame, and the claim to it where it was granted.
#[derive(Clone, Copy)]
struct End {
    frame: Mfn,
    access: Access,
    claim: Option<Claim>,
}

impl End {
    #[inline]
    fn claim<M: Machine>(
        caller: &Caller<'_, M>,
        owner: &Domain,
        table: &mut Table,
        end: &GnttabCopyPtr,
        access: Access,
        by_reference: bool,
    ) -> Result<Self, Status> {
        let hv = caller.hv;
        if by_reference {
            let claim = table.claim(hv, owner, caller.domain, end.u as u32, access, false)?;
            return Ok(Self { frame: claim.frame, access, claim: Some(claim) });
        }
        let frame = Mfn::new(end.u).ok_or(abi::GNTST_BAD_PAGE)?;
        take_frame(hv, owner, frame, access).map_err(refusal)?;
        Ok(Self { frame, access, claim: None })
    }

    #[inline]
    fn release<M: Machine>(self, caller: &Caller<'_, M>, table: &mut Table) {
        if let Some(claim) = self.claim {
            table.release(caller.hv.machine(), claim);
        }
        drop_frame(caller.hv, self.frame, self.access);
    }
}

/// Copies what is inside of a page and of the part of it that is offered.
#[inline]
pub(super) fn copy_bytes<M: Machine>(
    caller: &Caller<'_, M>,
    (source, readable): (Mfn, Extent),
    (dest, writable): (Mfn, Extent),
    op: &GnttabCopy,
) -> Result<(), Status> {
    let [from, to, bytes] = [op.source.offset, op.dest.offset, op.len].map(usize::from);
    if from + bytes > PAGE_BYTES || to + bytes > PAGE_BYTES {
        return Err(abi::GNTST_BAD_COPY_ARG);
    }
    if !readable.holds(op.source.offset, op.len) || !writable.holds(op.dest.offset, op.len) {
        return Err(abi::GNTST_GENERAL_ERROR);
    }
    caller.hv.machine().copy_bytes(source, from, dest, to, bytes);
    Ok(())
}
