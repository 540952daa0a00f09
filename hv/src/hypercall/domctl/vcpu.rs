//! What is said of a domain's vcpus: contexts, where and how much they run.

use super::{Answer, Outcome, other_than_self, read_bitmap, write_bitmap};
use crate::{
    caller::{Caller, Control},
    domain::{
        Domain, context,
        vcpu::{Vcpu, pause},
    },
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    sched::{self, run_queue::Share},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    domctl::{
        Domctl, DomctlGetvcpuinfo, DomctlSchedCredit, DomctlSchedulerOp, DomctlVcpuaffinity, DomctlVcpucontext,
        XEN_DOMCTL_SCHEDOP_GETINFO, XEN_DOMCTL_SCHEDOP_PUTINFO, XEN_SCHEDULER_CREDIT, XEN_VCPUAFFINITY_HARD,
        XEN_VCPUAFFINITY_SOFT,
    },
    errno::Errno,
    guest_context::VcpuGuestContext,
};
use zerocopy::FromZeros;

fn find(domain: &Domain, id: u32) -> Result<&Arc<Vcpu>, Errno> {
    if id >= domain.max_vcpus.load(Ordering::Relaxed) {
        return Err(Errno::Inval);
    }
    domain.vcpu(id).ok_or(Errno::Srch)
}

/// Gives a vcpu of another domain its context; a null pointer takes it down.
pub(super) fn set_context<M: Machine>(
    caller: &Caller<'_, M>,
    _: Control,
    domain: &Domain,
    request: DomctlVcpucontext,
) -> Outcome {
    other_than_self(caller, domain)?;
    let vcpu = find(domain, request.vcpu)?;
    if request.ctxt == 0 {
        sched::pause(caller.hv, vcpu, pause::DOWN);
        return Ok(Answer::Done);
    }
    let context = GuestPtr::<VcpuGuestContext>::one(request.ctxt)?.read(&caller.hv.machine, 0)?;
    domain.pause(caller.hv);
    domain.wait_until_off(caller.hv);
    let done = {
        let stage = domain.life.lock();
        if stage.is_alive() { context::set(caller.hv, domain, vcpu, &context) } else { Err(Errno::Srch.into()) }
    };
    domain.unpause(caller.hv);
    done?;
    Ok(Answer::Done)
}

pub(super) fn get_context<M: Machine>(
    caller: &Caller<'_, M>,
    _: Control,
    domain: &Domain,
    request: DomctlVcpucontext,
) -> Outcome {
    other_than_self(caller, domain)?;
    let vcpu = find(domain, request.vcpu)?;
    let to = GuestPtr::<VcpuGuestContext>::one(request.ctxt)?;
    let mut context = VcpuGuestContext::new_zeroed();
    domain.pause(caller.hv);
    domain.wait_until_off(caller.hv);
    let done = context::get(domain, vcpu, &mut context);
    domain.unpause(caller.hv);
    done?;
    to.write(&caller.hv.machine, 0, &context)?;
    Ok(Answer::Done)
}

pub(super) fn get_info<M: Machine>(caller: &Caller<'_, M>, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
    let request: DomctlGetvcpuinfo = op.get();
    let vcpu = find(domain, request.vcpu)?;
    let pauses = vcpu.pauses.load(Ordering::Relaxed);
    op.set(&DomctlGetvcpuinfo {
        vcpu: request.vcpu,
        online: (pauses & pause::DOWN == 0).into(),
        blocked: (pauses & pause::WAITING != 0).into(),
        running: vcpu.sched.is_running().into(),
        _pad0: 0,
        cpu_time: vcpu.sched.runstate.lock().ran(caller.hv.now()),
        cpu: vcpu.sched.cpu().map_or(0, |cpu| cpu.0.into()),
        _pad1: 0,
    });
    Ok(Answer::CopyBack)
}

fn online<M: Machine>(caller: &Caller<'_, M>) -> u64 {
    caller.hv.online_cpus().fold(0, |mask, cpu| mask | 1 << cpu.0)
}

/// Sets where a vcpu may and would like to run. What came of it is written to the caller's maps.
pub(super) fn set_affinity<M: Machine>(
    caller: &Caller<'_, M>,
    _: Control,
    domain: &Arc<Domain>,
    request: DomctlVcpuaffinity,
) -> Outcome {
    let vcpu = find(domain, request.vcpu)?;
    if request.flags == 0 || request.flags & !(XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT) != 0 {
        return Err(Errno::Inval.into());
    }
    let online = online(caller);
    if request.flags & XEN_VCPUAFFINITY_HARD != 0 {
        let wanted = read_bitmap(caller, &request.cpumap_hard)?;
        if wanted & online == 0 {
            return Err(Errno::Inval.into());
        }
        set_hard_affinity(caller, domain, vcpu, wanted)?;
        write_bitmap(caller, &request.cpumap_hard, wanted & online)?;
    }
    if request.flags & XEN_VCPUAFFINITY_SOFT != 0 {
        let wanted = read_bitmap(caller, &request.cpumap_soft)?;
        let hard = vcpu.sched.affinity.load(Ordering::Relaxed);
        if wanted & online & hard == 0 {
            return Err(Errno::Inval.into());
        }
        vcpu.sched.soft_affinity.store(wanted, Ordering::Relaxed);
        write_bitmap(caller, &request.cpumap_soft, wanted & online & hard)?;
    }
    Ok(Answer::Done)
}

fn set_hard_affinity<M: Machine>(
    caller: &Caller<'_, M>,
    domain: &Arc<Domain>,
    vcpu: &Arc<Vcpu>,
    wanted: u64,
) -> Result<(), Errno> {
    let (hv, is_allowed) = (caller.hv, |cpu: u16| wanted >> cpu & 1 != 0);
    if vcpu.sched.cpu().is_some_and(|cpu| is_allowed(cpu.0)) {
        vcpu.sched.affinity.store(wanted, Ordering::Relaxed);
        return Ok(());
    }
    // The vcpu has to move, so it must be off its CPU, and nobody can take the caller's own off.
    if domain.id == caller.domain.id {
        return Err(Errno::Busy);
    }
    domain.pause(hv);
    domain.wait_until_off(caller.hv);
    let old = vcpu.sched.affinity.swap(wanted, Ordering::Relaxed);
    let moved = sched::reseat(hv, domain, vcpu).inspect_err(|_| vcpu.sched.affinity.store(old, Ordering::Relaxed));
    domain.unpause(hv);
    moved
}

pub(super) fn get_affinity<M: Machine>(
    caller: &Caller<'_, M>,
    _: Control,
    domain: &Domain,
    request: DomctlVcpuaffinity,
) -> Outcome {
    let vcpu = find(domain, request.vcpu)?;
    let online = online(caller);
    if request.flags & XEN_VCPUAFFINITY_HARD != 0 {
        write_bitmap(caller, &request.cpumap_hard, vcpu.sched.affinity.load(Ordering::Relaxed) & online)?;
    }
    if request.flags & XEN_VCPUAFFINITY_SOFT != 0 {
        write_bitmap(caller, &request.cpumap_soft, vcpu.sched.soft_affinity.load(Ordering::Relaxed) & online)?;
    }
    Ok(Answer::Done)
}

/// Sets or gets the domain's weight and cap.
pub(super) fn share<M: Machine>(caller: &Caller<'_, M>, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
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
            sched::set_share(caller.hv, domain, Share { weight, cap });
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
