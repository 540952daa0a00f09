//! Virtual interrupts: events that the hypervisor itself raises.

use super::deliver::set_pending;
use crate::{Hypervisor, domain::Domain, machine::Machine};
use core::sync::atomic::Ordering;
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    virq::{VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU},
};

/// Whether there is one of this interrupt for the whole system, and not one for each vcpu.
#[must_use]
pub const fn is_global(virq: u32) -> bool {
    !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}

/// Raises a virtual interrupt of one vcpu. Nothing happens where nobody bound it.
pub fn raise<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, vcpu: u32, virq: u32) {
    let mut bindings = domain.events.bindings.lock();
    let place = domain.vcpu(vcpu).and_then(|vcpu| vcpu.events.virqs.get(virq as usize));
    let port = place.map_or(0, |port| port.load(Ordering::Relaxed));
    if let Some(state) = domain.events.port(port).filter(|_| port != 0) {
        set_pending(hv, domain, &mut bindings, port, state.vcpu(), None);
    }
}

/// Raises a global virtual interrupt in the domain whose it is: the control domain's, unless it gave it to another that
/// is still there.
pub fn raise_global<M: Machine>(hv: &Hypervisor<M>, virq: u32) {
    let handler = hv.virq_handlers.get(virq as usize).map_or(0, |id| id.load(Ordering::Relaxed));
    if let Some(domain) = hv.domains.get(DomId(handler)).or_else(|| hv.domains.get(DomId::DOM0)) {
        raise(hv, &domain, 0, virq);
    }
}

/// Gives a global virtual interrupt to a domain.
///
/// # Errors
/// `Inval` for one that is not global, or that there is not.
pub fn set_handler<M: Machine>(hv: &Hypervisor<M>, virq: u32, domain: &Domain) -> Result<(), Errno> {
    let place = hv.virq_handlers.get(virq as usize).filter(|_| is_global(virq)).ok_or(Errno::Inval)?;
    place.store(domain.id.0, Ordering::Relaxed);
    Ok(())
}
