//! A whole Debian system as a disk image: made by debootstrap once, kept in `target/oxen/`, changed by the guest that
//! boots it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process::{done, output, run, shown, step};
use crate::setup::{Need, require};
use crate::workspace::Workspace;

/// The release, and what it has beside the packages that every Debian has.
const RELEASE: &str = "bookworm";
const PACKAGES: &str = "systemd-sysv,udev,kmod,iproute2,iputils-ping,wget";

/// Its size.
const SIZE: &str = "1G";

/// The name of the host, by which its shell's prompt is known.
const NAME: &str = "debian";

/// What the shell prints when it waits for a command.
#[must_use]
pub fn prompt() -> String {
    format!("root@{NAME}:~# ")
}

/// What the kernel is told besides: where the root is.
pub const CMDLINE: &str = "root=/dev/xvda";

/// How long systemd waits for devices and services.
const PATIENCE: &str = "[Manager]\nDefaultTimeoutStartSec=20min\nDefaultTimeoutStopSec=20min\n\
    DefaultDeviceTimeoutSec=20min\n";

/// The image; it is made the first time.
///
/// # Errors
/// Fails, saying what to type, where debootstrap is missing or may not do its work.
pub fn image(workspace: &Workspace) -> Result<PathBuf> {
    let image = workspace.out.join("debian/rootfs.ext4");
    if image.is_file() {
        return Ok(image);
    }
    let folder = workspace.out.join("debian/rootfs");
    let partial = image.with_extension("partial");
    let mut bootstrap = Command::new("debootstrap");
    bootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), RELEASE]).arg(&folder);
    if output(Command::new("id").arg("-u"), "")?.trim() != "0" {
        bail!(
            "debootstrap needs root to give files their owners; run once: \
             sudo cargo xtask run --rootfs --script poweroff\n\
             or give an ext4 image of your own: cargo xtask run --guest debian --append root=/dev/xvda --disk IMAGE"
        );
    }
    require(&[Need::Debootstrap, Need::FileSystemTools])?;
    let begun = Instant::now();
    remove(&folder)?;
    step(&format!("{} (a few minutes, once)", shown(&bootstrap)));
    run(&mut bootstrap, "see what debootstrap says; its log is in the folder's debootstrap/debootstrap.log")?;
    configure(&folder).with_context(|| format!("cannot configure {}", folder.display()))?;
    let mut make = Command::new(crate::process::find("mke2fs").context("no mke2fs")?);
    make.args(["-q", "-F", "-t", "ext4", "-L", NAME, "-d"]).arg(&folder).arg(&partial).arg(SIZE);
    step(&shown(&make));
    run(&mut make, "see what mke2fs says")?;
    std::fs::rename(&partial, &image).context("cannot keep the image")?;
    remove(&folder)?;
    done("root file system", begun);
    Ok(image)
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Makes of the packages a system: a name, a shell on the console for root, addresses by DHCP.
fn configure(folder: &Path) -> Result<()> {
    let write = |path: &str, text: &str| {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)
    };
    write("etc/hostname", &format!("{NAME}\n"))?;
    write("etc/hosts", &format!("127.0.0.1 localhost {NAME}\n"))?;
    write("etc/fstab", "/dev/xvda / ext4 defaults 0 1\n")?;
    let getty =
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear --keep-baud %I 115200 vt220\n";
    write("etc/systemd/system/serial-getty@hvc0.service.d/autologin.conf", getty)?;
    // An emulated machine that is busy besides finds its devices late, the console among them.
    write("etc/systemd/system.conf.d/patience.conf", PATIENCE)?;
    write("etc/systemd/network/80-dhcp.network", "[Match]\nName=e*\n[Network]\nDHCP=yes\n")?;
    let wants = folder.join("etc/systemd/system/multi-user.target.wants");
    std::fs::create_dir_all(&wants)?;
    symlink("/lib/systemd/system/systemd-networkd.service", wants.join("systemd-networkd.service"))?;
    Ok(())
}
