//! How an event reaches a vcpu: three levels of bits, then a wake-up.

use super::port::Port;
use crate::{
    Hypervisor,
    caller::Caller,
    domain::{Domain, shared_info::VcpuInfoPlace, vcpu::Vcpu},
    machine::Machine,
    mem::Memory,
    sched,
};
use core::sync::atomic::{AtomicU64, Ordering};
use oxen_abi::{errno::Errno, event_channel as abi};

/// The first word of `evtchn_pending` in `shared_info`.
const PENDING: usize = 2048 / 8;
/// The first word of `evtchn_mask`.
const MASK: usize = 2560 / 8;
/// The offset of `evtchn_pending_sel` in `vcpu_info`.
const SELECTOR: usize = 8;

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
    let Some((to, vcpu)) = state.target() else { return send_abroad(caller.hv, caller.domain, port, state) };
    let Some(is_masked) = mark(&caller.hv.machine, caller.domain, to) else { return Ok(()) };
    if caller.domain.events.pollers.load(Ordering::SeqCst) == 0 && (is_masked || vcpu == caller.vcpu.id) {
        if !is_masked {
            select(&caller.state.info, to as usize / 64);
        }
        return Ok(());
    }
    tell(caller.hv, caller.domain, to, vcpu, is_masked, Some(running(caller)));
    Ok(())
}

/// Sends an event to another domain, if its port still leads back to the caller's.
#[inline(never)]
fn send_abroad<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, port: u32, state: Port) -> Result<(), Errno> {
    match state.kind() {
        abi::EVTCHNSTAT_INTERDOMAIN => {}
        abi::EVTCHNSTAT_UNBOUND => return Ok(()),
        _ => return Err(Errno::Inval),
    }
    let Some(remote) = hv.domains.in_slot(state.remote_slot().into()) else { return Ok(()) };
    let _held = remote.events.bindings.lock();
    let there = remote.events.port(state.number()).unwrap_or_default();
    let leads_back =
        there.kind() == abi::EVTCHNSTAT_INTERDOMAIN && there.number() == port && there.leads_to(domain.owner);
    if leads_back {
        set_pending(hv, &remote, state.number(), there.vcpu(), None);
    }
    Ok(())
}

/// Sends an event in a domain's name through a port of it that leads to another, if it does.
pub fn send_for<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, port: u32) {
    if let Some(state) = domain.events.port(port).filter(|state| state.kind() == abi::EVTCHNSTAT_INTERDOMAIN) {
        // A port that leads nowhere any more is nobody's concern.
        let _gone = send_abroad(hv, domain, port, state);
    }
}

/// Sets a port of a domain pending and notifies its vcpu, unless the port is masked. `running` may be given for the
/// domain of that vcpu only.
///
/// For any other domain, the caller holds the lock of its events and has seen the port in use.
pub(super) fn set_pending<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain,
    port: u32,
    vcpu: u32,
    running: Option<Running<'_>>,
) {
    if let Some(is_masked) = mark(&hv.machine, domain, port) {
        tell(hv, domain, port, vcpu, is_masked, running);
    }
}

/// Sets a port's pending bit. Says whether the port is masked; nothing, if the bit was set already.
#[inline]
fn mark(memory: &impl Memory, domain: &Domain, port: u32) -> Option<bool> {
    let words = memory.words(domain.shared_info);
    let group = port as usize / 64 % 64;
    let (pending, mask) = (words.get(PENDING + group)?, words.get(MASK + group)?);
    if test_and_set(pending, port) {
        return None;
    }
    Some(mask.load(Ordering::Acquire) & 1 << (port % 64) != 0)
}

/// Tells whoever waits for a port that has become pending.
#[inline(never)]
fn tell<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain,
    port: u32,
    vcpu: u32,
    is_masked: bool,
    running: Option<Running<'_>>,
) {
    if !is_masked {
        notify(hv, domain, port as usize / 64, vcpu, running);
    }
    if domain.events.pollers.load(Ordering::SeqCst) != 0 {
        wake_pollers(hv, domain, port);
    }
}

/// Tells a vcpu that a word of the pending bits has news.
#[inline]
fn notify<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, group: usize, vcpu: u32, running: Option<Running<'_>>) {
    match running {
        Some((running, info)) if running.id == vcpu => {
            select(info, group);
        }
        _ => notify_other(hv, domain, group, vcpu),
    }
}

#[inline(never)]
fn notify_other<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, group: usize, vcpu: u32) {
    let Some(vcpu) = domain.vcpu(vcpu) else { return };
    let Some(info) = *vcpu.info.lock() else { return };
    if select(&info, group) {
        sched::wake(hv, vcpu);
    }
}

/// Marks the word in `vcpu_info`. Says whether that was the first news since the vcpu last looked.
#[inline]
fn select(info: &VcpuInfoPlace, group: usize) -> bool {
    !test_and_set(info.word(SELECTOR), group as u32) && info.upcall_pending().swap(1, Ordering::AcqRel) == 0
}

#[inline]
fn test_and_set(word: &AtomicU64, bit: u32) -> bool {
    let bit = 1 << (bit % 64);
    word.fetch_or(bit, Ordering::AcqRel) & bit != 0
}

#[cold]
fn wake_pollers<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, port: u32) {
    let events = &domain.events;
    for vcpu in domain.each_vcpu() {
        let waits_for = events.poll_ports.get(vcpu.id as usize).map_or(0, |p| p.load(Ordering::Relaxed));
        let polls = events.pollers.load(Ordering::SeqCst) & (1 << (vcpu.id & 31)) != 0;
        if polls && (waits_for == 0 || u32::from(waits_for) == port) && events.end_poll(vcpu.id) {
            sched::wake(hv, vcpu);
        }
    }
}

/// Whether an event of the domain waits, masked or not: what `SCHEDOP_poll` asks before it lets a vcpu wait.
#[must_use]
pub fn is_pending<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, port: u32) -> bool {
    let word = hv.machine.words(domain.shared_info).get(PENDING + port as usize / 64 % 64);
    word.is_some_and(|w| w.load(Ordering::SeqCst) & (1 << (port % 64)) != 0)
}

/// Forgets an event: the port is being closed, and whoever has the number next starts without it.
pub(super) fn clear_pending<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, port: u32) {
    if let Some(word) = hv.machine.words(domain.shared_info).get(PENDING + port as usize / 64 % 64) {
        word.fetch_and(!(1 << (port % 64)), Ordering::AcqRel);
    }
}

/// Unmasks a port of the caller, and delivers what waited (`EVTCHNOP_unmask`).
///
/// # Errors
/// `Inval` for a number that no port has.
pub fn unmask<M: Machine>(caller: &Caller<'_, M>, port: u32) -> Result<(), Errno> {
    let state = caller.domain.events.port(port).ok_or(Errno::Inval)?;
    if state.kind() == abi::EVTCHNSTAT_CLOSED {
        return Ok(());
    }
    let words = caller.hv.machine.words(caller.domain.shared_info);
    let group = port as usize / 64 % 64;
    let (Some(pending), Some(mask)) = (words.get(PENDING + group), words.get(MASK + group)) else { return Ok(()) };
    let bit = 1_u64 << (port % 64);
    let was_masked = mask.fetch_and(!bit, Ordering::AcqRel) & bit != 0;
    if was_masked && pending.load(Ordering::Acquire) & bit != 0 {
        notify(caller.hv, caller.domain, group, state.vcpu(), Some(running(caller)));
    }
    Ok(())
}

/// A `vcpu_info` begins its life at a new place: everything is marked as pending, so that no event is lost on the way.
pub fn set_everything_pending(info: &VcpuInfoPlace) {
    info.word(SELECTOR).store(u64::MAX, Ordering::Release);
    info.upcall_pending().store(1, Ordering::Release);
}
