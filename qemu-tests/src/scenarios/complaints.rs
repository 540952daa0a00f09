//! What Linux says where something is wrong.

use anyhow::Result;
use oxen_tools::linux::complaint;

use crate::lab::Report;

/// Demands that Linux did not complain.
pub(super) fn content(report: Report) -> Result<Report> {
    match complaint(report.transcript()) {
        Some(line) => report.fail(&format!("Linux says `{}`", line.trim())),
        None => Ok(report),
    }
}
