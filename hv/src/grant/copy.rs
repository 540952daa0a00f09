//! Copies between granted frames, the caller's own, or both (`GNTTABOP_copy`).

use super::{
    Claim, Grants, Peer, Table, drop_frame,
    entry::{Access, Status},
    lock_both, take_frame,
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
    let source = End::claim(caller, from, table, &op.source, Access::Read, by_ref[0])?;
    let dest_table = other.as_mut().map_or(&mut *table, |other| &mut other.table);
    let outcome = End::claim(caller, to, dest_table, &op.dest, Access::Write, by_ref[1]).and_then(|dest| {
        let outcome = copy_bytes(caller, source.frame, dest.frame, op);
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
        take_frame(hv, owner, frame, access).map_err(|_| abi::GNTST_BAD_PAGE)?;
        Ok(Self { frame, access, claim: None })
    }

    #[inline]
    fn release<M: Machine>(self, caller: &Caller<'_, M>, table: &mut Table) {
        if let Some(claim) = self.claim {
            table.release(&caller.hv.machine, claim);
        }
        drop_frame(caller.hv, self.frame, self.access);
    }
}

#[inline]
fn copy_bytes<M: Machine>(caller: &Caller<'_, M>, source: Mfn, dest: Mfn, op: &GnttabCopy) -> Result<(), Status> {
    let [from, to, bytes] = [op.source.offset, op.dest.offset, op.len].map(usize::from);
    if from + bytes > PAGE_BYTES || to + bytes > PAGE_BYTES {
        return Err(abi::GNTST_BAD_COPY_ARG);
    }
    caller.hv.machine.copy_bytes(source, from, dest, to, bytes);
    Ok(())
}
