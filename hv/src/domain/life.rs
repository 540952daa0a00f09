//! A domain's life between its making and its end: pausing and going on, shutting down, crashing.

use super::{Domain, NOT_SHUT_DOWN, teardown, vcpu::pause};
use crate::{Hypervisor, caller::Caller, event, machine::Machine, sched};
use core::sync::atomic::Ordering;
use oxen_abi::{
    errno::Errno,
    sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF},
    virq::VIRQ_DOM_EXC,
};

/// Names of the `SHUTDOWN_*` reasons (`sched.h`).
const REASONS: [&str; 6] = ["poweroff", "reboot", "suspend", "crash", "watchdog", "soft reset"];

/// Pauses that a toolstack can ask for without taking one back.
const MAX_CONTROLLER_PAUSES: u32 = 255;

impl Domain {
    /// Stops the domain until [`Self::unpause`], which may come from elsewhere: pauses count. The caller's own domain
    /// goes on until it leaves the hypervisor.
    pub fn pause<M: Machine>(&self, hv: &Hypervisor<M>) {
        let stage = self.life.lock();
        self.hold(hv);
        drop(stage);
    }

    /// Takes one pause back.
    pub fn unpause<M: Machine>(&self, hv: &Hypervisor<M>) {
        let stage = self.life.lock();
        self.release(hv);
        drop(stage);
    }

    /// Pauses in the name of the toolstack.
    ///
    /// # Errors
    /// `Overflow` after too many.
    pub fn pause_by_controller<M: Machine>(&self, hv: &Hypervisor<M>) -> Result<(), Errno> {
        let stage = self.life.lock();
        let more = |n: u32| n.checked_add(1).filter(|&n| n <= MAX_CONTROLLER_PAUSES);
        let counted = self.controller_pauses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map_err(|_| Errno::Overflow)?;
        self.hold(hv);
        drop(stage);
        Ok(())
    }

    /// Takes back one pause of the toolstack.
    ///
    /// # Errors
    /// `Inval` if there is none.
    pub fn unpause_by_controller<M: Machine>(&self, hv: &Hypervisor<M>) -> Result<(), Errno> {
        let stage = self.life.lock();
        let counted = self.controller_pauses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        counted.map_err(|_| Errno::Inval)?;
        self.has_begun.store(true, Ordering::Relaxed);
        self.release(hv);
        drop(stage);
        Ok(())
    }

    /// Whether it was ever let go: from then on it is what it was made.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Whether the toolstack has paused it.
    #[must_use]
    pub fn is_paused_by_controller(&self) -> bool {
        self.controller_pauses.load(Ordering::Relaxed) != 0
    }

    /// Whether it has nothing left but what others hold of it.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        *self.life.lock() == teardown::Stage::Dead
    }

    /// Publishes the wall clock in its `shared_info`.
    pub fn publish_wall_clock<M: Machine>(&self, hv: &Hypervisor<M>) {
        let stage = self.life.lock();
        if stage.is_alive() {
            self.write_wall_clock(hv);
        }
        drop(stage);
    }

    /// Writes it; `life` is held, and the domain alive.
    pub(super) fn write_wall_clock<M: Machine>(&self, hv: &Hypervisor<M>) {
        hv.time.publish_wall_clock(hv.machine(), self.shared_info, self.time_offset.load(Ordering::Relaxed));
    }

    /// Waits until no CPU has a vcpu of this paused domain. Not for the caller's own domain.
    pub fn wait_until_off<M: Machine>(&self, hv: &Hypervisor<M>) {
        for vcpu in self.each_vcpu() {
            sched::wait_until_off(hv, vcpu);
        }
    }

    /// One pause more; `life` is held.
    pub(super) fn hold<M: Machine>(&self, hv: &Hypervisor<M>) {
        if self.pause_count.fetch_add(1, Ordering::AcqRel) == 0 {
            for vcpu in self.each_vcpu() {
                sched::pause(hv, vcpu, pause::DOMAIN);
            }
        }
    }

    /// One pause less; `life` is held.
    fn release<M: Machine>(&self, hv: &Hypervisor<M>) {
        let old = self.pause_count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| n.checked_sub(1));
        if old == Ok(1) {
            for vcpu in self.each_vcpu() {
                sched::unpause(hv, vcpu, pause::DOMAIN);
            }
        }
    }
}

/// The domain ends, for a `SHUTDOWN_*` reason: its vcpus stop and the toolstack is told. The first reason stays. The
/// control domain's end is the machine's.
pub fn shut_down<M: Machine>(hv: &'static Hypervisor<M>, domain: &Domain, reason: u32) {
    let reason = match domain.shutdown_code.load(Ordering::Relaxed) {
        NOT_SHUT_DOWN => reason,
        said => said,
    };
    if domain.is_privileged {
        let name = usize::try_from(reason).ok().and_then(|reason| REASONS.get(reason)).unwrap_or(&"unknown");
        hv.print(format_args!("The control domain has shut down (reason {reason}: {name})"));
        match reason {
            SHUTDOWN_POWEROFF => hv.machine().power_off(),
            SHUTDOWN_CRASH => hv.machine().fail(),
            _ => hv.machine().reboot(),
        }
    }
    let stage = domain.life.lock();
    let first = domain.shutdown.compare_exchange(NOT_SHUT_DOWN, reason, Ordering::AcqRel, Ordering::Relaxed);
    if first.is_ok() {
        for vcpu in domain.each_vcpu() {
            sched::pause(hv, vcpu, pause::SHUT_DOWN);
        }
    }
    drop(stage);
    if first.is_ok() {
        show_counters(hv, domain);
        let port = domain.suspend_port.load(Ordering::Relaxed);
        if port != 0 {
            event::deliver::send_for(hv, domain, port);
        }
        event::virq::raise_global(hv, VIRQ_DOM_EXC);
    }
}

/// Prints what a domain has asked for, if that is counted.
pub fn show_counters<M: Machine>(hv: &Hypervisor<M>, domain: &Domain) {
    for (number, count) in domain.counters.hypercalls() {
        hv.print(format_args!("d{}: hypercall {number}: {count}", domain.id.0));
    }
    for (what, count) in domain.counters.others() {
        hv.print(format_args!("d{}: {what}: {count}", domain.id.0));
    }
}

/// Lets a domain that shut down go on (`XEN_DOMCTL_resumedomain`).
pub fn resume<M: Machine>(hv: &Hypervisor<M>, domain: &Domain) {
    let stage = domain.life.lock();
    if stage.is_alive() && domain.shutdown.swap(NOT_SHUT_DOWN, Ordering::AcqRel) != NOT_SHUT_DOWN {
        for vcpu in domain.each_vcpu() {
            sched::unpause(hv, vcpu, pause::SHUT_DOWN);
        }
    }
    drop(stage);
}

/// Ends the caller's domain: it broke a promise that it cannot be told about. Where and why goes to the console.
#[cold]
pub fn crash<M: Machine>(caller: &Caller<'_, M>, reason: &str) {
    tell_end(caller, format_args!("crashed: {reason}"));
    shut_down(caller.hv, caller.domain, SHUTDOWN_CRASH);
}

/// Ends the caller's domain: it has no handler for an exception of its own.
#[cold]
pub fn crash_by_exception<M: Machine>(caller: &Caller<'_, M>, vector: u8, error_code: Option<u32>) {
    let (error, cr2) = (error_code.unwrap_or(0), caller.state.info.cr2());
    tell_end(
        caller,
        format_args!("crashed: exception {vector} without a handler, error code {error:#x}, cr2 {cr2:#018x}"),
    );
    shut_down(caller.hv, caller.domain, SHUTDOWN_CRASH);
}

/// The caller's domain ends by its own word. Where the control domain was when it gave up goes to the console: nobody
/// else is left to look.
pub fn shut_down_by_itself<M: Machine>(caller: &Caller<'_, M>, reason: u32) {
    if caller.domain.is_privileged && reason == SHUTDOWN_CRASH {
        tell_end(caller, format_args!("says that it has crashed"));
    }
    shut_down(caller.hv, caller.domain, reason);
}

/// The caller's domain has no vcpu any more that could run, which ends it as powering off does. In the control domain
/// nobody can have meant that: its kernel has failed before it could tell anybody, and so has the machine.
#[cold]
pub fn end_without_vcpus<M: Machine>(caller: &Caller<'_, M>) {
    if !caller.domain.is_privileged {
        return shut_down(caller.hv, caller.domain, SHUTDOWN_POWEROFF);
    }
    tell_end(caller, format_args!("has gone off line as the last vcpu, without a shutdown"));
    let hint = "Kernels end so that fail early; earlyprintk=xen on Linux's command line shows why";
    caller.hv.print(format_args!("{hint}"));
    shut_down(caller.hv, caller.domain, SHUTDOWN_CRASH);
}

/// Prints how a domain ends, and where its vcpu is.
fn tell_end<M: Machine>(caller: &Caller<'_, M>, what: core::fmt::Arguments<'_>) {
    let (domain, vcpu, regs) = (caller.domain.id, caller.vcpu.id, &*caller.regs);
    caller.hv.print(format_args!("{domain}v{vcpu} {what}"));
    caller.hv.print(format_args!("{regs}"));
}
