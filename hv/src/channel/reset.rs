//! Closing every port of a domain, a bounded number at a time: a reset, which the domain outlives, and its end.

use crate::{
    Hypervisor, caller::Caller, config::PREEMPT_INTERVAL, domain::Domain, domain::Progress, event::port::Port,
    machine::Machine,
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
    /// none is that could go on; `Again` if ports were opened meanwhile.
    #[inline(never)]
    pub fn reset_events(&self, dom: DomId, how: Reset) -> Result<Progress, Errno> {
        let domain = self.named_domain(dom)?;
        self.may_act_on(&domain)?;
        if domain.id != self.domain.id && !domain.is_paused_by_controller() {
            return Err(Errno::Inval);
        }
        let events = &domain.events;
        let mut next = {
            let mut bindings = events.bindings.lock();
            match (how, bindings.next_reset) {
                (Reset::Begin, 0) => bindings.next_reset = 1,
                (Reset::GoOn, 1..) => {}
                _ => return Err(Errno::Busy),
            }
            bindings.next_reset
        };
        let progress = self.hv.close_ports_from(&domain, &mut next);
        let mut bindings = events.bindings.lock();
        if progress == Progress::Stopped {
            bindings.next_reset = next;
            return Ok(progress);
        }
        bindings.next_reset = 0;
        if bindings.active != 0 {
            return Err(Errno::Again);
        }
        events.enter_two_levels(&mut bindings, &self.hv.memory.frames);
        Ok(progress)
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Closes ports of a dying domain, which opens none, from `next` on; when all are closed, gives back the frames
    /// that held its events. To be called again until it is done.
    pub fn close_all_ports(&self, domain: &Domain, next: &mut u32) -> Progress {
        let progress = self.close_ports_from(domain, next);
        if progress == Progress::Done {
            domain.events.enter_two_levels(&mut domain.events.bindings.lock(), &self.memory.frames);
        }
        progress
    }

    fn close_ports_from(&self, domain: &Domain, next: &mut u32) -> Progress {
        let mut work = 0;
        for port in (*next).max(1)..domain.events.valid() {
            *next = port;
            if work >= PREEMPT_INTERVAL * PASSED_OVER {
                return Progress::Stopped;
            }
            let is_open = domain.events.port(port).is_some_and(|state| state != Port::CLOSED);
            // A port that cannot be closed now, because the other end keeps changing, is met again.
            if is_open && self.close_port(domain, port) == Err(Errno::Again) {
                return Progress::Stopped;
            }
            work += if is_open { PASSED_OVER } else { 1 };
        }
        Progress::Done
    }
}
