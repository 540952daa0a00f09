//! Making and ending channels. The order of the checks is Xen's, because guests see which error comes first.

use crate::{
    Hypervisor,
    caller::Caller,
    domain::Domain,
    event::{
        Bindings,
        abi::Abi,
        port::{Binding, Port},
        virq,
    },
    lock::{Guard, both},
    machine::Machine,
    reply::Stop,
};
use core::sync::atomic::{AtomicU32, Ordering};
use oxen_abi::{domid::DomId, errno::Errno, virq::NR_VIRQS};

/// What `EVTCHNOP_status` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What the port is.
    pub binding: Binding,
    /// The vcpu it notifies.
    pub vcpu: u32,
}

/// Where the port of a vcpu's virtual interrupt is kept; changed under the lock of the domain's events.
fn virq_place(domain: &Domain, vcpu: u32, virq: u32) -> Option<&AtomicU32> {
    domain.vcpu(vcpu)?.events.virqs.get(virq as usize)
}

/// The domain of this name, as far as it is not being torn down.
fn alive(domain: &Domain) -> Result<(), Errno> {
    if domain.memory.is_dying.load(Ordering::SeqCst) { Err(Errno::Inval) } else { Ok(()) }
}

impl<M: Machine> Caller<'_, M> {
    /// Makes a port that `remote` may bind to (`EVTCHNOP_alloc_unbound`).
    ///
    /// # Errors
    /// `Srch`, `Perm` for the domain; `NoSpc`, `NoMem`, `Unfinished` where the search for one goes on;
    /// `Inval` if the domain is dying.
    pub fn alloc_unbound(&self, dom: DomId, remote: DomId) -> Result<u32, Stop> {
        let named = self.named_domain(dom)?;
        let domain: &Domain = &named;
        let remote = if remote == DomId::SELF { self.domain.id } else { remote };
        let mut bindings = domain.events.bindings.lock();
        alive(domain)?;
        let port = domain.events.free_port(&mut bindings)?;
        self.may_act_on(domain)?;
        domain.events.open(self.hv.machine(), &mut bindings, port, Binding::Unbound { remote }, 0)?;
        Ok(port)
    }

    /// Makes a port and connects it with one that waits for the caller's domain (`EVTCHNOP_bind_interdomain`).
    ///
    /// # Errors
    /// `Srch` for the domain; `NoSpc`, `NoMem`, `Unfinished` where the search for one goes on; `Inval` if the remote
    /// one does not wait for the caller.
    pub fn bind_interdomain(&self, dom: DomId, remote_port: u32) -> Result<u32, Stop> {
        let domain = self.domain;
        let remote = self.named_domain(dom)?;
        let (mut bindings, _other) = lock_both(domain, &remote);
        alive(domain)?;
        let port = domain.events.free_port(&mut bindings)?;
        let there = remote.events.port(remote_port).ok_or(Errno::Inval)?;
        let (Some(slot), Some(remote_slot)) = (domain.owner().slot(), remote.owner().slot()) else {
            return Err(Errno::Inval.into());
        };
        if there.binding() != (Binding::Unbound { remote: domain.id }) {
            return Err(Errno::Inval.into());
        }
        let here = Binding::Interdomain { remote: remote.id, slot: remote_slot as u16, port: remote_port };
        domain.events.open(self.hv.machine(), &mut bindings, port, here, 0)?;
        let back = Binding::Interdomain { remote: domain.id, slot: slot as u16, port };
        remote.events.ports.set(remote_port, Port::new(back, there.vcpu()));
        if remote_slot == slot && matches!(bindings.abi, Abi::TwoLevel) {
            domain.events.ports.set(port, Port::new(here, 0).local(remote_port, there.vcpu()));
            domain.events.ports.set(remote_port, Port::new(back, there.vcpu()).local(port, 0));
        }
        // What the remote sent before there was a channel is lost; an event too many makes up for it.
        self.hv.set_pending(domain, &mut bindings, port, 0, Some(self.running()));
        Ok(port)
    }

    /// Makes a port for a virtual interrupt (`EVTCHNOP_bind_virq`).
    ///
    /// # Errors
    /// `Inval` for the interrupt, or a global one on a vcpu other than 0; `NoEnt` for the vcpu; `Exist` if it is bound;
    /// `NoSpc`, `NoMem`, `Unfinished` where the search for one goes on.
    pub fn bind_virq(&self, virq: u32, vcpu: u32) -> Result<u32, Stop> {
        let domain = self.domain;
        if virq >= NR_VIRQS || (virq::is_global(virq) && vcpu != 0) {
            return Err(Errno::Inval.into());
        }
        let place = virq_place(domain, vcpu, virq).ok_or(Errno::NoEnt)?;
        let mut bindings = domain.events.bindings.lock();
        if place.load(Ordering::Relaxed) != 0 {
            return Err(Errno::Exist.into());
        }
        alive(domain)?;
        let port = domain.events.free_port(&mut bindings)?;
        domain.events.open(self.hv.machine(), &mut bindings, port, Binding::Virq(virq), vcpu)?;
        place.store(port, Ordering::Relaxed);
        Ok(port)
    }

    /// Makes a port by which vcpus of the domain interrupt one of them (`EVTCHNOP_bind_ipi`).
    ///
    /// # Errors
    /// `NoEnt` for the vcpu; `NoSpc`, `NoMem`, `Unfinished` where the search for one goes on.
    pub fn bind_ipi(&self, vcpu: u32) -> Result<u32, Stop> {
        let domain = self.domain;
        domain.vcpu(vcpu).ok_or(Errno::NoEnt)?;
        let mut bindings = domain.events.bindings.lock();
        alive(domain)?;
        let port = domain.events.free_port(&mut bindings)?;
        domain.events.open(self.hv.machine(), &mut bindings, port, Binding::Ipi, vcpu)?;
        Ok(port)
    }

    /// Makes a port for a physical interrupt (`EVTCHNOP_bind_pirq`).
    ///
    /// # Errors
    /// `Inval` for the interrupt, `Perm` without privilege or for one that is not mapped, `Exist` if it is bound,
    /// `Busy` if the hypervisor serves it, `NoSpc`, `NoMem`, `Unfinished` where the search for one goes on.
    pub fn bind_pirq(&self, pirq: u32) -> Result<u32, Stop> {
        let domain = self.domain;
        let line = self.hv.pirqs.line(pirq).filter(|_| pirq < self.hv.pirq_count(domain)).ok_or(Errno::Inval)?;
        self.control()?;
        if !line.is_mapped() {
            return Err(Errno::Perm.into());
        }
        let mut bindings = domain.events.bindings.lock();
        if line.port().is_some() {
            return Err(Errno::Exist.into());
        }
        alive(domain)?;
        let port = domain.events.free_port(&mut bindings)?;
        if self.hv.machine().is_own(pirq) {
            return Err(Errno::Busy.into());
        }
        domain.events.open(self.hv.machine(), &mut bindings, port, Binding::Pirq(pirq), 0)?;
        self.hv.bind_pirq_to_port(domain, pirq, port, 0);
        Ok(port)
    }

    /// Chooses the vcpu that a port notifies (`EVTCHNOP_bind_vcpu`).
    ///
    /// # Errors
    /// `NoEnt` for the vcpu, `Inval` for a port that is closed or belongs to one vcpu.
    pub fn bind_vcpu(&self, port: u32, vcpu: u32) -> Result<(), Errno> {
        let domain = self.domain;
        domain.vcpu(vcpu).ok_or(Errno::NoEnt)?;
        let _held = domain.events.bindings.lock();
        let state = domain.events.port(port).ok_or(Errno::Inval)?;
        match state.binding() {
            Binding::Unbound { .. } | Binding::Interdomain { .. } | Binding::Pirq(_) => {}
            Binding::Virq(virq) if virq::is_global(virq) => {}
            Binding::Closed | Binding::Virq(_) | Binding::Ipi => return Err(Errno::Inval),
        }
        domain.events.ports.set(port, state.notifying(vcpu));
        if let Binding::Pirq(pirq) = state.binding() {
            self.hv.aim_pirq(domain, pirq, vcpu);
        }
        if let Some((from, _)) = state.target() {
            let there = domain.events.port(from).unwrap_or_default();
            domain.events.ports.set(from, there.local(port, vcpu));
        }
        Ok(())
    }

    /// What a port is (`EVTCHNOP_status`).
    ///
    /// # Errors
    /// `Srch`, `Perm` for the domain; `Inval` for a number that no port has.
    pub fn port_status(&self, dom: DomId, port: u32) -> Result<Status, Errno> {
        let domain = self.named_domain(dom)?;
        let state = domain.events.port(port).ok_or(Errno::Inval)?;
        self.may_act_on(&domain)?;
        Ok(Status { binding: state.binding(), vcpu: state.vcpu() })
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Ends a channel (`EVTCHNOP_close`). The other end of an interdomain channel waits for the domain again.
    ///
    /// # Errors
    /// `Inval` for a port that is not in use; `Unfinished` if the other end changed whenever it was looked at.
    pub fn close_port(&self, domain: &Domain, port: u32) -> Result<(), Stop> {
        const ATTEMPTS: u32 = 8;
        for _ in 0..ATTEMPTS {
            let state = domain.events.port(port).filter(|&s| s != Port::CLOSED).ok_or(Errno::Inval)?;
            let remote = match state.binding() {
                Binding::Interdomain { slot, .. } if Some(slot.into()) != domain.owner().slot() => {
                    self.domains.in_slot(slot.into())
                }
                _ => None,
            };
            let (mut bindings, _other) = match &remote {
                Some(remote) => lock_both(domain, remote),
                None => (domain.events.bindings.lock(), None),
            };
            if domain.events.port(port) == Some(state) {
                self.end_channel(domain, &mut bindings, port, state, remote.as_deref());
                return Ok(());
            }
        }
        Err(Stop::Unfinished)
    }

    /// Closes a port whose state is certain, because every lock it needs is held.
    fn end_channel(&self, domain: &Domain, bindings: &mut Bindings, port: u32, state: Port, remote: Option<&Domain>) {
        match state.binding() {
            Binding::Interdomain { port: there, .. } => {
                let remote = remote.unwrap_or(domain);
                let vcpu = remote.events.port(there).unwrap_or_default().vcpu();
                remote.events.ports.set(there, Port::new(Binding::Unbound { remote: domain.id }, vcpu));
            }
            Binding::Virq(virq) => {
                if let Some(place) = virq_place(domain, state.vcpu_of_virq(virq), virq) {
                    place.store(0, Ordering::Relaxed);
                }
            }
            Binding::Pirq(pirq) => self.unbind_pirq(pirq),
            Binding::Closed | Binding::Unbound { .. } | Binding::Ipi => {}
        }
        domain.events.ports.set(port, Port::CLOSED);
        bindings.abi.clear_pending(self.machine(), domain.shared_info, port);
        bindings.active -= 1;
        bindings.first_free = bindings.first_free.min(port);
        bindings.search = 0;
    }
}

impl Port {
    /// Whose table entry holds the port of this interrupt: a global one may notify any vcpu, but is vcpu 0's.
    const fn vcpu_of_virq(self, virq: u32) -> u32 {
        if virq::is_global(virq) { 0 } else { self.vcpu() }
    }
}

/// The locks of a domain's events and of another's, or of the same.
fn lock_both<'a>(domain: &'a Domain, other: &'a Domain) -> (Guard<'a, Bindings>, Option<Guard<'a, Bindings>>) {
    both((domain.id.0.into(), &domain.events.bindings), (other.id.0.into(), &other.events.bindings))
}
