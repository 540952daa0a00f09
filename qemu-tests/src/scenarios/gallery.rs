//! The kernels of distributions, newest versions first fetched: each boots as a guest to its shell, with disk and network,
//! and in dom0's place to its first process. All of them run when they are named: `cargo xtask test gallery`.

use std::time::Duration;

use anyhow::Result;
use oxen_tools::gallery::Boots;
use oxen_tools::stock;

use crate::lab::{Lab, Verdict};

/// How long a boot may take; a busy machine is slow.
const LIMIT: Duration = Duration::from_secs(600);

/// Boots a kernel in both places; skipped with the reason where it cannot be had.
fn both(lab: &Lab<'_>, name: &str) -> Result<Verdict> {
    let (name, kernel) = match stock::kernel(lab.workspace, name) {
        Ok(found) => found,
        Err(error) => return Ok(Verdict::Skipped(format!("no kernel of {name}: {error:#}"))),
    };
    println!("{name}: Linux {}", kernel.version);
    let boots = Boots { workspace: lab.workspace, name, kernel: &kernel, folder: lab.folder.clone(), limit: LIMIT };
    boots.as_guest()?;
    boots.as_dom0()?;
    Ok(Verdict::Passed)
}

pub(super) fn debian_11s_kernel_works_as_a_guest_and_as_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    both(lab, "debian-11")
}

pub(super) fn debian_12s_kernel_works_as_a_guest_and_as_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    both(lab, "debian-12")
}

pub(super) fn debian_12s_cloud_kernel_works_as_a_guest_and_as_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    both(lab, "debian-12-cloud")
}

pub(super) fn debians_backported_kernel_works_as_a_guest_and_as_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    both(lab, "debian-backports")
}

pub(super) fn debian_13s_kernel_works_as_a_guest_and_as_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    both(lab, "debian-13")
}

pub(super) fn ubuntus_kernel_works_as_a_guest_and_as_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    both(lab, "ubuntu-24")
}
