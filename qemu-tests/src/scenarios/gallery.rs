//! The kernels of distributions, at their newest: each boots as a guest to its shell, with disk and network,
//! and in dom0's place to its first process. All of them run when they are named: `cargo xtask test gallery`.

use std::time::Duration;

use anyhow::Result;
use oxen_tools::gallery::Boots;
use oxen_tools::stock;

use crate::lab::{Lab, Verdict};

/// How long a boot may take; a busy machine is slow.
const LIMIT: Duration = Duration::from_secs(600);

/// Boots a kernel in places; skipped with the reason where it cannot be had.
pub(super) fn boots(lab: &Lab<'_>, name: &str, places: &[Place]) -> Result<Verdict> {
    let (name, kernel) = match stock::kernel(lab.workspace, name) {
        Ok(found) => found,
        Err(error) => return Ok(Verdict::Skipped(format!("no kernel of {name}: {error:#}"))),
    };
    println!("{name}: Linux {}", kernel.version);
    let boots = Boots { workspace: lab.workspace, name, kernel: &kernel, folder: lab.folder.clone(), limit: LIMIT };
    for place in places {
        match place {
            Place::Guest => drop(boots.as_guest()?),
            Place::Dom0 => drop(boots.as_dom0()?),
        }
    }
    Ok(Verdict::Passed)
}

/// As what a kernel boots.
pub(super) enum Place {
    /// As a guest of Oxen's dom0.
    Guest,
    /// In dom0's place.
    Dom0,
}

fn both(lab: &Lab<'_>, name: &str) -> Result<Verdict> {
    boots(lab, name, &[Place::Guest, Place::Dom0])
}

pub(super) fn debian_11s_kernel_works_as_a_guest_and_as_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    both(lab, "debian-11")
}

pub(super) fn debian_12s_kernel_works_as_a_guest_and_as_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    both(lab, "debian-12")
}

pub(super) fn debian_12s_cloud_kernel_works_as_a_guest(lab: &Lab<'_>) -> Result<Verdict> {
    boots(lab, "debian-12-cloud", &[Place::Guest])
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
