//! What the primitives cost, in instructions.

use anyhow::Result;
use oxen_tools::bench;

use crate::lab::{LIMIT, Lab, Verdict};

/// Nor does the time that a small guest takes to be saved and restored, where an instruction is a nanosecond.
pub(super) fn a_small_guest_is_saved_and_restored_in_time(lab: &Lab<'_>) -> Result<Verdict> {
    if lab.xen.is_some() {
        return Ok(Verdict::Skipped("the times are those of Oxen and its dom0".to_owned()));
    }
    bench::hold_life(lab.workspace, &lab.folder, LIMIT)?;
    Ok(Verdict::Passed)
}

/// Counted instructions do not depend on how busy this machine is: a row that grew by more
/// than one percent is the code's.
pub(super) fn no_primitive_costs_more_than_it_may(lab: &Lab<'_>) -> Result<Verdict> {
    if lab.xen.is_some() {
        return Ok(Verdict::Skipped("the budget is that of Oxen's hypervisor".to_owned()));
    }
    bench::hold_budget(lab.workspace, &lab.folder, LIMIT)?;
    Ok(Verdict::Passed)
}
