//! `sched_op` and `set_timer_op`: letting go of the CPU, ending, and the one-shot timer.

use super::{
    args::{SchedOp, SetTimer},
    commands::SchedCommand,
    number::{index, long, uint},
};
use crate::{
    caller::Caller,
    cpu::timers,
    domain::NOT_SHUT_DOWN,
    event::port::Port,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Reply},
    sched::{clock::SECOND, deadlines::NEVER, vcpu::WATCHDOGS},
};
use core::sync::atomic::Ordering;
use heapless::Vec;
use oxen_abi::{
    errno::Errno,
    sched::{SchedPoll, SchedRemoteShutdown, SchedShutdown, SchedWatchdog},
};

/// Ports that one poll can wait for.
const MAX_POLLED: usize = 128;
/// Reasons are bytes (`domain_shutdown` of every toolstack reads eight bits).
const REASON: u32 = 0xff;

const _: () = assert!(NOT_SHUT_DOWN > REASON);

impl<M: Machine> Caller<'_, M> {
    /// `sched_op(command, argument)`.
    ///
    /// # Errors
    /// `Fault` for an unreadable argument, `Inval` for a port or watchdog that there is not, `Perm` and `Srch` for
    /// another domain's shutdown, `NoSpc` without a watchdog left, `NoSys` for what is not built.
    #[inline]
    pub fn sched_op(&mut self, args: &mut Args) -> Reply {
        let request = SchedOp::from(&*args);
        let argument = request.argument;
        match request.command()? {
            SchedCommand::Yield => self.yield_now(),
            SchedCommand::Block => {
                self.state.info.set_upcall_mask(false);
                self.block();
            }
            SchedCommand::Shutdown => {
                let request = self.copy_from_guest::<SchedShutdown>(argument)?;
                self.shut_down_by_itself(request.reason & REASON);
            }
            SchedCommand::Poll => self.poll_ports(argument)?,
            SchedCommand::RemoteShutdown => self.remote_shutdown(argument)?,
            SchedCommand::ShutdownCode => {
                let request = self.copy_from_guest::<SchedShutdown>(argument)?;
                // What was said first stands.
                let _ = self.domain.shutdown_code.compare_exchange(
                    NOT_SHUT_DOWN,
                    request.reason & REASON,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
            SchedCommand::Watchdog => return self.watchdog_op(argument),
            SchedCommand::PinOverride => {
                self.control()?;
                let pcpu = self.copy_from_guest::<i32>(argument)?;
                self.hv.pin_override(self.domain, self.vcpu, u32::try_from(pcpu).ok())?;
            }
        }
        Ok(0)
    }

    /// `sched_op_compat(command, argument)`: the first interface, with the reason for a shutdown as the argument.
    ///
    /// # Errors
    /// `NoSys` for an unknown command.
    #[inline]
    pub fn sched_op_compat(&mut self, args: &mut Args) -> Reply {
        let request = SchedOp::from(&*args);
        let argument = request.argument;
        match request.command()? {
            SchedCommand::Yield => self.yield_now(),
            SchedCommand::Block => {
                self.state.info.set_upcall_mask(false);
                self.block();
            }
            SchedCommand::Shutdown => self.shut_down_by_itself(uint(argument) & REASON),
            _ => return Err(Errno::NoSys.into()),
        }
        Ok(0)
    }

    #[inline(never)]
    fn poll_ports(&self, argument: u64) -> Result<(), Errno> {
        let machine = self.hv.machine();
        let request = GuestPtr::<SchedPoll>::one(argument)?.read(machine, 0)?;
        if index(request.nr_ports) > MAX_POLLED {
            return Err(Errno::Inval);
        }
        let list = GuestPtr::<u32>::new(request.ports, request.nr_ports.into())?;
        if self.event_waits() {
            return Ok(());
        }
        let mut ports: Vec<u32, MAX_POLLED> = Vec::new();
        for index in 0..list.count() {
            let port = list.read(machine, index)?;
            self.domain.events.port(port).filter(|&port| port != Port::CLOSED).ok_or(Errno::Inval)?;
            // The ports behind the first that is pending are not looked at, nor whether there are such.
            if self.hv.is_event_pending(self.domain, port) {
                return Ok(());
            }
            ports.push(port).map_err(|_| Errno::Inval)?;
        }
        self.poll(&ports, (request.timeout != 0).then_some(request.timeout));
        Ok(())
    }

    fn remote_shutdown(&self, argument: u64) -> Result<(), Errno> {
        let request = self.copy_from_guest::<SchedRemoteShutdown>(argument)?;
        if self.is_self(request.domain_id) {
            return Err(Errno::Perm);
        }
        let domain = self.named_domain(request.domain_id)?;
        self.control()?;
        self.hv.shut_down(&domain, request.reason & REASON);
        Ok(())
    }

    /// Watchdogs are numbered from 1 for the guest; 0 asks for a new one.
    fn watchdog_op(&self, argument: u64) -> Reply {
        let SchedWatchdog { id, timeout } = self.copy_from_guest(argument)?;
        let (hv, domain) = (self.hv, self.domain);
        if index(id) > WATCHDOGS {
            return Err(Errno::Inval.into());
        }
        let bites = hv.now().saturating_add(u64::from(timeout).saturating_mul(SECOND));
        let Some(which) = index(id).checked_sub(1) else {
            if timeout == 0 {
                return Err(Errno::Inval.into());
            }
            let free = (0..WATCHDOGS).find(|&w| !timers::watchdog_is_set(domain, w)).ok_or(Errno::NoSpc)?;
            hv.set_watchdog(domain, free, bites);
            return Ok(long(free).saturating_add(1));
        };
        if !timers::watchdog_is_set(domain, which) {
            return Err(Errno::Inval.into());
        }
        hv.set_watchdog(domain, which, if timeout == 0 { NEVER } else { bites });
        Ok(0)
    }

    /// `set_timer_op(timeout)`: the one-shot timer, by system time; 0 stops it.
    ///
    /// # Errors
    /// None.
    #[inline]
    pub fn set_timer_op(&mut self, args: &mut Args) -> Reply {
        /// Guests that compute a moment so far away, or before the start, are taken to be mistaken.
        const FAR: u64 = 1 << 50;
        const SOON: u64 = SECOND / 10;
        let SetTimer { timeout } = (&*args).into();
        match timeout {
            0 => self.disarm_one_shot(),
            // What is not far from the start is not far from now.
            1..FAR => self.arm_one_shot(timeout),
            _ => {
                let now = self.hv.now();
                let is_mistaken = i64::try_from(timeout).is_err() || timeout.saturating_sub(now) >= FAR;
                self.arm_one_shot(if is_mistaken { now.saturating_add(SOON) } else { timeout });
            }
        }
        Ok(0)
    }
}
