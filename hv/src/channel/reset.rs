//! Closing every port of a domain, a bounded number at a time: a reset, which the domain outlives, and its end.

use crate::{
    Hypervisor, caller::Caller, config::PREEMPT_INTERVAL, domain::Domain, event::port::Port, machine::Machine,
    reply::Stop,
};
use oxen_abi::{domid::DomId, errno::Errno};

/// Closed ports that are passed over for one that counts as work.
const PASSED_OVER: u32 = 16;

/// Whether a reset is asked for, or one that was interrupted is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// `EVTCHNOP_reset`.
    Begin,
    /// `EVTCHNOP_reset_cont`, Xen's own way to go on.
    GoOn,
}

impl<M: Machine> Caller<'_, M> {
    /// Closes all ports of a domain and returns it to two levels; of others by privilege, and while they are paused.
    ///
    /// # Errors
    /// `Srch`, `Perm` for the domain; `Inval` if another domain is not paused; `Busy` if a reset is under way, or if
    /// none is that could go on; `Again` if ports were opened meanwhile. `Unfinished`: to go on.
    #[inline(never)]
    pub fn reset_events(&self, dom: DomId, how: Reset) -> Result<(), Stop> {
        let domain = self.named_domain(dom)?;
        self.may_act_on(&domain)?;
        if domain.id != self.domain.id && !domain.is_paused_by_controller() {
            return Err(Errno::Inval.into());
        }
        let events = &domain.events;
        let mut next = {
            let mut bindings = events.bindings.lock();
            match (how, bindings.next_reset) {
                (Reset::Begin, 0) => bindings.next_reset = 1,
                (Reset::GoOn, 1..) => {}
                _ => return Err(Errno::Busy.into()),
            }
            bindings.next_reset
        };
        let closed = self.hv.close_ports_from(&domain, &mut next);
        let mut bindings = events.bindings.lock();
        if closed.is_err() {
            bindings.next_reset = next;
            return closed;
        }
        bindings.next_reset = 0;
        if bindings.active != 0 {
            return Err(Errno::Again.into());
        }
        events.enter_two_levels(&mut bindings, &self.hv.memory.frames);
        Ok(())
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Closes ports of a dying domain, which opens none, from `next` on; when all are closed, gives back the frames
    /// that held its events.
    ///
    /// # Errors
    /// `Unfinished` with `next` moved on: call again.
    pub fn close_all_ports(&self, domain: &Domain, next: &mut u32) -> Result<(), Stop> {
        self.close_ports_from(domain, next)?;
        domain.events.enter_two_levels(&mut domain.events.bindings.lock(), &self.memory.frames);
        Ok(())
    }

    fn close_ports_from(&self, domain: &Domain, next: &mut u32) -> Result<(), Stop> {
        let mut work = 0;
        for port in (*next).max(1)..domain.events.valid() {
            *next = port;
            if work >= PREEMPT_INTERVAL * PASSED_OVER {
                return Err(Stop::Unfinished);
            }
            let is_open = domain.events.port(port).is_some_and(|state| state != Port::CLOSED);
            // A port that cannot be closed now, because the other end keeps changing, is met again.
            if is_open && self.close_port(domain, port) == Err(Stop::Unfinished) {
                return Err(Stop::Unfinished);
            }
            work += if is_open { PASSED_OVER } else { 1 };
        }
        Ok(())
    }
}
