//! What must be installed: the bare-metal target, QEMU, and what single verbs need besides.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{find, output, run, shown, step};
use crate::workspace::BARE_METAL;

/// Something outside the workspace that a verb needs, with the Debian packages that bring it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The emulator.
    Qemu,
    /// `mke2fs`, for the demo's disk.
    FileSystemTools,
    /// Xen's public headers, against which a test of `abi` compares.
    XenHeaders,
    /// GRUB for BIOS and UEFI, and what makes images. Where they are missing they are unpacked, not installed.
    Grub,
    /// A debugger.
    Debugger,
    /// What makes a Debian system in a folder.
    Debootstrap,
}

impl Need {
    /// Everything that any verb can need.
    pub const ALL: [Self; 6] =
        [Self::Qemu, Self::FileSystemTools, Self::XenHeaders, Self::Grub, Self::Debugger, Self::Debootstrap];

    /// Whether it is here.
    #[must_use]
    pub fn is_met(self) -> bool {
        match self {
            Self::Qemu => find("qemu-system-x86_64").is_some(),
            Self::FileSystemTools => find("mke2fs").is_some(),
            Self::XenHeaders => Path::new("/usr/include/xen/xen.h").is_file(),
            Self::Grub => {
                ["grub-mkimage", "xorriso", "mformat", "mmd", "mcopy"].into_iter().all(|p| find(p).is_some())
                    && ["i386-pc", "x86_64-efi"].into_iter().all(|p| Path::new("/usr/lib/grub").join(p).is_dir())
            }
            Self::Debugger => find("gdb").is_some(),
            Self::Debootstrap => find("debootstrap").is_some(),
        }
    }

    /// The Debian packages that bring it.
    #[must_use]
    pub fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Qemu => &["qemu-system-x86"],
            Self::FileSystemTools => &["e2fsprogs"],
            Self::XenHeaders => &["libxen-dev"],
            Self::Grub => &["grub-pc-bin", "grub-efi-amd64-bin", "grub-common", "xorriso", "mtools"],
            Self::Debugger => &["gdb"],
            Self::Debootstrap => &["debootstrap"],
        }
    }
}

/// `cargo xtask setup`: the target, QEMU, and what the tests use.
///
/// # Errors
/// Fails, saying what to type, where something cannot be installed from here.
pub fn all() -> Result<()> {
    target()?;
    require(&[Need::Qemu, Need::FileSystemTools, Need::XenHeaders])?;
    eprintln!("Everything that `cargo xtask run` and `cargo xtask test` need is here.");
    Ok(())
}

/// Sees to it that the bare-metal target is installed.
///
/// # Errors
/// Fails, saying what to type, where it is missing and rustup cannot add it.
pub fn target() -> Result<()> {
    if has_target() {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", BARE_METAL]);
    if find("rustup").is_none() {
        bail!("this Rust has no target {BARE_METAL} and there is no rustup: install Rust through https://rustup.rs");
    }
    step(&shown(&add));
    run(&mut add, "see what rustup says; without a network, install the target's `rust-std` component by hand")
}

/// Whether the toolchain in use has the bare-metal target's libraries.
#[must_use]
pub fn has_target() -> bool {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--print", "target-libdir", "--target", BARE_METAL]);
    output(&mut rustc, "").is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}

/// Sees to it that the needs are met: installs packages as root on Debian.
///
/// # Errors
/// Fails, saying what to type, where that cannot be done from here.
pub fn require(needs: &[Need]) -> Result<()> {
    let missing: Vec<&str> = needs.iter().filter(|n| !n.is_met()).flat_map(|n| n.packages()).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    if find("apt-get").is_none() {
        bail!("missing: install what Debian calls {}", missing.join(" "));
    }
    let user = output(Command::new("id").arg("-u"), "")?;
    if user.trim() != "0" {
        bail!("missing packages; run: sudo apt-get install {}", missing.join(" "));
    }
    step(&shown(&install));
    if run(&mut install, "").is_ok() {
        return Ok(());
    }
    step("apt-get update, and again");
    run(Command::new("apt-get").args(["update", "-q"]), "see what apt says")?;
    run(&mut install, "see what apt says")
}
