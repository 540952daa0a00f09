//! A whole Debian system with systemd as a guest, on the disk that `cargo xtask run --rootfs` makes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use oxen_tools::linux::{CMDLINE, Ramdisk};
use oxen_tools::qemu::{Machine, USER_NETWORK};
use oxen_tools::{build, debian, disk, process, rootfs};

use super::LONG_LIMIT as LIMIT;
use super::complaints::content;
use crate::lab::{Lab, Verdict};

/// What dom0 does with it: boots it, has a package installed, lets it restart by itself, shuts it down. `PROMPT` stands
/// for what its shell prints.
const SCRIPT: &str = "
xl create debian.cfg; expect debian 'PROMPT' 1800
send debian 'echo state:$(systemctl is-system-running --wait):; systemctl --failed --no-legend --plain'
expect debian 'state:running:' 1200
send debian 'ping -c 3 10.0.2.2; mount /dev/xvdb /mnt && dpkg -i /mnt/oxen-check.deb; umount /mnt; echo installed:$?'
expect debian 'installed:0' 600
send debian 'oxen-check at first; sync; reboot'; expect debian 'reboot: Restarting system' 900
expect debian 'PROMPT' 1800
send debian 'oxen-check again; dpkg -s oxen-check | grep Status; echo after:$(systemctl is-system-running --wait):'
expect debian 'after:running:' 1200
xl list; xl shutdown -w debian; xl list; poweroff
";

/// The image of its system, a copy that the guest may change; the package's file on another.
struct Disks {
    root: PathBuf,
    package: PathBuf,
}

pub(super) fn works(lab: &Lab<'_>) -> Result<Verdict> {
    let made = disks(lab).and_then(|disks| {
        let ramdisk = Ramdisk::new(lab.workspace, "debian").disks().network().build()?;
        Ok((disks, std::fs::read(debian::vmlinuz(lab.workspace)?)?, ramdisk))
    });
    let (disks, kernel, ramdisk) = match made {
        Ok(made) => made,
        Err(error) => return Ok(Verdict::Skipped(format!("no system of Debian's: {error:#}"))),
    };
    let report = content(lab.boot_within(&machine(lab, &disks, &kernel, &ramdisk)?, LIMIT)?.succeeded()?)?;
    report.says_in_order(&[
        "Welcome to ",
        "state:running:",
        "3 packets transmitted, 3 received",
        "oxen-check is installed: at first",
        "has ended: reboot",
        "oxen-check is installed: again",
        "Status: install ok installed",
        "after:running:",
        "has ended: poweroff",
    ])?;
    Ok(Verdict::Passed)
}

fn machine(lab: &Lab<'_>, disks: &Disks, kernel: &[u8], ramdisk: &[u8]) -> Result<Machine> {
    let mut machine = lab.machine("")?;
    machine.memory = 1024;
    machine.network = Some(USER_NETWORK.to_owned());
    machine.disks.extend([disks.root.clone(), disks.package.clone()]);
    machine.modules.first_mut().context("no dom0")?.args = "script=@script.xl debug-exit".to_owned();
    let config = format!(
        "name = \"debian\"\nkernel = \"guests/linux\"\nramdisk = \"guests/initrd\"\ncmdline = \"{CMDLINE} {root}\"\n\
         memory = 512\nvcpus = 2\ndisk = [\"phy:vda,xvda,w\", \"phy:vdb,xvdb,r\"]\nvif = [\"\"]\n",
        root = rootfs::CMDLINE
    );
    let script = SCRIPT.replace("PROMPT", &rootfs::prompt());
    let files: [(&str, &[u8]); 4] = [
        ("debian.cfg", config.as_bytes()),
        ("guests/linux", kernel),
        ("guests/initrd", ramdisk),
        ("script.xl", script.as_bytes()),
    ];
    lab.add(&mut machine, &files)?;
    Ok(machine)
}

fn disks(lab: &Lab<'_>) -> Result<Disks> {
    let (root, package) = (lab.folder.join("root.img"), lab.folder.join("package.img"));
    let image = rootfs::image(lab.workspace)?;
    process::run(Command::new("cp").arg("--sparse=always").arg(image).arg(&root), "is there room for a GiB?")?;
    let tree = lab.folder.join("tree");
    std::fs::create_dir_all(&tree)?;
    make_package(&lab.folder.join("package"), &tree.join("oxen-check.deb"))?;
    disk::format(&tree, &package, 8)?;
    Ok(Disks { root, package })
}

/// Makes a Debian package with one program.
fn make_package(folder: &Path, file: &Path) -> Result<()> {
    const CONTROL: &str = "Package: oxen-check\nVersion: 1.0\nArchitecture: all\n\
        Maintainer: nobody <nobody@localhost>\nDescription: says that it is installed\n";
    const PROGRAM: &str = "#!/bin/sh\necho \"oxen-check is installed: $*\"\n";
    build::write(&folder.join("DEBIAN/control"), CONTROL.as_bytes())?;
    let program = folder.join("usr/bin/oxen-check");
    build::write(&program, PROGRAM.as_bytes())?;
    let mut permissions = std::fs::metadata(&program)?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(&program, permissions)?;
    // Any Debian reads gzip.
    let mut make = Command::new("dpkg-deb");
    make.args(["-Zgzip", "--root-owner-group", "--build"]).arg(folder).arg(file);
    process::run(&mut make, "this needs Debian's dpkg")
}
