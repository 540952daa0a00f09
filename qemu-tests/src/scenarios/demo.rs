//! The demo that `cargo xtask run` shows.

use std::time::Duration;

use anyhow::Result;
use oxen_tools::{demo, disk};

use crate::lab::{Lab, Verdict};

/// hello, mmu, net and fs run; net gets its address from QEMU's network; every file of a real ext4 image is read with
/// the host's sum; dom0 ends with success.
pub(super) fn four_guests_run_and_the_files_read_have_the_hosts_sums(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = lab.machine(demo::SCRIPT)?;
    let sums = demo::furnish(&mut machine)?;
    let image = machine.folder.join("disk.img");
    let before = disk::sha256(&std::fs::read(&image)?);
    let report = lab.boot_within(&machine, Duration::from_secs(300))?.succeeded()?;
    let report = report.says("10.0.2.15")?.says("net: done")?.lacks("FAILED")?;
    let missing = disk::missing(&sums, report.transcript());
    if !missing.is_empty() {
        return report.fail(&format!("these files did not show the host's sum: {}", missing.join(", ")));
    }
    if disk::sha256(&std::fs::read(&image)?) != before {
        return report.fail("reading changed the image");
    }
    Ok(Verdict::Passed)
}
