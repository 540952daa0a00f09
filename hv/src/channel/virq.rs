//! Virtual interrupts: events that the hypervisor itself raises.

use crate::{
    Hypervisor,
    domain::{Domain, vcpu::Vcpu},
    event::virq::is_global,
    machine::Machine,
};
use core::sync::atomic::Ordering;
use oxen_abi::{domid::DomId, errno::Errno};

impl<M: Machine> Hypervisor<M> {
    /// Raises a virtual interrupt of one vcpu. Nothing happens where nobody bound it.
    pub fn raise_virq(&self, domain: &Domain, vcpu: &Vcpu, virq: u32) {
        let mut bindings = domain.events.bindings.lock();
        let port = vcpu.events.virqs.get(virq as usize).map_or(0, |port| port.load(Ordering::Relaxed));
        if let Some(state) = domain.events.port(port).filter(|_| port != 0) {
            self.set_pending(domain, &mut bindings, port, state.vcpu(), None);
        }
    }

    /// Raises a global virtual interrupt in the domain whose it is: the control domain's, unless it gave it to another
    /// that is still there.
    pub fn raise_global_virq(&self, virq: u32) {
        let handler = self.virq_handlers.get(virq as usize).map_or(0, |id| id.load(Ordering::Relaxed));
        let domain = self.domains.get(DomId(handler)).or_else(|| self.domains.get(DomId::DOM0));
        if let Some((domain, vcpu)) = domain.as_ref().and_then(|domain| Some((domain, domain.vcpu(0)?))) {
            self.raise_virq(domain, vcpu, virq);
        }
    }

    /// Gives a global virtual interrupt to a domain.
    ///
    /// # Errors
    /// `Inval` for one that is not global, or that there is not.
    pub fn set_virq_handler(&self, virq: u32, domain: &Domain) -> Result<(), Errno> {
        let place = self.virq_handlers.get(virq as usize).filter(|_| is_global(virq)).ok_or(Errno::Inval)?;
        place.store(domain.id.0, Ordering::Relaxed);
        Ok(())
    }
}
