//! Domains' shares of the processor, as the scheduler keeps them.

use oxen_abi::domctl::{DomctlSchedCredit, DomctlSchedulerOp, XEN_DOMCTL_SCHEDOP_GETINFO, XEN_DOMCTL_SCHEDOP_PUTINFO};
use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_domu_lib::{control, task};

/// A domain's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Relative to others; 256 is the usual one.
    pub weight: u16,
    /// Percent of one processor that it may use at most; 0 for no limit.
    pub cap: u16,
}

/// The weight of a domain of which nothing else is said.
const USUAL_WEIGHT: u16 = 256;

/// A domain is gone: the next of its number begins with the usual weight.
pub fn forget(domain: DomId) {
    task::set_weight(domain.0, USUAL_WEIGHT);
}

fn command(cmd: u32, share: Share) -> Result<DomctlSchedulerOp, Errno> {
    let credit = DomctlSchedCredit { weight: share.weight, cap: share.cap };
    Ok(DomctlSchedulerOp { sched_id: control::scheduler()?, cmd, credit, _pad0: [0; 3] })
}

/// What a domain has.
///
/// # Errors
/// Those of the hypervisor; its scheduler may know no shares.
pub fn get(domain: DomId) -> Result<Share, Errno> {
    let command = command(XEN_DOMCTL_SCHEDOP_GETINFO, Share { weight: 0, cap: 0 })?;
    let DomctlSchedCredit { weight, cap } = control::scheduler_op(domain, &command)?.credit;
    Ok(Share { weight, cap })
}

/// Changes what is given and leaves the rest. The weight is also the one by which dom0's own time goes to the guest's
/// requests.
///
/// # Errors
/// As [`get`], and for a weight or a cap that the scheduler does not take.
pub fn set(domain: DomId, weight: Option<u16>, cap: Option<u16>) -> Result<(), Errno> {
    let now = get(domain)?;
    let share = Share { weight: weight.unwrap_or(now.weight), cap: cap.unwrap_or(now.cap) };
    control::scheduler_op(domain, &command(XEN_DOMCTL_SCHEDOP_PUTINFO, share)?)?;
    task::set_weight(domain.0, share.weight);
    Ok(())
}
