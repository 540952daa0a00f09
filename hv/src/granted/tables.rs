//! Whole tables: locked, grown, changed in version.

use crate::{
    Hypervisor,
    domain::{Domain, table::DomainTable},
    grant::{FRAMES_PER_STATUS, Grants, entry::Status},
    lock::{Guard, both},
    machine::Machine,
    mem::RamFrame,
};
use alloc::sync::Arc;
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    grant_table::{self as abi, GNTTAB_NR_RESERVED_ENTRIES},
};

/// The grants of a domain and of another, or of the same.
pub(crate) fn lock_both<'a>(domain: &'a Domain, other: &'a Domain) -> (Guard<'a, Grants>, Option<Guard<'a, Grants>>) {
    both((domain.id.0.into(), &domain.grants), (other.id.0.into(), &other.grants))
}

/// The domain that an operation of a batch names, looked up once for a row of the same.
#[derive(Debug, Default)]
pub struct Peer(Option<(DomId, Arc<Domain>)>);

impl Peer {
    /// The domain of this id.
    ///
    /// # Errors
    /// `GNTST_bad_domain` if it does not exist.
    pub fn get(&mut self, domains: &DomainTable, id: DomId) -> Result<&Arc<Domain>, Status> {
        if self.0.as_ref().is_none_or(|(known, _)| *known != id) {
            self.0 = Some((id, domains.get(id).ok_or(abi::GNTST_BAD_DOMAIN)?));
        }
        self.0.as_ref().map(|(_, domain)| domain).ok_or(abi::GNTST_BAD_DOMAIN)
    }
}

impl<M: Machine> Hypervisor<M> {
    /// The frame that holds a part of a domain's table, made if it is not there yet: for `GNTTABOP_setup_table` and for
    /// the toolstack, which writes the first entries (`XENMEM_acquire_resource`).
    ///
    /// # Errors
    /// `Inval` beyond the table's limit, `NoMem` for the frame.
    pub fn grant_table_frame(&self, domain: &Domain, index: u32) -> Result<RamFrame, Errno> {
        let mut grants = domain.grants.lock();
        grants.table.grow(&self.memory, domain.owner(), index as usize + 1)?;
        grants.table.frames.get(index as usize).copied().ok_or(Errno::Inval)
    }

    /// The frame that holds a part of a domain's status words, made if it is not there yet, and the frames whose status
    /// that is with it (`XENMEM_acquire_resource`).
    ///
    /// # Errors
    /// `Inval` in version 1 and beyond the table's limit, `NoMem` for the frames.
    pub fn grant_status_frame(&self, domain: &Domain, index: u32) -> Result<RamFrame, Errno> {
        let mut grants = domain.grants.lock();
        let table = &mut grants.table;
        let index = index as usize;
        if table.status.is_some() && index >= table.status_frames().len() {
            table.grow(&self.memory, domain.owner(), (index + 1) * FRAMES_PER_STATUS)?;
        }
        table.status_frames().get(index).copied().ok_or(Errno::Inval)
    }

    /// Makes a domain's table at least `count` frames long.
    ///
    /// # Errors
    /// As `table_frame`.
    pub fn grow_grant_table(&self, domain: &Domain, count: u32) -> Result<(), Errno> {
        domain.grants.lock().table.grow(&self.memory, domain.owner(), count as usize)
    }

    /// Makes a domain's table one of this version: empty, but for the reserved entries. Answers which version is in
    /// force now, changed or not.
    ///
    /// # Errors
    /// `Inval` for a version that there is not, `NoSys` for one that the domain may not have, `Busy` while an entry
    /// which is not reserved, or a status frame, is in use, `Range` for reserved entries that version 1 cannot hold,
    /// `NoMem` for the status frames. Nothing has changed then.
    #[cold]
    #[inline(never)]
    pub fn set_grant_version(&self, domain: &Domain, wanted: u32) -> (Result<(), Errno>, u32) {
        let mut grants = domain.grants.lock();
        let table = &mut grants.table;
        let outcome = match wanted {
            0 | 3.. => Err(Errno::Inval),
            2 if table.max_version < 2 => Err(Errno::NoSys),
            _ if wanted == table.version() => Ok(()),
            _ if table.is_closed() => Err(Errno::Inval),
            _ if table.pinned(GNTTAB_NR_RESERVED_ENTRIES..u32::MAX).next().is_some() => Err(Errno::Busy),
            1 => table.become_v1(&self.memory, domain.owner()),
            _ => table.become_v2(&self.memory, domain.owner()),
        };
        (outcome, table.version())
    }

    /// Exchanges two entries that nobody uses (`GNTTABOP_swap_grant_ref`).
    ///
    /// # Errors
    /// `GNTST_bad_gntref`, or `GNTST_eagain` if somebody does.
    pub fn swap_grants(&self, domain: &Domain, a: u32, b: u32) -> Result<(), Status> {
        let grants = domain.grants.lock();
        let table = &grants.table;
        if a >= table.entries() || b >= table.entries() {
            return Err(abi::GNTST_BAD_GNTREF);
        }
        // With itself there is nothing to do, in use or not.
        if a == b {
            return Ok(());
        }
        if table.pins(a).in_use() || table.pins(b).in_use() {
            return Err(abi::GNTST_EAGAIN);
        }
        table.exchange(self.machine(), a, b);
        Ok(())
    }
}
