//! Copies between granted frames, the caller's own, or both (`GNTTABOP_copy`). Those of version 1 are done here; what
//! version 2 has a part in, or is noted in a log, is `parts`'.

use super::{Peer, lock_both};
use crate::{
    addr::{Mfn, PAGE_BYTES},
    caller::Caller,
    domain::Domain,
    grant::{
        Grants, Table,
        entry::{Access, Status},
        entry_v2::Extent,
        refusal,
    },
    machine::Machine,
    mem::{Held, RamFrame},
};
use alloc::sync::Arc;
use oxen_abi::{
    domid::DomId,
    grant_table::{self as abi, CopyFlags, GnttabCopy, GnttabCopyPtr},
};

impl<M: Machine> Caller<'_, M> {
    /// Does copies, and fills in statuses. Returns how many: all.
    #[inline(never)]
    pub fn copy_grants(&self, ops: &mut [GnttabCopy]) -> usize {
        let (mut sources, mut dests) = (Peer::default(), Peer::default());
        for op in ops.iter_mut() {
            op.status = self.copy_one_grant(&mut sources, &mut dests, op).err().unwrap_or(abi::GNTST_OKAY);
        }
        ops.len()
    }

    #[inline]
    fn copy_one_grant(&self, sources: &mut Peer, dests: &mut Peer, op: &GnttabCopy) -> Result<(), Status> {
        let flags = CopyFlags::from_bits_retain(op.flags);
        let by_ref = [CopyFlags::SOURCE_GREF, CopyFlags::DEST_GREF].map(|flag| flags.contains(flag));
        let from = self.copy_owner(sources, &op.source, by_ref[0])?;
        let to = self.copy_owner(dests, &op.dest, by_ref[1])?;
        // The tables stay locked until the copy is done.
        let (mut own, mut other) = lock_both(from, to);
        let Grants { table, .. } = &mut *own;
        let is_known = |table: &Table, end: &GnttabCopyPtr, by_ref: bool| !by_ref || (end.u as u32) < table.v1_entries;
        let dest_table = other.as_ref().map_or(&*table, |other| &other.table);
        // Who begins a log, or cleans it, locks the table of the owner meanwhile, and so
        // waits for a copy without a note.
        let is_plain = is_known(table, &op.source, by_ref[0]) && is_known(dest_table, &op.dest, by_ref[1]);
        if !is_plain || self.hv.memory.is_any_logging() {
            drop((own, other));
            return self.copy_parts((&**from, &**to), by_ref, op);
        }
        let source = End::claim(self, from, table, &op.source, Access::Read, by_ref[0])?;
        let dest_table = other.as_mut().map_or(&mut *table, |other| &mut other.table);
        let outcome = End::claim(self, to, dest_table, &op.dest, Access::Write, by_ref[1]).and_then(|dest| {
            let (from, to) = (source.held.frame(), dest.held.frame());
            let outcome = self.copy_granted_bytes((from, Extent::WHOLE), (to, Extent::WHOLE), op);
            dest.release(self, dest_table);
            outcome
        });
        source.release(self, table);
        outcome
    }
}

impl<'a, M: Machine> Caller<'a, M> {
    /// Whose frame it is: another domain's only by reference.
    #[inline]
    fn copy_owner<'p>(
        &self,
        peer: &'p mut Peer,
        end: &GnttabCopyPtr,
        by_reference: bool,
    ) -> Result<&'p Arc<Domain>, Status>
    where
        'a: 'p,
    {
        if end.domid == DomId::SELF {
            Ok(self.domain)
        } else if by_reference {
            peer.get(&self.hv.domains, end.domid)
        } else {
            Err(abi::GNTST_PERMISSION_DENIED)
        }
    }
}

/// One end of a copy: a frame, and the entry that is pinned where it was granted.
struct End<'a> {
    held: Held<'a>,
    access: Access,
    pinned: Option<u32>,
}

impl<'a> End<'a> {
    #[inline(always)]
    fn claim<M: Machine>(
        caller: &Caller<'a, M>,
        owner: &Domain,
        table: &mut Table,
        end: &GnttabCopyPtr,
        access: Access,
        by_reference: bool,
    ) -> Result<Self, Status> {
        let hv = caller.hv;
        if by_reference {
            let claim =
                table.claim(&hv.memory, owner.memory.named(), caller.domain.party(), end.u as u32, access, false)?;
            return Ok(Self { held: claim.held, access, pinned: Some(claim.reference) });
        }
        let frame = Mfn::new(end.u).ok_or(abi::GNTST_BAD_PAGE)?;
        let held = hv.memory.hold_as(frame, owner.memory.named(), access.hold()).map_err(refusal)?;
        Ok(Self { held, access, pinned: None })
    }

    #[inline(always)]
    fn release<M: Machine>(self, caller: &Caller<'_, M>, table: &mut Table) {
        if let Some(reference) = self.pinned {
            table.release(caller.hv.machine(), reference, self.access);
        }
    }
}

impl<M: Machine> Caller<'_, M> {
    /// Copies what is inside of a page and of the part of it that is offered.
    #[inline]
    pub(crate) fn copy_granted_bytes(
        &self,
        (source, readable): (RamFrame, Extent),
        (dest, writable): (RamFrame, Extent),
        op: &GnttabCopy,
    ) -> Result<(), Status> {
        let [from, to, bytes] = [op.source.offset, op.dest.offset, op.len].map(usize::from);
        if from + bytes > PAGE_BYTES || to + bytes > PAGE_BYTES {
            return Err(abi::GNTST_BAD_COPY_ARG);
        }
        if !readable.holds(op.source.offset, op.len) || !writable.holds(op.dest.offset, op.len) {
            return Err(abi::GNTST_GENERAL_ERROR);
        }
        self.hv.machine().copy_bytes(source, from, dest, to, bytes);
        Ok(())
    }
}
