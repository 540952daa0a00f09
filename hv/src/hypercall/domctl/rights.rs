//! What of the machine a domain may use.

use super::{Answer, Outcome};
use crate::hypercall::number::{index, ushort};
use crate::{
    caller::Caller, config::MAX_PIRQS, domain::Domain, machine::Machine, ports::overlap, reply::Control, rights::Ranges,
};
use core::{ops::RangeInclusive, sync::atomic::Ordering};
use oxen_abi::{
    domctl::{DomctlIomemPermission, DomctlIoportPermission, DomctlIrqPermission, DomctlNodeaffinity},
    errno::Errno,
};

/// I/O ports of a PC.
const PORTS: u32 = 1 << 16;
/// Ports that no domain has: interrupt controllers, interval timer, system control, PCI configuration data.
const HYPERVISOR_PORTS: [RangeInclusive<u16>; 6] =
    [0x20..=0x21, 0x40..=0x43, 0x61..=0x61, 0x92..=0x92, 0xa0..=0xa1, 0xcfc..=0xcff];

fn change(ranges: &mut Ranges, allow: u8, first: u64, last: u64) -> Outcome {
    if allow != 0 {
        ranges.insert(first, last)?
    } else {
        ranges.remove(first, last)?
    }
    Ok(Answer::Done)
}

/// Nobody can be given what the caller does not have itself.
fn judge(has: bool) -> Result<(), Errno> {
    if has { Ok(()) } else { Err(Errno::Perm) }
}

impl<M: Machine> Caller<'_, M> {
    pub(super) fn permit_interrupt(&self, _: Control, domain: &Domain, request: DomctlIrqPermission) -> Outcome {
        if index(request.pirq) >= MAX_PIRQS {
            return Err(Errno::Inval.into());
        }
        let pirq = request.pirq.into();
        judge(self.domain.memory.rights.lock().interrupts.contains(pirq, pirq))?;
        change(&mut domain.memory.rights.lock().interrupts, request.allow_access, pirq, pirq)
    }

    pub(super) fn permit_memory(&self, _: Control, domain: &Domain, request: DomctlIomemPermission) -> Outcome {
        // No frames from the first on are all of them, and more than anybody has.
        let last = request.first_mfn.wrapping_add(request.nr_mfns).wrapping_sub(1);
        if last < request.first_mfn {
            return Err(Errno::Inval.into());
        }
        judge(self.domain.memory.rights.lock().memory.contains(request.first_mfn, last))?;
        change(&mut domain.memory.rights.lock().memory, request.allow_access, request.first_mfn, last)
    }

    pub(super) fn permit_ports(&self, _: Control, domain: &Domain, request: DomctlIoportPermission) -> Outcome {
        let end = request.first_port.checked_add(request.nr_ports).filter(|&end| end <= PORTS).ok_or(Errno::Inval)?;
        if request.nr_ports == 0 {
            return Err(Errno::Inval.into());
        }
        let (first, last) = (request.first_port, end.wrapping_sub(1));
        let ports = ushort(first.into())..=ushort(last.into());
        let is_own = self.hv.machine().has_own_port(ports.clone());
        let is_free = !is_own && !HYPERVISOR_PORTS.iter().any(|ours| overlap(&ports, ours));
        judge(is_free && self.domain.memory.rights.lock().ports.contains(first.into(), last.into()))?;
        change(&mut domain.memory.rights.lock().ports, request.allow_access, first.into(), last.into())
    }

    /// The machine is one node; what a toolstack would like is kept.
    pub(super) fn set_node_affinity(&self, _: Control, domain: &Domain, request: DomctlNodeaffinity) -> Outcome {
        let nodes = self.read_cpu_bitmap(&request.nodemap)?;
        if nodes & 1 == 0 {
            return Err(Errno::Inval.into());
        }
        // All that there could be is the hypervisor's own choice.
        domain.node_affinity.store(if nodes == u64::MAX { 1 } else { nodes }, Ordering::Relaxed);
        Ok(Answer::Done)
    }

    pub(super) fn get_node_affinity(&self, _: Control, domain: &Domain, request: DomctlNodeaffinity) -> Outcome {
        self.write_cpu_bitmap(&request.nodemap, domain.node_affinity.load(Ordering::Relaxed))?;
        Ok(Answer::Done)
    }
}
