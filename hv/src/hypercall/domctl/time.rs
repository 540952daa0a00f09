//! A domain's clocks.

use super::{Answer, Outcome, other_than_self};
use crate::{caller::Caller, domain::Domain, machine::Machine, reply::Control, sched::clock};
use core::sync::atomic::Ordering;
use oxen_abi::domctl::{Domctl, DomctlSettimeoffset, DomctlTscInfo};

pub(super) fn set_offset<M: Machine>(
    caller: &Caller<'_, M>,
    _: Control,
    domain: &Domain,
    request: DomctlSettimeoffset,
) -> Outcome {
    domain.time_offset.store(request.time_offset_seconds, Ordering::Relaxed);
    domain.publish_wall_clock(caller.hv);
    Ok(Answer::Done)
}

/// Chooses the domain's time stamp counter, and tells its vcpus what time goes with it.
pub(super) fn set_tsc<M: Machine>(
    caller: &Caller<'_, M>,
    _: Control,
    domain: &Domain,
    request: DomctlTscInfo,
) -> Outcome {
    other_than_self(caller, domain)?;
    let hv = caller.hv;
    domain.pause(hv);
    domain.wait_until_off(hv);
    let done = domain.tsc.set(&request, hv.now(), own_khz(caller));
    if done.is_ok() {
        for vcpu in domain.each_vcpu() {
            if let Some(place) = *vcpu.info.lock() {
                clock::publish(&place, domain.time_info(hv));
            }
            vcpu.sched.time_is_due.store(true, Ordering::Relaxed);
        }
    }
    domain.unpause(hv);
    done?;
    Ok(Answer::Done)
}

pub(super) fn get_tsc<M: Machine>(caller: &Caller<'_, M>, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
    other_than_self(caller, domain)?;
    op.set(&domain.tsc.get(caller.hv.now(), own_khz(caller)));
    Ok(Answer::CopyBack)
}

fn own_khz<M: Machine>(caller: &Caller<'_, M>) -> u32 {
    u32::try_from(caller.hv.machine.frequency() / 1000).unwrap_or(u32::MAX)
}
