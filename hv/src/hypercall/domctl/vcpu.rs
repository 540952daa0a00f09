//! What is said of a domain's vcpus: contexts, and what they do.

use super::{Answer, Outcome, find};
use crate::{
    caller::Caller,
    domain::{Domain, vcpu::Pauses},
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::Control,
};
use core::sync::atomic::Ordering;
use oxen_abi::{
    domctl::{Domctl, DomctlGetvcpuinfo, DomctlVcpucontext},
    errno::Errno,
    guest_context::VcpuGuestContext,
};
use zerocopy::FromZeros;

impl<M: Machine> Caller<'_, M> {
    /// Gives a vcpu of another domain its context; a null pointer takes it down.
    pub(super) fn set_vcpu_context(&self, _: Control, domain: &Domain, request: DomctlVcpucontext) -> Outcome {
        self.other_than_self(domain)?;
        let vcpu = find(domain, request.vcpu)?;
        if request.ctxt == 0 {
            self.hv.pause_vcpu(vcpu, Pauses::DOWN);
            return Ok(Answer::Done);
        }
        let context = self.copy_from_guest::<VcpuGuestContext>(request.ctxt)?;
        self.hv.pause_domain(domain);
        self.hv.wait_until_domain_off(domain);
        let done = {
            let stage = domain.life.lock();
            if stage.is_alive() { self.hv.set_context(domain, vcpu, &context) } else { Err(Errno::Srch.into()) }
        };
        self.hv.unpause_domain(domain);
        done?;
        Ok(Answer::Done)
    }

    pub(super) fn get_vcpu_context(&self, _: Control, domain: &Domain, request: DomctlVcpucontext) -> Outcome {
        self.other_than_self(domain)?;
        let vcpu = find(domain, request.vcpu)?;
        let to = GuestPtr::<VcpuGuestContext>::one(request.ctxt)?;
        let mut context = VcpuGuestContext::new_zeroed();
        self.hv.pause_domain(domain);
        self.hv.wait_until_domain_off(domain);
        let done = self.hv.get_context(domain, vcpu, &mut context);
        self.hv.unpause_domain(domain);
        done?;
        to.write(self.hv.machine(), 0, &context)?;
        Ok(Answer::Done)
    }

    pub(super) fn get_vcpu_info(&self, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
        let request: DomctlGetvcpuinfo = op.get();
        let vcpu = find(domain, request.vcpu)?;
        let pauses = vcpu.pauses.load(Ordering::Relaxed);
        op.set(&DomctlGetvcpuinfo {
            vcpu: request.vcpu,
            online: (!pauses.contains(Pauses::DOWN)).into(),
            blocked: pauses.intersects(Pauses::WAITING).into(),
            running: vcpu.sched.is_running().into(),
            _pad0: 0,
            cpu_time: vcpu.sched.runstate.lock().ran(self.hv.now()),
            cpu: vcpu.sched.cpu().map_or(0, |cpu| cpu.0.into()),
            _pad1: 0,
        });
        Ok(Answer::CopyBack)
    }
}
