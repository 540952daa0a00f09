//! By which ABI a domain's events are delivered: every domain begins with two levels, and chooses queues for itself.

use super::{
    Bindings, Events,
    deliver::{running, set_pending},
    fifo::{self, Fifo},
    port::Port,
    two_level,
};
use crate::{
    addr::Mfn,
    caller::Caller,
    config::MAX_PORTS,
    domain::Domain,
    heap,
    machine::Machine,
    mem::{Memory, editor, frame_table::FrameTable},
};
use alloc::boxed::Box;
use core::sync::atomic::Ordering;
use oxen_abi::{
    errno::Errno,
    event_channel::{EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_PRIORITY_MIN, EvtchnInitControl},
};

/// How a domain's events are noted.
#[derive(Debug, Default)]
pub(super) enum Abi {
    /// As bits of `shared_info`.
    #[default]
    TwoLevel,
    /// In queues that the guest gave memory for.
    Fifo(Box<Fifo>),
}

impl Abi {
    /// How many ports there are, port 0 included.
    pub(super) const fn ports(&self) -> u32 {
        match self {
            Self::TwoLevel => EVTCHN_2L_NR_CHANNELS,
            Self::Fifo(_) => MAX_PORTS as u32,
        }
    }

    /// Whether a closed port is still in a queue, so that it cannot be given out.
    pub(super) fn is_busy(&self, port: u32) -> bool {
        matches!(self, Self::Fifo(fifo) if fifo.is_linked(port))
    }

    /// Whether a port is pending, and whether it is masked.
    pub(super) fn bits(&self, memory: &impl Memory, domain: &Domain, port: u32) -> (bool, bool) {
        match self {
            Self::TwoLevel => two_level::bits(memory, domain, port),
            Self::Fifo(fifo) => fifo.bits(port),
        }
    }

    /// Forgets an event: the port is being closed, and whoever has the number next starts without it.
    pub(super) fn clear_pending(&self, memory: &impl Memory, domain: &Domain, port: u32) {
        match self {
            Self::TwoLevel => two_level::clear_pending(memory, domain, port),
            Self::Fifo(fifo) => fifo.clear_pending(port),
        }
    }
}

/// A guest's own frame, held writable until a domain's queues have it or until this is dropped.
struct Held<'a> {
    frames: &'a FrameTable,
    mfn: Mfn,
}

impl<'a> Held<'a> {
    fn new<M: Machine>(caller: &'a Caller<'_, M>, gfn: u64) -> Result<Self, Errno> {
        let frames = &caller.hv.frames;
        let mfn = Mfn::new(gfn).filter(|&mfn| frames.is_ram(mfn)).ok_or(Errno::Inval)?;
        editor::hold_writable(caller.hv, mfn, caller.domain.owner).map_err(|_| Errno::Inval)?;
        Ok(Self { frames, mfn })
    }

    /// The queues have the frame now, and give it back when they go.
    fn pass_on(self) {
        core::mem::forget(self);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.frames.put_use(self.mfn);
    }
}

/// Gives a vcpu of the caller's its control block (`EVTCHNOP_init_control`). The first changes the ABI: what is pending by
/// then is raised again as soon as it has an event word.
///
/// # Errors
/// `NoEnt` for the vcpu; `Inval` for the offset, for a frame that is not writable memory of the caller's own, or if the vcpu
/// has a control block; `NoMem` for what the hypervisor keeps.
#[inline(never)]
pub fn init_control<M: Machine>(caller: &Caller<'_, M>, request: &EvtchnInitControl) -> Result<(), Errno> {
    let &EvtchnInitControl { control_gfn, offset, vcpu, .. } = request;
    let (domain, machine) = (caller.domain, &caller.hv.machine);
    domain.vcpu(vcpu).ok_or(Errno::NoEnt)?;
    if !fifo::control_fits(offset) {
        return Err(Errno::Inval);
    }
    let frame = Held::new(caller, control_gfn)?;
    let mut bindings = domain.events.bindings.lock();
    if domain.is_dying.load(Ordering::SeqCst) {
        return Err(Errno::Inval);
    }
    if let Abi::Fifo(fifo) = &mut bindings.abi {
        fifo.set_control(machine, vcpu, frame.mfn, offset)?;
    } else {
        let vcpus = domain.max_vcpus.load(Ordering::Relaxed) as usize;
        let mut fifo = heap::own(machine, Fifo::new(machine, vcpus)?)?;
        bindings.records.make_room_below(machine, domain.events.ports.valid())?;
        fifo.set_control(machine, vcpu, frame.mfn, offset)?;
        domain.events.leave_two_levels(&mut bindings, machine, domain);
        bindings.abi = Abi::Fifo(fifo);
        domain.events.is_fifo.store(true, Ordering::Release);
    }
    frame.pass_on();
    Ok(())
}

/// Appends a page to the event words of the caller (`EVTCHNOP_expand_array`), and raises what was pending without a word.
///
/// # Errors
/// `OpNotSupp` before there is a control block; `NoSpc` if every port has its word; `Inval` for a frame that is not writable
/// memory of the caller's own.
#[inline(never)]
pub fn expand_array<M: Machine>(caller: &Caller<'_, M>, gfn: u64) -> Result<(), Errno> {
    let (hv, domain) = (caller.hv, caller.domain);
    let frame = Held::new(caller, gfn);
    let mut bindings = domain.events.bindings.lock();
    let bindings = &mut *bindings;
    let Abi::Fifo(fifo) = &mut bindings.abi else { return Err(Errno::OpNotSupp) };
    if fifo.is_full() {
        return Err(Errno::NoSpc);
    }
    let frame = frame?;
    if domain.is_dying.load(Ordering::SeqCst) {
        return Err(Errno::Inval);
    }
    let first = fifo.add_page(&hv.machine, frame.mfn)?;
    frame.pass_on();
    for port in first..fifo.words_end().min(domain.events.ports.valid()) {
        if bindings.records.awaits_word(port) {
            let vcpu = domain.events.port(port).unwrap_or_default().vcpu();
            set_pending(hv, domain, bindings, port, vcpu, Some(running(caller)));
        }
    }
    Ok(())
}

/// Chooses the priority of a port of the caller (`EVTCHNOP_set_priority`). It counts when the port is next linked.
///
/// # Errors
/// `Inval` for a number that no port has or a priority that there is not, `NoSys` with two levels, `Acces` for a port that
/// is not in use.
#[inline(never)]
pub fn set_priority<M: Machine>(caller: &Caller<'_, M>, port: u32, priority: u32) -> Result<(), Errno> {
    let mut bindings = caller.domain.events.bindings.lock();
    let state = caller.domain.events.port(port).ok_or(Errno::Inval)?;
    if matches!(bindings.abi, Abi::TwoLevel) {
        return Err(Errno::NoSys);
    }
    if state == Port::CLOSED {
        return Err(Errno::Acces);
    }
    if priority > EVTCHN_FIFO_PRIORITY_MIN {
        return Err(Errno::Inval);
    }
    bindings.records.set_priority(port, priority);
    Ok(())
}

impl Events {
    /// Notes what is pending by two levels, gives every port the usual priority, and keeps senders off the way that only two
    /// levels have.
    fn leave_two_levels(&self, bindings: &mut Bindings, memory: &impl Memory, domain: &Domain) {
        for port in 1..self.ports.valid().min(EVTCHN_2L_NR_CHANNELS) {
            let state = self.port(port).unwrap_or_default();
            self.ports.set(port, state.not_local());
            if two_level::bits(memory, domain, port).0 {
                bindings.records.await_word(port);
            }
            bindings.records.renew(port);
        }
    }

    /// Goes back to two levels; every port is closed. The guest's frames are given back.
    pub(super) fn enter_two_levels(&self, bindings: &mut Bindings, frames: &FrameTable) {
        self.is_fifo.store(false, Ordering::Release);
        bindings.search = 0;
        if let Abi::Fifo(fifo) = core::mem::take(&mut bindings.abi) {
            fifo.release(frames);
        }
    }

    /// Calls `each` with the frames of the domain's own that hold its events, as often as they are held writable.
    pub fn each_frame(&self, mut each: impl FnMut(Mfn)) {
        if let Abi::Fifo(fifo) = &self.bindings.lock().abi {
            fifo.each_frame().for_each(&mut each);
        }
    }
}
