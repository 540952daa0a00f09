//! What a toolstack is told of a domain (`xen_domctl_getdomaininfo`).

use crate::{
    Hypervisor,
    domain::{
        Domain, NOT_SHUT_DOWN,
        vcpu::{Pauses, Vcpu},
    },
    machine::Machine,
};
use core::sync::atomic::Ordering;
use oxen_abi::domctl::{
    DomctlGetdomaininfo, InfoFlags, XEN_DOMINF_SHUTDOWNMASK, XEN_DOMINF_SHUTDOWNSHIFT, XEN_INVALID_MAX_VCPU_ID,
};
use zerocopy::FromZeros;

impl<M: Machine> Hypervisor<M> {
    /// All of it, at this moment.
    #[must_use]
    pub fn domain_info(&self, domain: &Domain) -> DomctlGetdomaininfo {
        let now = self.now();
        let up = || domain.each_vcpu().filter(|v| !v.pauses.load(Ordering::Relaxed).intersects(Pauses::DOWN));
        let is_waiting = |v: &Vcpu| v.pauses.load(Ordering::Relaxed).intersects(Pauses::WAITING);
        let reason = Some(domain.shutdown.load(Ordering::Relaxed)).filter(|&reason| reason != NOT_SHUT_DOWN);
        let code = reason.map_or(0, |reason| (reason & XEN_DOMINF_SHUTDOWNMASK) << XEN_DOMINF_SHUTDOWNSHIFT);
        let mut flags = InfoFlags::empty();
        flags.set(InfoFlags::RUNNING, up().any(|v| v.sched.is_running()));
        flags.set(InfoFlags::BLOCKED, up().next().is_some() && up().all(|v| is_waiting(v)));
        flags.set(InfoFlags::PAUSED, domain.is_paused_by_controller());
        flags.set(InfoFlags::DYING, domain.is_dead());
        flags.set(InfoFlags::XS_DOMAIN, domain.is_store);
        flags.set(InfoFlags::DEBUGGED, domain.is_debugged.load(Ordering::Relaxed));
        flags.set(InfoFlags::SHUTDOWN, reason.is_some());
        DomctlGetdomaininfo {
            domain: domain.id,
            flags: flags.bits() | code,
            tot_pages: domain.owner().slot().map_or(0, |slot| self.memory.frames.reserved(slot)).into(),
            max_pages: domain.memory.max_pages.load(Ordering::Relaxed).into(),
            outstanding_pages: domain.owner().slot().map_or(0, |slot| self.memory.frames.claimed_by(slot)).into(),
            shared_info_frame: self.memory.told_of(&domain.memory, domain.shared_info.mfn()),
            cpu_time: domain.each_vcpu().map(|v| v.sched.runstate.lock().ran(now)).sum(),
            nr_online_vcpus: up().count() as u32,
            max_vcpu_id: domain.each_vcpu().map(|v| v.id).max().unwrap_or(XEN_INVALID_MAX_VCPU_ID),
            handle: *domain.handle.lock(),
            cpupool: domain.pool.load(Ordering::Relaxed),
            ..DomctlGetdomaininfo::new_zeroed()
        }
    }
}
