//! How an event reaches a vcpu: it is noted as the domain's ABI has it, then whoever waits for it is woken.

use crate::{
    Hypervisor,
    caller::Caller,
    domain::{Domain, vcpu::Vcpu},
    event::{Bindings, abi::Abi, port::Port, two_level},
    machine::Machine,
    shared_info::VcpuInfoPlace,
};
use core::sync::atomic::Ordering;
use oxen_abi::{errno::Errno, event_channel as abi};

/// The vcpu that this CPU runs, and its `vcpu_info`: it looks at its events anyway before it goes on.
type Running<'a> = (&'a Vcpu, &'a VcpuInfoPlace);

impl<M: Machine> Caller<'_, M> {
    /// The caller's vcpu.
    #[inline]
    pub(super) fn running(&self) -> Running<'_> {
        (self.vcpu, &self.state.info)
    }

    /// Sends an event through a port of the caller (`EVTCHNOP_send`).
    ///
    /// # Errors
    /// `Inval` for a port that nothing can be sent through.
    #[inline]
    pub fn send_event(&self, port: u32) -> Result<(), Errno> {
        let state = self.domain.events.port(port).ok_or(Errno::Inval)?;
        // Another vcpu may close the port meanwhile: then its domain finds an event that nobody sent, and nobody else
        // does.
        let Some((to, vcpu)) = state.target() else { return self.send_locked(port, state) };
        let Some(is_masked) = two_level::mark(self.hv.machine(), self.domain.shared_info, to) else { return Ok(()) };
        if self.domain.events.pollers.load(Ordering::SeqCst) == 0 && (is_masked || vcpu == self.vcpu.id) {
            if !is_masked {
                two_level::select(&self.state.info, to);
            }
            return Ok(());
        }
        self.hv.notify_of_bits(self.domain, to, vcpu, is_masked, Some(self.running()));
        Ok(())
    }

    /// The same in the way that all ports have, for who is in no hurry.
    ///
    /// # Errors
    /// As `send`.
    pub fn send_event_under_lock(&self, port: u32) -> Result<(), Errno> {
        self.send_locked(port, self.domain.events.port(port).ok_or(Errno::Inval)?)
    }

    /// Sends an event to another domain, or to the caller's own by the way that takes the lock.
    #[inline(never)]
    fn send_locked(&self, port: u32, state: Port) -> Result<(), Errno> {
        match state.kind() {
            abi::EVTCHNSTAT_INTERDOMAIN if !state.leads_to(self.domain.owner()) => {
                self.hv.send_abroad(self.domain, port, state)
            }
            abi::EVTCHNSTAT_INTERDOMAIN | abi::EVTCHNSTAT_IPI => self.send_home(port),
            abi::EVTCHNSTAT_UNBOUND => {}
            _ => return Err(Errno::Inval),
        }
        Ok(())
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Sends an event to another domain, if its port still leads back to the caller's.
    fn send_abroad(&self, domain: &Domain, port: u32, state: Port) {
        let Some(remote) = self.domains.in_slot(state.remote_slot().into()) else { return };
        let mut bindings = remote.events.bindings.lock();
        let there = remote.events.port(state.number()).unwrap_or_default();
        let leads_back =
            there.kind() == abi::EVTCHNSTAT_INTERDOMAIN && there.number() == port && there.leads_to(domain.owner());
        if leads_back {
            self.set_pending(&remote, &mut bindings, state.number(), there.vcpu(), None);
        }
    }
}

impl<M: Machine> Caller<'_, M> {
    /// Sends an event to the caller's own domain, if the port still leads there.
    fn send_home(&self, port: u32) {
        let domain = self.domain;
        let mut bindings = domain.events.bindings.lock();
        let state = domain.events.port(port).unwrap_or_default();
        let (to, vcpu) = match state.kind() {
            abi::EVTCHNSTAT_IPI => (port, state.vcpu()),
            abi::EVTCHNSTAT_INTERDOMAIN if state.leads_to(domain.owner()) => {
                (state.number(), domain.events.port(state.number()).unwrap_or_default().vcpu())
            }
            _ => return,
        };
        self.hv.set_pending(domain, &mut bindings, to, vcpu, Some(self.running()));
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Sends an event in a domain's name through a port of it that leads to another, if it does.
    pub fn send_event_for(&self, domain: &Domain, port: u32) {
        if let Some(state) = domain.events.port(port).filter(|state| state.kind() == abi::EVTCHNSTAT_INTERDOMAIN) {
            self.send_abroad(domain, port, state);
        }
    }

    /// Sets a port of a domain pending and notifies its vcpu, unless the port is masked. `running` may be given for the
    /// domain of that vcpu only. The caller has seen the port in use under the lock.
    pub(super) fn set_pending(
        &self,
        domain: &Domain,
        bindings: &mut Bindings,
        port: u32,
        vcpu: u32,
        running: Option<Running<'_>>,
    ) {
        match &mut bindings.abi {
            Abi::TwoLevel => {
                if let Some(is_masked) = two_level::mark(self.machine(), domain.shared_info, port) {
                    self.notify_of_bits(domain, port, vcpu, is_masked, running);
                }
            }
            Abi::Fifo(fifo) => {
                let raised = fifo.raise(&mut bindings.records, port, vcpu);
                if raised.is_ready {
                    self.notify_vcpu(domain, vcpu, running, |info| {
                        info.upcall_pending().swap(1, Ordering::AcqRel) == 0
                    });
                }
                if raised.is_new {
                    self.wake_pollers(domain, port);
                }
            }
        }
    }

    /// Tells whoever waits for a port whose pending bit has been set.
    #[inline(never)]
    fn notify_of_bits(&self, domain: &Domain, port: u32, vcpu: u32, is_masked: bool, running: Option<Running<'_>>) {
        if !is_masked {
            self.notify_vcpu(domain, vcpu, running, |info| two_level::select(info, port));
        }
        self.wake_pollers(domain, port);
    }

    /// Tells a vcpu that it has news: `mark` says so in its `vcpu_info`, and whether it did not know yet.
    #[inline]
    fn notify_vcpu(
        &self,
        domain: &Domain,
        vcpu: u32,
        running: Option<Running<'_>>,
        mark: impl Fn(&VcpuInfoPlace) -> bool,
    ) {
        if let Some((_, info)) = running.filter(|(running, _)| running.id == vcpu) {
            mark(info);
            return;
        }
        let Some(vcpu) = domain.vcpu(vcpu) else { return };
        let Some(info) = *vcpu.info.lock() else { return };
        if mark(&info) {
            self.wake_vcpu(vcpu);
        }
    }

    /// Wakes the vcpus that poll a port that has become pending.
    #[inline]
    fn wake_pollers(&self, domain: &Domain, port: u32) {
        if domain.events.pollers.load(Ordering::SeqCst) != 0 {
            self.look_for_pollers(domain, port);
        }
    }

    #[cold]
    fn look_for_pollers(&self, domain: &Domain, port: u32) {
        for vcpu in domain.each_vcpu() {
            if vcpu.events.waits_for(port) && domain.events.end_poll(&vcpu.events) {
                self.wake_vcpu(vcpu);
            }
        }
    }

    /// Whether an event of the domain is pending, and whether it is masked.
    #[must_use]
    pub fn event_bits(&self, domain: &Domain, port: u32) -> (bool, bool) {
        if domain.events.is_fifo.load(Ordering::SeqCst) {
            domain.events.bindings.lock().abi.bits(self.machine(), domain.shared_info, port)
        } else {
            two_level::bits(self.machine(), domain.shared_info, port)
        }
    }

    /// Whether an event of the domain waits, masked or not: what `SCHEDOP_poll` asks before it lets a vcpu wait.
    #[must_use]
    pub fn is_event_pending(&self, domain: &Domain, port: u32) -> bool {
        self.event_bits(domain, port).0
    }
}

impl<M: Machine> Caller<'_, M> {
    /// Unmasks a port of the caller, and delivers what waited (`EVTCHNOP_unmask`).
    ///
    /// # Errors
    /// `Inval` for a number that no port has.
    pub fn unmask_port(&self, port: u32) -> Result<(), Errno> {
        let (hv, domain) = (self.hv, self.domain);
        let state = domain.events.port(port).ok_or(Errno::Inval)?;
        if state == Port::CLOSED {
            return Ok(());
        }
        if domain.events.is_fifo.load(Ordering::Acquire) {
            self.unmask_queued(port);
        } else if two_level::unmask(hv.machine(), domain.shared_info, port) {
            hv.notify_vcpu(domain, state.vcpu(), Some(self.running()), |info| two_level::select(info, port));
        }
        Ok(())
    }

    #[inline(never)]
    fn unmask_queued(&self, port: u32) {
        let domain = self.domain;
        let mut bindings = domain.events.bindings.lock();
        let state = domain.events.port(port).unwrap_or_default();
        if state != Port::CLOSED && matches!(&bindings.abi, Abi::Fifo(fifo) if fifo.unmask(port)) {
            self.hv.set_pending(domain, &mut bindings, port, state.vcpu(), Some(self.running()));
        }
    }
}

/// A `vcpu_info` begins its life at a new place: everything is marked as pending, so that no event is lost on the way.
pub fn set_everything_pending(info: &VcpuInfoPlace) {
    two_level::set_everything_pending(info);
}
