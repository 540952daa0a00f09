//! Making and ending domains, and what is said of a whole domain.

use super::{Answer, Outcome};
use crate::hypercall::number::count;
use crate::{
    addr::Mfn,
    caller::Caller,
    config::MAX_PORTS,
    domain::{Config, Domain},
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Control, Stop},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    domctl::{
        CreateFlags, Domctl, DomctlAddressSize, DomctlCreatedomain, DomctlGetpageframeinfo3, DomctlHypercallInit,
        DomctlMaxMem, DomctlMaxVcpus, DomctlSetdomainhandle, EmulationFlags, MiscFlags, XEN_DOMCTL_GRANT_VERSION_MASK,
        XEN_DOMCTL_PFINFO_L1TAB, XEN_DOMCTL_PFINFO_LPINTAB, XEN_DOMCTL_PFINFO_LTAB_SHIFT, XEN_DOMCTL_PFINFO_XTAB,
    },
    domid::DomId,
    errno::Errno,
};

const _: () = assert!(XEN_DOMCTL_PFINFO_L1TAB == 1 << XEN_DOMCTL_PFINFO_LTAB_SHIFT);

impl<M: Machine> Caller<'_, M> {
    /// Makes a domain. Its id is the one asked for, or with 0 or an id that no domain can have, one of the hypervisor's
    /// choice.
    pub(super) fn create_domain(&self, _: Control, op: &mut Domctl) -> Outcome {
        const KNOWN: CreateFlags = CreateFlags::XS_DOMAIN.union(CreateFlags::OOS_OFF);
        let wanted: DomctlCreatedomain = op.get();
        self.hv.reap_dead_domains();
        let is_wanted = op.domain != DomId::DOM0 && op.domain.is_real();
        let id = self.hv.domains.choose_id(is_wanted.then_some(op.domain))?;
        let version = wanted.grant_opts & XEN_DOMCTL_GRANT_VERSION_MASK;
        let flags = CreateFlags::from_bits_retain(wanted.flags);
        let emulated = EmulationFlags::from_bits(wanted.arch.emulation_flags);
        let misc = MiscFlags::from_bits(wanted.arch.misc_flags);
        if flags.contains(CreateFlags::HVM) || emulated.is_some_and(|devices| !EmulationFlags::PIT.contains(devices)) {
            return Err(Errno::OpNotSupp.into());
        }
        if !KNOWN.contains(flags)
            || wanted.iommu_opts != 0
            || wanted.vmtrace_size != 0
            || emulated.is_none()
            || misc.is_none()
            || wanted.grant_opts & !XEN_DOMCTL_GRANT_VERSION_MASK != 0
            || !(1..=self.hv.grants.max_version).contains(&version)
        {
            return Err(Errno::Inval.into());
        }
        // A negative number is none: the command line's is in force.
        let limit = |wanted: i32, range: core::ops::RangeInclusive<u32>| match u32::try_from(wanted) {
            Ok(wanted) if !range.contains(&wanted) => Err(Errno::Inval),
            Ok(wanted) => Ok(wanted),
            Err(_) => Ok(*range.end()),
        };
        let grants = self.hv.grants;
        let config = Config {
            id: Some(id),
            is_privileged: false,
            is_store: flags.contains(CreateFlags::XS_DOMAIN),
            is_msr_relaxed: misc == Some(MiscFlags::MSR_RELAXED),
            handle: wanted.handle,
            pool: wanted.cpupool_id,
            max_vcpus: wanted.max_vcpus,
            max_port: wanted.max_evtchn_port.min(count(MAX_PORTS).wrapping_sub(1)),
            max_grant_frames: limit(wanted.max_grant_frames, 1..=grants.max_frames)?,
            max_grant_version: version,
            max_maptrack_frames: limit(wanted.max_maptrack_frames, 0..=grants.max_maptrack_frames)?,
        };
        op.domain = self.hv.create_domain(&config)?.id;
        // What PV guests' shadows would be like; there are none.
        op.set(&DomctlCreatedomain { flags: (flags | CreateFlags::OOS_OFF).bits(), ..wanted });
        Ok(Answer::CopyBack)
    }

    /// Ends a domain; preempted, and executed again, until all is given back that nobody else holds.
    pub(super) fn destroy_domain(&self, _: Control, domain: &Arc<Domain>) -> Outcome {
        self.other_than_self(domain)?;
        self.hv.tear_down(domain)?;
        Ok(Answer::Done)
    }

    pub(super) fn pause_domain(&self, _: Control, domain: &Domain) -> Outcome {
        self.other_than_self(domain)?;
        self.hv.pause_by_controller(domain)?;
        self.hv.wait_until_domain_off(domain);
        Ok(Answer::Done)
    }

    pub(super) fn unpause_domain(&self, _: Control, domain: &Domain) -> Outcome {
        self.hv.unpause_by_controller(domain)?;
        Ok(Answer::Done)
    }

    pub(super) fn resume_domain(&self, _: Control, domain: &Domain) -> Outcome {
        self.other_than_self(domain)?;
        self.hv.resume_domain(domain);
        Ok(Answer::Done)
    }

    /// Creates the vcpus, as many as the domain was made for.
    pub(super) fn make_vcpus(&self, _: Control, domain: &Arc<Domain>, request: DomctlMaxVcpus) -> Outcome {
        self.other_than_self(domain)?;
        if request.max != domain.max_vcpus.load(Ordering::Relaxed) {
            return Err(Errno::Inval.into());
        }
        for id in (0..request.max).filter(|&id| domain.vcpu(id).is_none()) {
            self.hv.add_vcpu(domain, id)?;
            if self.must_yield() {
                return Err(Stop::Unfinished);
            }
        }
        Ok(Answer::Done)
    }

    /// Gives one of the system's virtual interrupts to the domain.
    pub(super) fn set_virq_handler(&self, _: Control, domain: &Domain, virq: u32) -> Outcome {
        self.hv.set_virq_handler(virq, domain)?;
        Ok(Answer::Done)
    }

    pub(super) fn hypercall_init(&self, _: Control, domain: &Domain, request: DomctlHypercallInit) -> Outcome {
        let mfn = Mfn::new(request.gmfn).ok_or(Errno::Inval)?;
        self.hv.fill_hypercall_page(domain, mfn).map_err(|_| Errno::Inval)?;
        Ok(Answer::Done)
    }

    /// What frames of the domain are used as, for whoever saves it.
    pub(super) fn get_page_types(&self, _: Control, domain: &Domain, request: DomctlGetpageframeinfo3) -> Outcome {
        /// As many as in one call of Xen's.
        const MAX_FRAMES: u64 = 1024;
        if request.num > MAX_FRAMES {
            return Err(Errno::TooBig.into());
        }
        let hv = self.hv;
        let array = GuestPtr::<u64>::new(request.array, request.num)?;
        for index in 0..request.num {
            let raw = array.read(hv.machine(), index)?;
            let frame = Mfn::new(raw).and_then(|number| hv.memory.meant(domain.memory.named(), number));
            let state =
                frame.filter(|&(mfn, _)| hv.memory.frames.is_ram(mfn)).map(|(mfn, _)| hv.memory.frames.state(mfn));
            let kind = match state.filter(|s| s.owner() == domain.owner() && s.is_allocated()) {
                None => XEN_DOMCTL_PFINFO_XTAB,
                Some(state) if state.uses() == 0 => 0,
                Some(state) => {
                    let level = state.kind().level().unwrap_or(0);
                    let pinned = if state.is_pinned() { XEN_DOMCTL_PFINFO_LPINTAB } else { 0 };
                    level << XEN_DOMCTL_PFINFO_LTAB_SHIFT | pinned
                }
            };
            array.write(hv.machine(), index, &kind.into())?;
        }
        Ok(Answer::Done)
    }
}

pub(super) fn limit_memory(_: Control, domain: &Domain, request: DomctlMaxMem) -> Outcome {
    let pages = u32::try_from(request.max_memkb / 4).unwrap_or(u32::MAX);
    domain.memory.max_pages.store(pages, Ordering::Relaxed);
    Ok(Answer::Done)
}

pub(super) fn set_handle(_: Control, domain: &Domain, request: DomctlSetdomainhandle) -> Outcome {
    *domain.handle.lock() = request.handle;
    Ok(Answer::Done)
}

/// The port by which the domain is told to suspend itself: it rings when the domain has.
pub(super) fn subscribe(_: Control, domain: &Domain, port: u32) -> Outcome {
    domain.suspend_port.store(port, Ordering::Relaxed);
    Ok(Answer::Done)
}

pub(super) fn set_address_size(_: Control, request: DomctlAddressSize) -> Outcome {
    if request.size == 64 { Ok(Answer::Done) } else { Err(Errno::Inval.into()) }
}

pub(super) fn get_address_size(_: Control, op: &mut Domctl) -> Outcome {
    op.set(&DomctlAddressSize { size: 64 });
    Ok(Answer::CopyBack)
}
