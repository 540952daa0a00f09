//! A domain's life between its making and its end: pausing and going on, shutting down, crashing.

use crate::{
    Hypervisor,
    caller::Caller,
    console::Level,
    domain::{Domain, NOT_SHUT_DOWN, vcpu::Pauses},
    machine::Machine,
    reply::Fault,
};
use core::sync::atomic::Ordering;
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF},
    trace::TRC_SCHED_SHUTDOWN,
    virq::VIRQ_DOM_EXC,
};

/// Names of the `SHUTDOWN_*` reasons (`sched.h`).
const REASONS: [&str; 6] = ["poweroff", "reboot", "suspend", "crash", "watchdog", "soft reset"];

/// Pauses that a toolstack can ask for without taking one back.
const MAX_CONTROLLER_PAUSES: u32 = 255;

impl<M: Machine> Hypervisor<M> {
    /// Stops the domain until [`Self::unpause_domain`], which may come from elsewhere: pauses count. The caller's own
    /// domain goes on until it leaves the hypervisor.
    pub fn pause_domain(&self, domain: &Domain) {
        let stage = domain.life.lock();
        self.hold_domain(domain);
        drop(stage);
    }

    /// Takes one pause back.
    pub fn unpause_domain(&self, domain: &Domain) {
        let stage = domain.life.lock();
        self.release_domain(domain);
        drop(stage);
    }

    /// Pauses in the name of the toolstack.
    ///
    /// # Errors
    /// `Overflow` after too many.
    pub fn pause_by_controller(&self, domain: &Domain) -> Result<(), Errno> {
        let stage = domain.life.lock();
        let more = |n: u32| n.checked_add(1).filter(|&n| n <= MAX_CONTROLLER_PAUSES);
        let counted = domain.controller_pauses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map_err(|_| Errno::Overflow)?;
        self.hold_domain(domain);
        drop(stage);
        Ok(())
    }

    /// Takes back one pause of the toolstack.
    ///
    /// # Errors
    /// `Inval` if there is none.
    pub fn unpause_by_controller(&self, domain: &Domain) -> Result<(), Errno> {
        let stage = domain.life.lock();
        let counted = domain.controller_pauses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        counted.map_err(|_| Errno::Inval)?;
        domain.has_begun.store(true, Ordering::Relaxed);
        self.release_domain(domain);
        drop(stage);
        Ok(())
    }

    /// Publishes the wall clock in its `shared_info`.
    pub fn publish_wall_clock(&self, domain: &Domain) {
        let stage = domain.life.lock();
        if stage.is_alive() {
            self.write_wall_clock(domain);
        }
        drop(stage);
    }

    /// Writes it; `life` is held, and the domain alive.
    pub(super) fn write_wall_clock(&self, domain: &Domain) {
        self.time.publish_wall_clock(self.machine(), domain.shared_info, domain.time_offset.load(Ordering::Relaxed));
    }

    /// Waits until no CPU has a vcpu of this paused domain. Not for the caller's own domain.
    pub fn wait_until_domain_off(&self, domain: &Domain) {
        for vcpu in domain.each_vcpu() {
            self.wait_until_off(domain, vcpu);
        }
    }

    /// One pause more; `life` is held.
    pub(super) fn hold_domain(&self, domain: &Domain) {
        if domain.pause_count.fetch_add(1, Ordering::AcqRel) == 0 {
            for vcpu in domain.each_vcpu() {
                self.pause_vcpu(vcpu, Pauses::DOMAIN);
            }
        }
    }

    /// One pause less; `life` is held.
    fn release_domain(&self, domain: &Domain) {
        let old = domain.pause_count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| n.checked_sub(1));
        if old == Ok(1) {
            for vcpu in domain.each_vcpu() {
                self.unpause_vcpu(vcpu, Pauses::DOMAIN);
            }
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// The domain ends, for a `SHUTDOWN_*` reason: its vcpus stop and the toolstack is told. The first reason stays.
    /// The control domain's end is the machine's.
    pub fn shut_down(&'static self, domain: &Domain, reason: u32) {
        let reason = match domain.shutdown_code.load(Ordering::Relaxed) {
            NOT_SHUT_DOWN => reason,
            said => said,
        };
        if domain.is_privileged() {
            let name = usize::try_from(reason).ok().and_then(|reason| REASONS.get(reason)).unwrap_or(&"unknown");
            self.print(format_args!("The control domain has shut down (reason {reason}: {name})"));
            match reason {
                SHUTDOWN_POWEROFF => self.machine().power_off(),
                SHUTDOWN_CRASH => self.machine().fail(),
                _ => self.machine().reboot(),
            }
        }
        let stage = domain.life.lock();
        let first = domain.shutdown.compare_exchange(NOT_SHUT_DOWN, reason, Ordering::AcqRel, Ordering::Relaxed);
        if first.is_ok() {
            for vcpu in domain.each_vcpu() {
                self.pause_vcpu(vcpu, Pauses::SHUT_DOWN);
            }
        }
        drop(stage);
        if first.is_ok() {
            self.note(TRC_SCHED_SHUTDOWN, || [domain.id.0.into(), 0, reason]);
            self.show_counters(domain);
            let port = domain.suspend_port.load(Ordering::Relaxed);
            if port != 0 {
                self.send_event_for(domain, port);
            }
            self.raise_global_virq(VIRQ_DOM_EXC);
        }
    }

    /// Prints what a domain has asked for, if that is counted.
    pub fn show_counters(&self, domain: &Domain) {
        for (number, count) in domain.counters.hypercalls() {
            self.print(format_args!("d{}: hypercall {number}: {count}", domain.id.0));
        }
        for (what, count) in domain.counters.others() {
            self.print(format_args!("d{}: {what}: {count}", domain.id.0));
        }
    }

    /// Lets a domain that shut down go on (`XEN_DOMCTL_resumedomain`).
    pub fn resume_domain(&self, domain: &Domain) {
        let stage = domain.life.lock();
        if stage.is_alive() && domain.shutdown.swap(NOT_SHUT_DOWN, Ordering::AcqRel) != NOT_SHUT_DOWN {
            for vcpu in domain.each_vcpu() {
                self.unpause_vcpu(vcpu, Pauses::SHUT_DOWN);
            }
        }
        drop(stage);
    }
}

impl<M: Machine> Caller<'_, M> {
    /// Ends the caller's domain: it broke a promise that it cannot be told about. Where and why goes to the console.
    #[cold]
    pub fn crash(&self, reason: impl core::fmt::Display) {
        self.tell_end(format_args!("crashed: {reason}"));
        self.hv.shut_down(self.domain, SHUTDOWN_CRASH);
    }

    /// Ends the domain to one of whose tables an entry was to be written that it may not have: the caller's own, or the
    /// one for which the caller, who is told, would have changed it.
    #[cold]
    pub fn end_for_absent_entry(&mut self) {
        let reason = Fault::AbsentEntry.reason();
        let guilty = |domain: &Domain| domain.memory.absent_entry.swap(0, Ordering::Relaxed);
        let own = guilty(self.domain);
        if own != 0 {
            return self.crash(format_args!("{reason}: {own:#018x}"));
        }
        for domain in self.hv.domains.from(DomId::DOM0) {
            let entry = guilty(&domain);
            if entry != 0 {
                self.hv.log(Level::Error, format_args!("d{} crashed: {reason}: {entry:#018x}", domain.id.0));
                self.hv.shut_down(&domain, SHUTDOWN_CRASH);
            }
        }
        self.regs.rax = Errno::Inval.to_return_value();
    }

    /// Ends the caller's domain: it has no handler for an exception of its own.
    #[cold]
    pub fn crash_by_exception(&self, vector: u8, error_code: Option<u32>) {
        let (error, cr2) = (error_code.unwrap_or(0), self.state.info.cr2());
        self.tell_end(format_args!(
            "crashed: exception {vector} without a handler, error code {error:#x}, cr2 {cr2:#018x}"
        ));
        self.hv.shut_down(self.domain, SHUTDOWN_CRASH);
    }

    /// The caller's domain ends by its own word. Where the control domain was when it gave up goes to the console:
    /// nobody else is left to look.
    pub fn shut_down_by_itself(&self, reason: u32) {
        if self.domain.is_privileged() && reason == SHUTDOWN_CRASH {
            self.tell_end(format_args!("says that it has crashed"));
        }
        self.hv.shut_down(self.domain, reason);
    }

    /// The caller's domain has no vcpu any more that could run, which ends it as powering off does. In the control
    /// domain nobody can have meant that: its kernel has failed before it could tell anybody, and so has the machine.
    #[cold]
    pub fn end_without_vcpus(&self) {
        if !self.domain.is_privileged() {
            return self.hv.shut_down(self.domain, SHUTDOWN_POWEROFF);
        }
        self.tell_end(format_args!("has gone off line as the last vcpu, without a shutdown"));
        let hint = "Kernels end so that fail early; earlyprintk=xen on Linux's command line shows why";
        self.hv.print(format_args!("{hint}"));
        self.hv.shut_down(self.domain, SHUTDOWN_CRASH);
    }

    /// Prints how a domain ends, and where its vcpu is.
    fn tell_end(&self, what: core::fmt::Arguments<'_>) {
        let (domain, vcpu, regs) = (self.domain.id, self.vcpu.id, &*self.regs);
        self.hv.print(format_args!("{domain}v{vcpu} {what}"));
        self.hv.print(format_args!("{regs}"));
    }
}
