//! How an event reaches a vcpu: it is noted as the domain's ABI has it, then whoever waits for it is woken.

use super::{Bindings, abi::Abi, port::Port, two_level};
use crate::{
    Hypervisor,
    caller::Caller,
    domain::{Domain, shared_info::VcpuInfoPlace, vcpu::Vcpu},
    machine::Machine,
    sched,
};
use core::sync::atomic::Ordering;
use oxen_abi::{errno::Errno, event_channel as abi};

/// The vcpu that this CPU runs, and its `vcpu_info`: it looks at its events anyway before it goes on.
type Running<'a> = (&'a Vcpu, &'a VcpuInfoPlace);

/// The caller's vcpu.
#[inline]
pub(super) fn running<'a, M: Machine>(caller: &'a Caller<'_, M>) -> Running<'a> {
    (caller.vcpu, &caller.state.info)
}

/// Sends an event through a port of the caller (`EVTCHNOP_send`).
///
/// # Errors
/// `Inval` for a port that nothing can be sent through.
#[inline]
pub fn send<M: Machine>(caller: &Caller<'_, M>, port: u32) -> Result<(), Errno> {
    let state = caller.domain.events.port(port).ok_or(Errno::Inval)?;
    // Another vcpu may close the port meanwhile: then its domain finds an event that nobody sent, and nobody else does.
    let Some((to, vcpu)) = state.target() else { return send_locked(caller, port, state) };
    let Some(is_masked) = two_level::mark(&caller.hv.machine, caller.domain, to) else { return Ok(()) };
    if caller.domain.events.pollers.load(Ordering::SeqCst) == 0 && (is_masked || vcpu == caller.vcpu.id) {
        if !is_masked {
            two_level::select(&caller.state.info, to);
        }
        return Ok(());
    }
    notify_of_bits(caller.hv, caller.domain, to, vcpu, is_masked, Some(running(caller)));
    Ok(())
}

/// The same in the way that all ports have, for who is in no hurry.
///
/// # Errors
/// As [`send`].
pub fn send_under_lock<M: Machine>(caller: &Caller<'_, M>, port: u32) -> Result<(), Errno> {
    send_locked(caller, port, caller.domain.events.port(port).ok_or(Errno::Inval)?)
}

/// Sends an event to another domain, or to the caller's own by the way that takes the lock.
#[inline(never)]
fn send_locked<M: Machine>(caller: &Caller<'_, M>, port: u32, state: Port) -> Result<(), Errno> {
    match state.kind() {
        abi::EVTCHNSTAT_INTERDOMAIN if !state.leads_to(caller.domain.owner) => {
            send_abroad(caller.hv, caller.domain, port, state)
        }
        abi::EVTCHNSTAT_INTERDOMAIN | abi::EVTCHNSTAT_IPI => send_home(caller, port),
        abi::EVTCHNSTAT_UNBOUND => {}
        _ => return Err(Errno::Inval),
    }
    Ok(())
}

/// Sends an event to another domain, if its port still leads back to the caller's.
fn send_abroad<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, port: u32, state: Port) {
    let Some(remote) = hv.domains.in_slot(state.remote_slot().into()) else { return };
    let mut bindings = remote.events.bindings.lock();
    let there = remote.events.port(state.number()).unwrap_or_default();
    let leads_back =
        there.kind() == abi::EVTCHNSTAT_INTERDOMAIN && there.number() == port && there.leads_to(domain.owner);
    if leads_back {
        set_pending(hv, &remote, &mut bindings, state.number(), there.vcpu(), None);
    }
}

/// Sends an event to the caller's own domain, if the port still leads there.
fn send_home<M: Machine>(caller: &Caller<'_, M>, port: u32) {
    let domain = caller.domain;
    let mut bindings = domain.events.bindings.lock();
    let state = domain.events.port(port).unwrap_or_default();
    let (to, vcpu) = match state.kind() {
        abi::EVTCHNSTAT_IPI => (port, state.vcpu()),
        abi::EVTCHNSTAT_INTERDOMAIN if state.leads_to(domain.owner) => {
            (state.number(), domain.events.port(state.number()).unwrap_or_default().vcpu())
        }
        _ => return,
    };
    set_pending(caller.hv, domain, &mut bindings, to, vcpu, Some(running(caller)));
}

/// Sends an event in a domain's name through a port of it that leads to another, if it does.
pub fn send_for<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, port: u32) {
    if let Some(state) = domain.events.port(port).filter(|state| state.kind() == abi::EVTCHNSTAT_INTERDOMAIN) {
        send_abroad(hv, domain, port, state);
    }
}

/// Sets a port of a domain pending and notifies its vcpu, unless the port is masked. `running` may be given for the
/// domain of that vcpu only. The caller has seen the port in use under the lock.
pub(super) fn set_pending<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain,
    bindings: &mut Bindings,
    port: u32,
    vcpu: u32,
    running: Option<Running<'_>>,
) {
    match &mut bindings.abi {
        Abi::TwoLevel => {
            if let Some(is_masked) = two_level::mark(&hv.machine, domain, port) {
                notify_of_bits(hv, domain, port, vcpu, is_masked, running);
            }
        }
        Abi::Fifo(fifo) => {
            let raised = fifo.raise(&mut bindings.records, port, vcpu);
            if raised.is_ready {
                notify(hv, domain, vcpu, running, |info| info.upcall_pending().swap(1, Ordering::AcqRel) == 0);
            }
            if raised.is_new {
                wake_pollers(hv, domain, port);
            }
        }
    }
}

/// Tells whoever waits for a port whose pending bit has been set.
#[inline(never)]
fn notify_of_bits<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain,
    port: u32,
    vcpu: u32,
    is_masked: bool,
    running: Option<Running<'_>>,
) {
    if !is_masked {
        notify(hv, domain, vcpu, running, |info| two_level::select(info, port));
    }
    wake_pollers(hv, domain, port);
}

/// Tells a vcpu that it has news: `mark` says so in its `vcpu_info`, and whether it did not know yet.
#[inline]
fn notify<M: Machine>(
    hv: &Hypervisor<M>,
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
        sched::wake(hv, vcpu);
    }
}

/// Wakes the vcpus that poll a port that has become pending.
#[inline]
fn wake_pollers<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, port: u32) {
    if domain.events.pollers.load(Ordering::SeqCst) != 0 {
        look_for_pollers(hv, domain, port);
    }
}

#[cold]
fn look_for_pollers<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, port: u32) {
    for vcpu in domain.each_vcpu() {
        if vcpu.events.waits_for(port) && domain.events.end_poll(vcpu) {
            sched::wake(hv, vcpu);
        }
    }
}

/// Whether an event of the domain is pending, and whether it is masked.
#[must_use]
pub fn bits<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, port: u32) -> (bool, bool) {
    if domain.events.is_fifo.load(Ordering::SeqCst) {
        domain.events.bindings.lock().abi.bits(&hv.machine, domain, port)
    } else {
        two_level::bits(&hv.machine, domain, port)
    }
}

/// Whether an event of the domain waits, masked or not: what `SCHEDOP_poll` asks before it lets a vcpu wait.
#[must_use]
pub fn is_pending<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, port: u32) -> bool {
    bits(hv, domain, port).0
}

/// Unmasks a port of the caller, and delivers what waited (`EVTCHNOP_unmask`).
///
/// # Errors
/// `Inval` for a number that no port has.
pub fn unmask<M: Machine>(caller: &Caller<'_, M>, port: u32) -> Result<(), Errno> {
    let (hv, domain) = (caller.hv, caller.domain);
    let state = domain.events.port(port).ok_or(Errno::Inval)?;
    if state == Port::CLOSED {
        return Ok(());
    }
    if domain.events.is_fifo.load(Ordering::Acquire) {
        unmask_queued(caller, port);
    } else if two_level::unmask(&hv.machine, domain, port) {
        notify(hv, domain, state.vcpu(), Some(running(caller)), |info| two_level::select(info, port));
    }
    Ok(())
}

#[inline(never)]
fn unmask_queued<M: Machine>(caller: &Caller<'_, M>, port: u32) {
    let domain = caller.domain;
    let mut bindings = domain.events.bindings.lock();
    let state = domain.events.port(port).unwrap_or_default();
    if state != Port::CLOSED && matches!(&bindings.abi, Abi::Fifo(fifo) if fifo.unmask(port)) {
        set_pending(caller.hv, domain, &mut bindings, port, state.vcpu(), Some(running(caller)));
    }
}

/// A `vcpu_info` begins its life at a new place: everything is marked as pending, so that no event is lost on the way.
pub fn set_everything_pending(info: &VcpuInfoPlace) {
    two_level::set_everything_pending(info);
}
