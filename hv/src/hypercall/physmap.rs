//! `memory_op` for domains whose frames are translated: what stands where in such a domain's memory (`memory.h`).

use super::number::{domid, uint};
use crate::{
    addr::Mfn,
    caller::{Caller, Named},
    domain::Domain,
    machine::Machine,
    mem::frame_alloc,
    reply::{Reply, Stop},
};
use oxen_abi::{
    errno::Errno,
    memory::{XENMAPSPACE_GRANT_TABLE, XENMAPSPACE_SHARED_INFO},
};

impl<M: Machine> Caller<'_, M> {
    /// `XENMEM_add_to_physmap`: puts the domain's `shared_info`, or a frame of its grant table, at a number. What stood
    /// there goes, and so does the place where the frame was before.
    ///
    /// # Errors
    /// `Perm` for another's domain, `Inval` for a space or an index that there is not, `NoMem` without memory.
    pub(super) fn add_to_physmap(&self, domain: &Domain, [first, index, gfn]: [u64; 3]) -> Reply {
        self.may_act_on(domain)?;
        let frame = match uint(first >> 32) {
            XENMAPSPACE_SHARED_INFO if index == 0 => domain.shared_info,
            XENMAPSPACE_GRANT_TABLE => {
                self.hv.grant_table_frame(domain, u32::try_from(index).map_err(|_| Errno::Inval)?)?
            }
            _ => return Err(Errno::Inval.into()),
        };
        let memory = &self.hv.memory;
        let before = memory.number_of(domain.owner(), frame.mfn());
        if before == Some(gfn) {
            return Ok(0);
        }
        if let Ok(stood) = memory.displace_frame(domain.owner(), gfn) {
            let _ = memory.frames.release_from_reservation(stood, domain.owner());
        }
        memory.place_frame(&domain.memory, gfn, frame.mfn())?;
        if let Some(before) = before {
            memory.displace_frame(domain.owner(), before)?;
        }
        Ok(0)
    }

    /// `XENMEM_remove_from_physmap`: takes what stands at a number away; a frame of the domain's memory is given back.
    ///
    /// # Errors
    /// `Perm` for another's domain, `NoEnt` where nothing stands.
    pub(super) fn remove_from_physmap(&self, domain: &Domain, gfn: u64) -> Reply {
        self.may_act_on(domain)?;
        self.give_up_frame(domain, gfn).map_err(|_| Errno::NoEnt)?;
        Ok(0)
    }

    /// A block of fresh frames behind the numbers from `gfn` on.
    pub(super) fn populate_translated(&self, domain: &Domain, gfn: u64, order: u32, limit: u64) -> Result<(), Stop> {
        let memory = &self.hv.memory;
        let first = memory.take_below(&domain.memory, order, limit)?;
        for (frame, gfn_of_frame) in frame_alloc::block(first, order).zip(gfn..) {
            if let Err(error) = memory.place_frame(&domain.memory, gfn_of_frame, frame) {
                (gfn..gfn_of_frame).for_each(|placed| {
                    let _ = memory.displace_frame(domain.owner(), placed);
                });
                frame_alloc::block(first, order).for_each(|frame| {
                    let _ = memory.frames.release_from_reservation(frame, domain.owner());
                });
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// The frame behind a number goes back, and nothing is there any more. What is not of the domain's reservation only
    /// loses its place.
    pub(super) fn give_up_frame(&self, domain: &Domain, gfn: u64) -> Result<(), Stop> {
        let frame: Mfn = self.hv.memory.displace_frame(domain.owner(), gfn)?;
        let _ = self.hv.memory.frames.release_from_reservation(frame, domain.owner());
        Ok(())
    }
}

impl<'a, M: Machine> Caller<'a, M> {
    /// The domain that an operation on places names, if its frames have any.
    pub(super) fn placed_domain(&self, first: u64) -> Result<Option<Named<'a>>, Errno> {
        let domain = self.named_domain(domid(first))?;
        Ok(Some(domain).filter(|domain| domain.memory.is_translated()))
    }
}
