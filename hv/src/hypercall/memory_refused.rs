//! `memory_op`: what only domains with translated frames can have done (`memory.h`). Xen looks at what it is told
//! first, and so the answer depends on it.

use super::{
    commands::MemoryCommand,
    number::{domid, uint},
};
use crate::{caller::Caller, machine::Machine, mem::guest_ptr::GuestPtr, reply::Reply};
use oxen_abi::errno::Errno;

/// `XENMAPSPACE_gmfn_foreign`: frames of other domains are not added one by one.
const SPACE_FOREIGN: u32 = 4;
/// `XENMEM_RDM_ALL`, the only flag of `struct xen_reserved_device_memory_map`.
const ALL_DEVICES: u32 = 1;

impl<M: Machine> Caller<'_, M> {
    /// Refuses an operation, or says that there is nothing.
    ///
    /// # Errors
    /// As Xen's for a PV domain: `Fault`, `Srch`, `Perm` and `Inval` for what is asked, then that it cannot be.
    pub(super) fn refuse_memory_op(&self, command: MemoryCommand, argument: u64) -> Reply {
        let error = match command {
            MemoryCommand::AddToPhysmap => {
                let request @ [first, _, _] = self.read_memory_op(argument)?;
                if uint(first >> 32) == SPACE_FOREIGN {
                    return Err(Errno::NoSys.into());
                }
                match self.placed_domain(first)? {
                    Some(domain) => return self.add_to_physmap(&domain, request),
                    None => Errno::Acces,
                }
            }
            MemoryCommand::RemoveFromPhysmap => {
                let [first, gfn] = self.read_memory_op(argument)?;
                match self.placed_domain(first)? {
                    Some(domain) => return self.remove_from_physmap(&domain, gfn),
                    None => Errno::Acces,
                }
            }
            MemoryCommand::AddToPhysmapBatch => {
                let [first, ..] = self.read_memory_op::<4>(argument)?;
                self.named_domain(domid(first))?;
                Errno::Acces
            }
            MemoryCommand::SetPodTarget | MemoryCommand::GetPodTarget => {
                let [_, _, _, _, last] = self.read_memory_op(argument)?;
                self.named_domain(domid(last))?;
                Errno::Inval
            }
            MemoryCommand::AccessOp => {
                let [first, ..] = self.read_memory_op::<4>(argument)?;
                let id = domid(first >> 16);
                // Of another domain alone, by its own name.
                if id == self.domain.id {
                    return Err(Errno::Perm.into());
                }
                self.hv.domains.get(id).ok_or(Errno::Srch)?;
                Errno::Inval
            }
            MemoryCommand::ReservedDeviceMemoryMap => return self.get_reserved_device_memory(argument),
            MemoryCommand::MachphysCompatMfnList => Errno::OpNotSupp,
            _ => Errno::NoSys,
        };
        Err(error.into())
    }

    /// Memory that devices keep for themselves: there is none.
    fn get_reserved_device_memory(&self, argument: u64) -> Reply {
        let [first, list, device] = self.read_memory_op(argument)?;
        // Where the list begins is looked at before all else, and its first byte alone.
        GuestPtr::<u8>::one(list)?;
        let flags = uint(first);
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
}
