//! What a toolstack is told of a domain (`xen_domctl_getdomaininfo`).

use crate::{
    Hypervisor,
    domain::{Domain, NOT_SHUT_DOWN, vcpu::Pauses},
    machine::Machine,
};
use core::sync::atomic::Ordering;
use oxen_abi::domctl::{
    DomctlGetdomaininfo, XEN_DOMINF_BLOCKED, XEN_DOMINF_DEBUGGED, XEN_DOMINF_DYING, XEN_DOMINF_PAUSED,
    XEN_DOMINF_RUNNING, XEN_DOMINF_SHUTDOWN, XEN_DOMINF_SHUTDOWNMASK, XEN_DOMINF_SHUTDOWNSHIFT, XEN_DOMINF_XS_DOMAIN,
    XEN_INVALID_MAX_VCPU_ID,
};
use zerocopy::FromZeros;

impl<M: Machine> Hypervisor<M> {
    /// All of it, at this moment.
    #[must_use]
    pub fn domain_info(&self, domain: &Domain) -> DomctlGetdomaininfo {
        let now = self.now();
        let up = || domain.each_vcpu().filter(|v| !v.pauses.load(Ordering::Relaxed).intersects(Pauses::DOWN));
        let mut flags = 0;
        let mut set = |condition: bool, flag| flags |= if condition { flag } else { 0 };
        set(up().any(|v| v.sched.is_running()), XEN_DOMINF_RUNNING);
        set(
            up().next().is_some() && up().all(|v| v.pauses.load(Ordering::Relaxed).intersects(Pauses::WAITING)),
            XEN_DOMINF_BLOCKED,
        );
        set(domain.is_paused_by_controller(), XEN_DOMINF_PAUSED);
        set(domain.is_dead(), XEN_DOMINF_DYING);
        set(domain.is_store, XEN_DOMINF_XS_DOMAIN);
        set(domain.is_debugged.load(Ordering::Relaxed), XEN_DOMINF_DEBUGGED);
        let reason = domain.shutdown.load(Ordering::Relaxed);
        if reason != NOT_SHUT_DOWN {
            set(true, XEN_DOMINF_SHUTDOWN);
            flags |= (reason & XEN_DOMINF_SHUTDOWNMASK) << XEN_DOMINF_SHUTDOWNSHIFT;
        }
        DomctlGetdomaininfo {
            domain: domain.id,
            flags,
            tot_pages: domain.owner.slot().map_or(0, |slot| self.memory.frames.reserved(slot)).into(),
            max_pages: domain.memory.max_pages.load(Ordering::Relaxed).into(),
            outstanding_pages: domain.owner.slot().map_or(0, |slot| self.memory.frames.claimed_by(slot)).into(),
            shared_info_frame: domain.shared_info.mfn().raw(),
            cpu_time: domain.each_vcpu().map(|v| v.sched.runstate.lock().ran(now)).sum(),
            nr_online_vcpus: up().count() as u32,
            max_vcpu_id: domain.each_vcpu().map(|v| v.id).max().unwrap_or(XEN_INVALID_MAX_VCPU_ID),
            handle: *domain.handle.lock(),
            cpupool: domain.pool.load(Ordering::Relaxed),
            ..DomctlGetdomaininfo::new_zeroed()
        }
    }
}
