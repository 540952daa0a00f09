//! What must be true of a domain's event channels between any two operations.

use super::{Port, port::Binding};
use crate::{Hypervisor, domain::Domain, machine::Machine};
use oxen_abi::virq::NR_VIRQS;

/// Checks a domain's channels: both ends of each lead to one another, interrupts and their ports agree, and the lowest free
/// port will be found. Nobody may change channels meanwhile.
///
/// # Errors
/// What is wrong.
pub fn audit<M: Machine>(hv: &Hypervisor<M>, domain: &Domain) -> Result<(), &'static str> {
    let events = &domain.events;
    if events.port(0).is_none_or(|state| state != Port::CLOSED) {
        return Err("port 0 is in use");
    }
    for port in (1..events.valid()).filter(|&p| events.port(p).is_some_and(|s| s != Port::CLOSED)) {
        match events.port(port).unwrap_or_default().binding() {
            Binding::Interdomain { remote, slot, port: there } => {
                let other = hv.domains.in_slot(slot.into()).filter(|d| d.id == remote);
                let back = other.and_then(|d| d.events.port(there)).map(Port::binding);
                if !matches!(back, Some(Binding::Interdomain { remote, port: p, .. }) if remote == domain.id && p == port)
                {
                    return Err("a channel does not lead back");
                }
                let is_own = domain.owner.slot() == Some(slot.into());
                let notified = events.port(there).map(|state| (there, state.vcpu())).filter(|_| is_own);
                if events.port(port).and_then(Port::target) != notified {
                    return Err("a sender would notify somebody else");
                }
            }
            Binding::Pirq(pirq) if hv.pirqs.line(pirq).and_then(super::pirq::Line::port) != Some(port) => {
                return Err("a port of a physical interrupt is not its port");
            }
            Binding::Closed | Binding::Unbound { .. } | Binding::Pirq(_) | Binding::Virq(_) | Binding::Ipi => {}
        }
    }
    let bindings = events.bindings.lock();
    for (vcpu, virqs) in bindings.virqs.iter().enumerate() {
        for (virq, &port) in virqs.iter().enumerate().take(NR_VIRQS as usize).filter(|(_, port)| **port != 0) {
            let state = events.port(port.into()).unwrap_or_default();
            let notifies = super::virq::is_global(virq as u32) || state.vcpu() as usize == vcpu;
            if state.binding() != Binding::Virq(virq as u32) || !notifies {
                return Err("a virtual interrupt has a port that is not its own");
            }
        }
    }
    if (1..bindings.first_free).any(|p| events.port(p).is_none_or(|s| s == Port::CLOSED)) {
        return Err("a free port is not found");
    }
    Ok(())
}
