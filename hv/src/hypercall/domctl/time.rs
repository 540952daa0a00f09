//! A domain's clocks.

use super::{Answer, Outcome, other_than_self};
use crate::{caller::Caller, domain::Domain, machine::Machine, reply::Control};
use core::sync::atomic::Ordering;
use oxen_abi::{
    domctl::{
        Domctl, DomctlSettimeoffset, DomctlTscInfo, TSC_MODE_ALWAYS_EMULATE, TSC_MODE_DEFAULT, TSC_MODE_NEVER_EMULATE,
    },
    errno::Errno,
};

pub(super) fn set_offset<M: Machine>(
    caller: &Caller<'_, M>,
    _: Control,
    domain: &Domain,
    request: DomctlSettimeoffset,
) -> Outcome {
    domain.time_offset.store(request.time_offset_seconds, Ordering::Relaxed);
    caller.hv.publish_wall_clock(&domain);
    Ok(Answer::Done)
}

/// The time stamp counter is never emulated: a toolstack that will have it so is told.
pub(super) fn set_tsc<M: Machine>(
    caller: &Caller<'_, M>,
    _: Control,
    domain: &Domain,
    request: DomctlTscInfo,
) -> Outcome {
    other_than_self(caller, domain)?;
    match request.tsc_mode {
        TSC_MODE_DEFAULT | TSC_MODE_NEVER_EMULATE => {}
        TSC_MODE_ALWAYS_EMULATE => return Err(Errno::OpNotSupp.into()),
        _ => return Err(Errno::Inval.into()),
    }
    *domain.tsc.lock() = (request.tsc_mode, request.incarnation.wrapping_add(1));
    Ok(Answer::Done)
}

pub(super) fn get_tsc<M: Machine>(caller: &Caller<'_, M>, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
    other_than_self(caller, domain)?;
    let khz = caller.hv.machine().frequency() / 1000;
    let (tsc_mode, incarnation) = *domain.tsc.lock();
    op.set(&DomctlTscInfo {
        tsc_mode,
        gtsc_khz: u32::try_from(khz).unwrap_or(u32::MAX),
        incarnation,
        pad: 0,
        elapsed_nsec: caller.hv.now(),
    });
    Ok(Answer::CopyBack)
}
