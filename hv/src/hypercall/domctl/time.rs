//! A domain's clocks.

use super::{Answer, Outcome};
use crate::{caller::Caller, domain::Domain, machine::Machine, reply::Control};
use core::sync::atomic::Ordering;
use oxen_abi::{
    domctl::{
        Domctl, DomctlSettimeoffset, DomctlTscInfo, TSC_MODE_ALWAYS_EMULATE, TSC_MODE_DEFAULT, TSC_MODE_NEVER_EMULATE,
    },
    errno::Errno,
};

impl<M: Machine> Caller<'_, M> {
    pub(super) fn set_time_offset(&self, _: Control, domain: &Domain, request: DomctlSettimeoffset) -> Outcome {
        domain.time_offset.store(request.time_offset_seconds, Ordering::Relaxed);
        domain.publish_wall_clock(self.hv);
        Ok(Answer::Done)
    }

    /// The time stamp counter is never emulated: a toolstack that will have it so is told.
    pub(super) fn set_tsc_info(&self, _: Control, domain: &Domain, request: DomctlTscInfo) -> Outcome {
        self.other_than_self(domain)?;
        match request.tsc_mode {
            TSC_MODE_DEFAULT | TSC_MODE_NEVER_EMULATE => {}
            TSC_MODE_ALWAYS_EMULATE => return Err(Errno::OpNotSupp.into()),
            _ => return Err(Errno::Inval.into()),
        }
        *domain.tsc.lock() = (request.tsc_mode, request.incarnation.wrapping_add(1));
        Ok(Answer::Done)
    }

    pub(super) fn get_tsc_info(&self, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
        self.other_than_self(domain)?;
        let khz = self.hv.machine.frequency() / 1000;
        let (tsc_mode, incarnation) = *domain.tsc.lock();
        op.set(&DomctlTscInfo {
            tsc_mode,
            gtsc_khz: u32::try_from(khz).unwrap_or(u32::MAX),
            incarnation,
            pad: 0,
            elapsed_nsec: self.hv.now(),
        });
        Ok(Answer::CopyBack)
    }
}
