//! `memory_op`: what only domains with translated frames can have done (`memory.h`). Xen looks at what it is told
//! first, and so the answer depends on it.

use crate::{
    caller::Caller,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Reply, Stop},
};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    memory::{
        XENMEM_ACCESS_OP, XENMEM_ADD_TO_PHYSMAP, XENMEM_ADD_TO_PHYSMAP_BATCH, XENMEM_GET_POD_TARGET,
        XENMEM_MACHPHYS_COMPAT_MFN_LIST, XENMEM_REMOVE_FROM_PHYSMAP, XENMEM_RESERVED_DEVICE_MEMORY_MAP,
        XENMEM_SET_POD_TARGET,
    },
};

/// `XENMAPSPACE_gmfn_foreign`: frames of other domains are not added one by one.
const SPACE_FOREIGN: u32 = 4;
/// `XENMEM_RDM_ALL`, the only flag of `struct xen_reserved_device_memory_map`.
const ALL_DEVICES: u32 = 1;

impl<M: Machine> Caller<'_, M> {
    /// Refuses an operation, or says that there is nothing.
    ///
    /// # Errors
    /// As Xen's for a PV domain: `Fault`, `Srch`, `Perm` and `Inval` for what is asked, then that it cannot be.
    pub(super) fn refuse_memory_op(&self, operation: u32, argument: u64) -> Reply {
        let error = match operation {
            XENMEM_ADD_TO_PHYSMAP => {
                let [first, _, _] = self.read_memory_op(argument)?;
                if (first >> 32) as u32 == SPACE_FOREIGN {
                    return Err(Errno::NoSys.into());
                }
                self.check_domain_exists(first as u16)?;
                Errno::Acces
            }
            XENMEM_REMOVE_FROM_PHYSMAP => {
                let [first, _] = self.read_memory_op(argument)?;
                self.check_domain_exists(first as u16)?;
                Errno::Acces
            }
            XENMEM_ADD_TO_PHYSMAP_BATCH => {
                let [first, ..] = self.read_memory_op::<4>(argument)?;
                self.check_domain_exists(first as u16)?;
                Errno::Acces
            }
            XENMEM_SET_POD_TARGET | XENMEM_GET_POD_TARGET => {
                let [_, _, _, _, last] = self.read_memory_op(argument)?;
                self.check_domain_exists(last as u16)?;
                Errno::Inval
            }
            XENMEM_ACCESS_OP => {
                let [first, ..] = self.read_memory_op::<4>(argument)?;
                let id = DomId((first >> 16) as u16);
                // Of another domain alone, by its own name.
                if id == self.domain.id {
                    return Err(Errno::Perm.into());
                }
                self.hv.domains.get(id).ok_or(Errno::Srch)?;
                Errno::Inval
            }
            XENMEM_RESERVED_DEVICE_MEMORY_MAP => return self.get_reserved_device_memory(argument),
            XENMEM_MACHPHYS_COMPAT_MFN_LIST => Errno::OpNotSupp,
            _ => Errno::NoSys,
        };
        Err(error.into())
    }

    /// Memory that devices keep for themselves: there is none.
    fn get_reserved_device_memory(&self, argument: u64) -> Reply {
        let [first, list, device] = self.read_memory_op(argument)?;
        // Where the list begins is looked at before all else, and its first byte alone.
        GuestPtr::<u8>::one(list)?;
        let flags = first as u32;
        if flags & !ALL_DEVICES != 0 {
            return Err(Errno::Inval.into());
        }
        let place = GuestPtr::<[u64; 3]>::one(argument)?;
        place.write(self.hv.machine(), 0, &[flags.into(), list, device])?;
        Ok(0)
    }

    fn read_memory_op<const N: usize>(&self, argument: u64) -> Result<[u64; N], Errno> {
        GuestPtr::<[u64; N]>::one(argument)?.read_words(self.hv.machine(), 0)
    }

    /// Whether there is such a domain.
    fn check_domain_exists(&self, id: u16) -> Result<(), Stop> {
        let is_known = DomId(id) == DomId::SELF || self.hv.domains.get(DomId(id)).is_some();
        if is_known { Ok(()) } else { Err(Errno::Srch.into()) }
    }
}
