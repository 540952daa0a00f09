//! The kernels of distributions, at their newest: each boots as a guest to its shell, with disk and network,
//! and in dom0's place to its first process. All of them run when they are named: `cargo xtask test gallery`.

use std::time::Duration;

use anyhow::Result;
use oxen_tools::gallery::Boots;
use oxen_tools::guest::dom0_memory;
use oxen_tools::qemu::add_to_ramdisk;
use oxen_tools::stock;

use super::complaints::content;
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

/// A large packed ramdisk of somebody else's, as people install Debian into a guest.
pub(super) fn debians_installer_comes_to_its_first_question(lab: &Lab<'_>) -> Result<Verdict> {
    let (kernel, ramdisk) = match stock::installer(lab.workspace) {
        Ok(files) => files,
        Err(error) => return Ok(Verdict::Skipped(format!("no installer of Debian's: {error:#}"))),
    };
    let config = "name = \"installer\"\nkernel = \"guests/linux\"\nramdisk = \"guests/initrd\"\nmemory = 640\n\
        cmdline = \"console=hvc0 DEBIAN_FRONTEND=text\"\nvif = [\"\"]\n";
    let files: Vec<(String, Vec<u8>)> = vec![
        ("guests/linux".to_owned(), std::fs::read(kernel)?),
        ("guests/initrd".to_owned(), std::fs::read(ramdisk)?),
        ("installer.cfg".to_owned(), config.as_bytes().to_vec()),
    ];
    let script =
        "xl create installer.cfg; expect installer 'Press enter to continue' 500; xl destroy installer; poweroff";
    let mut machine = lab.machine(script)?;
    let dom0 = dom0_memory(&files);
    machine.append = machine.append.replace("dom0_mem=128M", &format!("dom0_mem={dom0}M"));
    machine.memory = 1280;
    add_to_ramdisk(lab.workspace, &mut machine, &files)?;
    let report = content(lab.boot_within(&machine, LIMIT)?.succeeded()?)?;
    report.says("Entering low memory mode")?;
    Ok(Verdict::Passed)
}
