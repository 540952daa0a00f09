//! A domain's clocks.

use super::{Answer, Outcome};
use crate::{caller::Caller, domain::Domain, machine::Machine, reply::Control, sched::clock};
use core::sync::atomic::Ordering;
use oxen_abi::domctl::{Domctl, DomctlSettimeoffset, DomctlTscInfo};

impl<M: Machine> Caller<'_, M> {
    pub(super) fn set_time_offset(&self, _: Control, domain: &Domain, request: DomctlSettimeoffset) -> Outcome {
        domain.time_offset.store(request.time_offset_seconds, Ordering::Relaxed);
        self.hv.publish_wall_clock(domain);
        Ok(Answer::Done)
    }

    /// Chooses the domain's time stamp counter, and tells its vcpus what time goes with it.
    pub(super) fn set_tsc_info(&self, _: Control, domain: &Domain, request: DomctlTscInfo) -> Outcome {
        self.other_than_self(domain)?;
        let hv = self.hv;
        hv.pause_domain(domain);
        hv.wait_until_domain_off(domain);
        let done = domain.tsc.set(&request, hv.now(), self.own_khz());
        if done.is_ok() {
            for vcpu in domain.each_vcpu() {
                if let Some(place) = *vcpu.info.lock() {
                    clock::publish(&place, hv.time_info(domain));
                }
                vcpu.sched.time_is_due.store(true, Ordering::Relaxed);
            }
        }
        hv.unpause_domain(domain);
        done?;
        Ok(Answer::Done)
    }

    pub(super) fn get_tsc_info(&self, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
        self.other_than_self(domain)?;
        op.set(&domain.tsc.get(self.hv.now(), self.own_khz()));
        Ok(Answer::CopyBack)
    }

    fn own_khz(&self) -> u32 {
        u32::try_from(self.hv.machine().frequency() / 1000).unwrap_or(u32::MAX)
    }
}
