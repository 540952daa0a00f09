//! A guest's NUMA nodes: as its toolstack says them (`XEN_DOMCTL_setvnumainfo`) and as it reads them
//! (`XENMEM_get_vnumainfo`).

use super::number::{bytes, count, long};
use crate::{
    caller::Caller,
    domain::{Domain, vnuma::Vnuma},
    heap,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Control, Reply},
};
use core::sync::atomic::Ordering;
use oxen_abi::{
    domctl::DomctlVnuma,
    errno::Errno,
    memory::{Vmemrange, VnumaTopologyInfo},
};

/// Nodes that a machine can have (`MAX_NUMNODES`).
const MAX_NODES: u32 = 64;

impl<M: Machine> Caller<'_, M> {
    /// Keeps the nodes of a domain, in place of those it had.
    ///
    /// # Errors
    /// `Inval` for no node or too many, a number of vcpus other than the domain's, or ranges with flags; `Fault` for
    /// what cannot be read; `TooBig` for nodes that there are not; `NoMem`.
    pub(super) fn set_vnuma_info(&self, _: Control, domain: &Domain, request: &DomctlVnuma) -> Result<(), Errno> {
        let vcpus = domain.max_vcpus.load(Ordering::Relaxed);
        if request.nr_vnodes == 0 || request.nr_vcpus != vcpus || request.pad != 0 {
            return Err(Errno::Inval);
        }
        let machine = self.hv.machine();
        let mut vnuma = Vnuma::empty(machine, request.nr_vnodes, request.nr_vmemranges, vcpus)?;
        let distances = GuestPtr::<u32>::new(request.vdistance, long(vnuma.distances.len()))?;
        distances.read_many(machine, 0, &mut vnuma.distances)?;
        let ranges = GuestPtr::<Vmemrange>::new(request.vmemrange, request.nr_vmemranges.into())?;
        ranges.read_many(machine, 0, &mut vnuma.ranges)?;
        let nodes = GuestPtr::<u32>::new(request.vcpu_to_vnode, vcpus.into())?;
        nodes.read_many(machine, 0, &mut vnuma.vcpus)?;
        if !vnuma.places_every_vcpu() {
            return Err(Errno::TooBig);
        }
        for node in 0..u64::from(vnuma.nodes) {
            let place = request.vnode_to_pnode.checked_add(node.wrapping_mul(bytes::<u32>())).ok_or(Errno::Fault)?;
            if self.copy_from_guest::<u32>(place)? >= MAX_NODES {
                return Err(Errno::TooBig);
            }
        }
        if !vnuma.has_plain_ranges() {
            return Err(Errno::Inval);
        }
        let vnuma = heap::share(machine, vnuma)?;
        let old = domain.vnuma.lock().replace(vnuma);
        drop(old);
        Ok(())
    }

    /// Tells a domain's nodes, where there is room for them.
    ///
    /// # Errors
    /// `Fault` for what cannot be read or written, `Inval` for padding, `Srch` and `Perm` for the domain, `OpNotSupp`
    /// if it was given none, `NoBufs` without enough room: then how much is needed is told.
    pub(super) fn get_vnuma_info(&self, argument: u64) -> Reply {
        let place = GuestPtr::<VnumaTopologyInfo>::one(argument)?;
        let machine = self.hv.machine();
        let asked = place.read(machine, 0)?;
        if asked.pad != 0 {
            return Err(Errno::Inval.into());
        }
        let domain = self.domain_to_act_on(asked.domid)?;
        let Some(vnuma) = domain.vnuma.lock().clone() else { return Err(Errno::OpNotSupp.into()) };
        let answer = VnumaTopologyInfo {
            nr_vnodes: vnuma.nodes,
            nr_vcpus: count(vnuma.vcpus.len()),
            nr_vmemranges: count(vnuma.ranges.len()),
            ..asked
        };
        if asked.nr_vnodes < answer.nr_vnodes
            || asked.nr_vcpus < answer.nr_vcpus
            || asked.nr_vmemranges < answer.nr_vmemranges
        {
            place.write(machine, 0, &answer)?;
            return Err(Errno::NoBufs.into());
        }
        let ranges = GuestPtr::<Vmemrange>::new(asked.vmemrange, long(vnuma.ranges.len()))?;
        ranges.write_many(machine, 0, &vnuma.ranges)?;
        let distances = GuestPtr::<u32>::new(asked.vdistance, long(vnuma.distances.len()))?;
        distances.write_many(machine, 0, &vnuma.distances)?;
        let nodes = GuestPtr::<u32>::new(asked.vcpu_to_vnode, long(vnuma.vcpus.len()))?;
        nodes.write_many(machine, 0, &vnuma.vcpus)?;
        place.write(machine, 0, &answer)?;
        Ok(0)
    }
}
