//! The frames that a guest gives for its events to be in, and what it chooses of its ports (FIFO).

use crate::{
    caller::Caller,
    event::{
        abi::Abi,
        fifo::{self, Fifo},
        port::Port,
    },
    heap,
    machine::Machine,
};
use core::sync::atomic::Ordering;
use oxen_abi::{
    errno::Errno,
    event_channel::{EVTCHN_FIFO_PRIORITY_MIN, EvtchnInitControl},
};

impl<M: Machine> Caller<'_, M> {
    /// Gives a vcpu of the caller's its control block (`EVTCHNOP_init_control`). The first changes the ABI: what is
    /// pending by then is raised again as soon as it has an event word.
    ///
    /// # Errors
    /// `NoEnt` for the vcpu; `Inval` for the offset, for a frame that is not writable memory of the caller's own, or if
    /// the vcpu has a control block; `NoMem` for what the hypervisor keeps.
    #[inline(never)]
    pub fn init_event_control(&self, request: &EvtchnInitControl) -> Result<(), Errno> {
        let &EvtchnInitControl { control_gfn, offset, vcpu, .. } = request;
        let (domain, machine) = (self.domain, self.hv.machine());
        domain.vcpu(vcpu).ok_or(Errno::NoEnt)?;
        if !fifo::control_fits(offset) {
            return Err(Errno::Inval);
        }
        let frame = self.hv.memory.hold_own(control_gfn, domain.memory.named())?;
        let mut bindings = domain.events.bindings.lock();
        if domain.memory.is_dying.load(Ordering::SeqCst) {
            return Err(Errno::Inval);
        }
        if let Abi::Fifo(fifo) = &mut bindings.abi {
            fifo.set_control(machine, vcpu, frame.frame(), offset)?;
        } else {
            let vcpus = domain.max_vcpus.load(Ordering::Relaxed) as usize;
            let mut fifo = heap::own(machine, Fifo::new(machine, vcpus)?)?;
            bindings.records.make_room_below(machine, domain.events.ports.valid())?;
            fifo.set_control(machine, vcpu, frame.frame(), offset)?;
            domain.events.leave_two_levels(&mut bindings, machine, domain.shared_info);
            bindings.abi = Abi::Fifo(fifo);
            domain.events.is_fifo.store(true, Ordering::Release);
        }
        // The queues have the frame now, and give it back when they go.
        let _kept = frame.into_entry();
        Ok(())
    }

    /// Appends a page to the event words of the caller (`EVTCHNOP_expand_array`), and raises what was pending without a
    /// word.
    ///
    /// # Errors
    /// `OpNotSupp` before there is a control block; `NoSpc` if every port has its word; `Inval` for a frame that is not
    /// writable memory of the caller's own.
    #[inline(never)]
    pub fn expand_event_array(&self, gfn: u64) -> Result<(), Errno> {
        let (hv, domain) = (self.hv, self.domain);
        let frame = hv.memory.hold_own(gfn, domain.memory.named());
        let mut bindings = domain.events.bindings.lock();
        let bindings = &mut *bindings;
        let Abi::Fifo(fifo) = &mut bindings.abi else { return Err(Errno::OpNotSupp) };
        if fifo.is_full() {
            return Err(Errno::NoSpc);
        }
        let frame = frame?;
        if domain.memory.is_dying.load(Ordering::SeqCst) {
            return Err(Errno::Inval);
        }
        let first = fifo.add_page(hv.machine(), frame.frame())?;
        let _kept = frame.into_entry();
        for port in first..fifo.words_end().min(domain.events.ports.valid()) {
            if bindings.records.awaits_word(port) {
                let vcpu = domain.events.port(port).unwrap_or_default().vcpu();
                hv.set_pending(domain, bindings, port, vcpu, Some(self.running()));
            }
        }
        Ok(())
    }

    /// Chooses the priority of a port of the caller (`EVTCHNOP_set_priority`). It counts when the port is next linked.
    ///
    /// # Errors
    /// `Inval` for a number that no port has or a priority that there is not, `NoSys` with two levels, `Acces` for a
    /// port that is not in use.
    #[inline(never)]
    pub fn set_event_priority(&self, port: u32, priority: u32) -> Result<(), Errno> {
        let mut bindings = self.domain.events.bindings.lock();
        let state = self.domain.events.port(port).ok_or(Errno::Inval)?;
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
}
