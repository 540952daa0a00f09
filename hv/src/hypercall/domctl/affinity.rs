//! Where a domain's vcpus run and how much.

use super::{Answer, Outcome, find};
use crate::{caller::Caller, domain::Domain, machine::Machine, reply::Control, sched::run_queue::Share};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    domctl::{
        AffinityFlags, Domctl, DomctlSchedCredit, DomctlSchedulerOp, DomctlVcpuaffinity, XEN_DOMCTL_SCHEDOP_GETINFO,
        XEN_DOMCTL_SCHEDOP_PUTINFO, XEN_SCHEDULER_CREDIT,
    },
    errno::Errno,
};

/// Which maps are meant. Flags without a map, or maps without flags, are refused before anything is done; others mean
/// nothing.
fn judge(request: &DomctlVcpuaffinity) -> Result<AffinityFlags, Errno> {
    let flags = AffinityFlags::from_bits_retain(request.flags);
    let lacks = |flag, map| flags.contains(flag) && map == 0;
    if flags.is_empty()
        || lacks(AffinityFlags::HARD, request.cpumap_hard.bitmap)
        || lacks(AffinityFlags::SOFT, request.cpumap_soft.bitmap)
    {
        return Err(Errno::Inval);
    }
    Ok(flags)
}

impl<M: Machine> Caller<'_, M> {
    /// Sets where a vcpu may and would like to run. What came of it is written to the caller's maps.
    pub(super) fn set_vcpu_affinity(&self, _: Control, domain: &Arc<Domain>, request: DomctlVcpuaffinity) -> Outcome {
        let vcpu = find(domain, request.vcpu)?;
        let flags = judge(&request)?;
        if flags.contains(AffinityFlags::FORCE) {
            // Where its kernel has asked for no CPU nothing is to end.
            let _none = self.hv.pin_override(domain, vcpu, None);
        }
        let mut told = Ok(());
        if flags.contains(AffinityFlags::HARD) {
            let wanted = self.read_cpu_bitmap(&request.cpumap_hard)?;
            let effective = self.hv.set_hard_affinity(domain, vcpu, wanted)?;
            told = self.write_cpu_bitmap(&request.cpumap_hard, effective);
        }
        // Where both are given, the answer is the second's alone, as in Xen.
        if flags.contains(AffinityFlags::SOFT) {
            let wanted = self.read_cpu_bitmap(&request.cpumap_soft)?;
            let effective = self.hv.set_soft_affinity(domain, vcpu, wanted)?;
            told = self.write_cpu_bitmap(&request.cpumap_soft, effective);
        }
        Ok(told.map(|()| Answer::Done)?)
    }

    pub(super) fn get_vcpu_affinity(&self, _: Control, domain: &Domain, request: DomctlVcpuaffinity) -> Outcome {
        let vcpu = find(domain, request.vcpu)?;
        let flags = judge(&request)?;
        let online = self.hv.online_mask();
        let mut told = Ok(());
        if flags.contains(AffinityFlags::HARD) {
            told = self.write_cpu_bitmap(&request.cpumap_hard, vcpu.sched.affinity.load(Ordering::Relaxed) & online);
        }
        // Where both are asked for, the answer is the second's alone, as in Xen.
        if flags.contains(AffinityFlags::SOFT) {
            told =
                self.write_cpu_bitmap(&request.cpumap_soft, vcpu.sched.soft_affinity.load(Ordering::Relaxed) & online);
        }
        Ok(told.map(|()| Answer::Done)?)
    }

    /// Sets or gets the domain's weight and cap.
    pub(super) fn domctl_scheduler_op(&self, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
        /// A cap that says "as it was".
        const SAME_CAP: u16 = u16::MAX;
        let request: DomctlSchedulerOp = op.get();
        if request.sched_id != XEN_SCHEDULER_CREDIT {
            return Err(Errno::Inval.into());
        }
        let current = *domain.share.lock();
        match request.cmd {
            XEN_DOMCTL_SCHEDOP_PUTINFO => {
                let DomctlSchedCredit { weight, cap } = request.credit;
                let weight = if weight == 0 { current.weight } else { weight };
                let cap = if cap == SAME_CAP { current.cap } else { cap };
                self.hv.set_share(domain, Share { weight, cap });
                Ok(Answer::Done)
            }
            XEN_DOMCTL_SCHEDOP_GETINFO => {
                let credit = DomctlSchedCredit { weight: current.weight, cap: current.cap };
                op.set(&DomctlSchedulerOp { credit, ..request });
                Ok(Answer::CopyBack)
            }
            _ => Err(Errno::Inval.into()),
        }
    }
}
