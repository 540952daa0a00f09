//! Copies where version 2 has a part: from and to parts of pages, and through offers that pass another domain's on.
//! While any domain's writes are logged, all copies.
//!
//! An offer that is passed on is used as if its granter used the other domain's entry: that one is claimed in the
//! granter's name, and may not be passed on itself. To find out whose it is a table must be looked at, and to hold all
//! tables they must be locked in their order: so it is looked up first, and judged again when all are locked. What was
//! looked up meanwhile is worth no more than that.

use crate::{
    Hypervisor,
    addr::Mfn,
    caller::Caller,
    domain::Domain,
    grant::{
        Claim, Grants, Offer, Table,
        entry::{Access, Shared, Status},
        entry_v2::Extent,
    },
    lock::Guard,
    machine::Machine,
    mem::Held,
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    domid::DomId,
    grant_table::{self as abi, GnttabCopy, GnttabCopyPtr},
};

/// How often an entry may say that it passes on another domain's offer than a moment before.
const ATTEMPTS: u32 = 5;
/// Tables that a copy can need: those of two granters, and of two whose offers these pass on.
const MAX_TABLES: usize = 4;

impl<M: Machine> Caller<'_, M> {
    /// Does a copy between frames of `from` and `to`, by reference as `by_ref` says.
    #[cold]
    #[inline(never)]
    pub(crate) fn copy_parts(
        &self,
        (from, to): (&Domain, &Domain),
        by_ref: [bool; 2],
        op: &GnttabCopy,
    ) -> Result<(), Status> {
        let ends = [(from, &op.source), (to, &op.dest)];
        for _ in 0..ATTEMPTS {
            let mut behind: [Option<Arc<Domain>>; 2] = [None, None];
            for (place, ((owner, end), by_ref)) in behind.iter_mut().zip(ends.into_iter().zip(by_ref)) {
                if by_ref {
                    *place = self.hv.behind_entry(owner, end.u as u32);
                }
            }
            let [first, second] = &behind;
            let mut tables = Tables::lock([Some(from), Some(to), first.as_deref(), second.as_deref()]);
            match self.copy_parts_locked(&mut tables, ends, by_ref, op) {
                Err(Failure::Unlocked) => {}
                Err(Failure::Told(status)) => return Err(status),
                Ok(()) => return Ok(()),
            }
        }
        Err(abi::GNTST_GENERAL_ERROR)
    }
}

/// Why a copy was not done.
enum Failure {
    /// The guest is told.
    Told(Status),
    /// A table takes part that is not locked: an entry has changed.
    Unlocked,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Told(status)
    }
}

impl<M: Machine> Hypervisor<M> {
    /// The domain whose offer the entry passes on at this moment.
    #[inline(never)]
    fn behind_entry(&self, granter: &Domain, reference: u32) -> Option<Arc<Domain>> {
        let grants = granter.grants.lock();
        let entry = grants.table.entry_v2(self.machine(), reference)?;
        let id = Shared(entry.head.load(Ordering::Acquire)).passed_from()?;
        drop(grants);
        self.domains.get(id)
    }
}

/// The tables of some domains, locked in their order.
struct Tables<'d>([Option<(&'d Domain, Guard<'d, Grants>)>; MAX_TABLES]);

impl<'d> Tables<'d> {
    #[inline(never)]
    fn lock(domains: [Option<&'d Domain>; MAX_TABLES]) -> Self {
        let mut locked = [const { None }; MAX_TABLES];
        let mut last = None;
        for place in &mut locked {
            let mut next: Option<&Domain> = None;
            for domain in domains.into_iter().flatten() {
                if last.is_none_or(|last| domain.id > last) && next.is_none_or(|next| domain.id < next.id) {
                    next = Some(domain);
                }
            }
            let Some(next) = next else { break };
            let is_first = last.replace(next.id).is_none();
            *place = Some((next, if is_first { next.grants.lock() } else { next.grants.lock_next() }));
        }
        Self(locked)
    }

    /// A domain whose table is locked, and the table.
    #[inline(never)]
    fn of(&mut self, id: DomId) -> Option<(&'d Domain, &mut Table)> {
        let (domain, grants) = self.0.iter_mut().flatten().find(|(domain, _)| domain.id == id)?;
        Some((domain, &mut grants.table))
    }
}

/// One end of a copy: some bytes of a frame, and what is to be given back afterwards.
struct End<'a> {
    held: Held<'a>,
    access: Access,
    extent: Extent,
    /// The entry that is pinned, and in whose table it is.
    pinned: Option<(DomId, u32)>,
    /// The entry that passed it on.
    through: Option<(DomId, u32)>,
}

impl<M: Machine> Caller<'_, M> {
    #[inline(never)]
    fn copy_parts_locked(
        &self,
        tables: &mut Tables<'_>,
        [(from, source), (to, dest)]: [(&Domain, &GnttabCopyPtr); 2],
        by_ref: [bool; 2],
        op: &GnttabCopy,
    ) -> Result<(), Failure> {
        let source = End::take(self, tables, (from.id, source, by_ref[0]), Access::Read, None)?;
        let outcome =
            End::take(self, tables, (to.id, dest, by_ref[1]), Access::Write, Some(&source)).and_then(|dest| {
                let (from, to) = ((source.held.frame(), source.extent), (dest.held.frame(), dest.extent));
                let outcome = self.copy_granted_bytes(from, to, op);
                self.hv.memory.note_written(to.0);
                dest.give_back(self, tables);
                outcome.map_err(Failure::Told)
            });
        source.give_back(self, tables);
        outcome
    }
}

impl<'a> End<'a> {
    /// Takes what a copy names. `other` is its other end, taken before.
    #[inline(never)]
    fn take<M: Machine>(
        caller: &Caller<'a, M>,
        tables: &mut Tables<'_>,
        (owner, end, by_ref): (DomId, &GnttabCopyPtr, bool),
        access: Access,
        other: Option<&End<'_>>,
    ) -> Result<Self, Failure> {
        let hv = caller.hv;
        let reference = end.u as u32;
        let (owner, table) = tables.of(owner).ok_or(Failure::Unlocked)?;
        if !by_ref {
            let held = hv.memory.hold_granted(owner.memory.named(), Mfn::new(end.u), access)?;
            return Ok(Self { held, access, extent: Extent::WHOLE, pinned: None, through: None });
        }
        match table.claim_offer(&hv.memory, owner.memory.named(), caller.domain.party(), reference, access, false)? {
            Offer::Page(claim, extent) => Ok(Self::new(owner.id, claim, access, extent, other)),
            Offer::PassedOn(id, next) => {
                let outcome = Self::take_passed(caller, tables, owner, (id, next), access, other);
                match outcome {
                    Ok(end) => Ok(Self { through: Some((owner.id, reference)), ..end }),
                    Err(failure) => {
                        unmark(caller, tables, (owner.id, reference), access);
                        Err(failure)
                    }
                }
            }
        }
    }

    /// Takes what another domain granted to `granter`, who passes it on.
    fn take_passed<M: Machine>(
        caller: &Caller<'a, M>,
        tables: &mut Tables<'_>,
        granter: &Domain,
        (id, reference): (DomId, u32),
        access: Access,
        other: Option<&End<'_>>,
    ) -> Result<Self, Failure> {
        let hv = caller.hv;
        // Nobody passes on what is its own.
        if !hv.grants.is_transitive || id == granter.id {
            return Err(abi::GNTST_GENERAL_ERROR.into());
        }
        let Some((owner, table)) = tables.of(id) else {
            return Err(if hv.domains.get(id).is_some() { Failure::Unlocked } else { abi::GNTST_GENERAL_ERROR.into() });
        };
        match table.claim_offer(&hv.memory, owner.memory.named(), granter.party(), reference, access, false)? {
            Offer::Page(claim, extent) => Ok(Self::new(id, claim, access, extent, other)),
            Offer::PassedOn(..) => {
                unmark(caller, tables, (id, reference), access);
                Err(abi::GNTST_GENERAL_ERROR.into())
            }
        }
    }

    /// An end that was claimed. Where both are by the same entry, the second finds it pinned, as the part that the
    /// first one was told.
    fn new(owner: DomId, claim: Claim<'a>, access: Access, extent: Extent, other: Option<&End<'_>>) -> Self {
        let pinned = Some((owner, claim.reference));
        let extent = other.filter(|end| end.pinned == pinned).map_or(extent, |end| end.extent);
        Self { held: claim.held, access, extent, pinned, through: None }
    }

    #[inline(never)]
    fn give_back<M: Machine>(self, caller: &Caller<'_, M>, tables: &mut Tables<'_>) {
        if let Some((id, reference)) = self.pinned
            && let Some((_, table)) = tables.of(id)
        {
            table.release(caller.hv.machine(), reference, self.access);
        }
        if let Some(through) = self.through {
            unmark(caller, tables, through, self.access);
        }
    }
}

/// Takes the marks off an entry that passed something on, which was not pinned.
#[inline(never)]
fn unmark<M: Machine>(
    caller: &Caller<'_, M>,
    tables: &mut Tables<'_>,
    (owner, reference): (DomId, u32),
    access: Access,
) {
    if let Some((_, table)) = tables.of(owner) {
        table.unmark(caller.hv.machine(), reference, table.pins(reference), access);
    }
}
