//! What must be true of a domain's event channels between any two operations.

use crate::{
    Hypervisor,
    domain::Domain,
    event::{
        abi::Abi,
        pirq::Line,
        port::{Binding, Port},
        virq,
    },
    machine::Machine,
    mem::{RamFrame, frame_type::FrameType},
};
use core::sync::atomic::Ordering;
use oxen_abi::virq::NR_VIRQS;

impl<M: Machine> Hypervisor<M> {
    /// Checks a domain's channels: both ends of each lead to one another, interrupts and their ports agree, the lowest
    /// free port will be found, bits are set only where there are bits, queues end in ports that were put there, and
    /// the frames that they are in are the domain's own and writable. Nobody may change channels meanwhile.
    ///
    /// # Errors
    /// What is wrong.
    pub fn audit_events(&self, domain: &Domain) -> Result<(), &'static str> {
        let events = &domain.events;
        if events.port(0).is_none_or(|state| state != Port::CLOSED) {
            return Err("port 0 is in use");
        }
        let is_fifo = matches!(events.bindings.lock().abi, Abi::Fifo(_));
        let mut open = 0;
        for port in (1..events.valid()).filter(|&p| events.port(p).is_some_and(|s| s != Port::CLOSED)) {
            open += 1;
            self.audit_port(domain, port, is_fifo)?;
        }
        let bindings = events.bindings.lock();
        if bindings.active != open {
            return Err("the ports in use are counted wrongly");
        }
        if let Abi::Fifo(fifo) = &bindings.abi {
            fifo.audit(&bindings.records)?;
            let is_lent = |frame: RamFrame| {
                let state = self.memory.frames.state(frame.mfn());
                state.owner() == domain.owner() && state.kind() == FrameType::Writable && state.uses() != 0
            };
            if !fifo.each_frame().all(is_lent) {
                return Err("a frame of the queues is not held");
            }
        }
        for vcpu in domain.each_vcpu() {
            let virqs = (0..NR_VIRQS).zip(vcpu.events.virqs.iter().map(|port| port.load(Ordering::Relaxed)));
            for (virq, port) in virqs.filter(|&(_, port)| port != 0) {
                let state = events.port(port).unwrap_or_default();
                let notifies = virq::is_global(virq) || state.vcpu() == vcpu.id;
                if state.binding() != Binding::Virq(virq) || !notifies {
                    return Err("a virtual interrupt has a port that is not its own");
                }
            }
        }
        if (1..bindings.first_free).any(|p| events.port(p).is_none_or(|s| s == Port::CLOSED)) {
            return Err("a free port is not found");
        }
        Ok(())
    }

    /// Checks where a port in use leads.
    fn audit_port(&self, domain: &Domain, port: u32, is_fifo: bool) -> Result<(), &'static str> {
        let state = domain.events.port(port).unwrap_or_default();
        match state.binding() {
            Binding::Interdomain { remote, slot, port: there } => {
                let other = self.domains.in_slot(slot.into()).filter(|d| d.id == remote);
                let back = other.and_then(|d| d.events.port(there)).map(Port::binding);
                let leads_to = back.and_then(|end| match end {
                    Binding::Interdomain { remote, port, .. } => Some((remote, port)),
                    _ => None,
                });
                if leads_to != Some((domain.id, port)) {
                    return Err("a channel does not lead back");
                }
                let is_own = domain.owner().slot() == Some(slot.into());
                let notified = domain.events.port(there).map(|state| (there, state.vcpu()));
                if state.target() != notified.filter(|_| is_own && !is_fifo) {
                    return Err("a sender would notify somebody else");
                }
            }
            Binding::Ipi if state.target() != Some((port, state.vcpu())).filter(|_| !is_fifo) => {
                return Err("a vcpu would interrupt another");
            }
            Binding::Pirq(pirq) if self.pirqs.line(pirq).and_then(Line::port) != Some(port) => {
                return Err("a port of a physical interrupt is not its port");
            }
            Binding::Closed | Binding::Unbound { .. } | Binding::Pirq(_) | Binding::Virq(_) | Binding::Ipi => {}
        }
        Ok(())
    }
}
