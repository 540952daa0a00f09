//! `cargo xtask image`: an ISO image that GRUB boots by Multiboot2, in a machine or on a PC.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build;
use crate::process::{run, step};
use crate::qemu::HYPERVISOR_ARGS;
use crate::setup::{Need, require};
use crate::workspace::Workspace;

/// Builds all and makes `target/oxen/oxen.iso`; dom0 gets `dom0_args`.
///
/// # Errors
/// Fails when something cannot be built or GRUB's tools fail.
pub fn make(workspace: &Workspace, dom0_args: &str) -> Result<PathBuf> {
    require(&[Need::Grub])?;
    let tree = workspace.out.join("iso");
    for name in ["hv", "dom0", "ramdisk.cpio"] {
        let from = workspace.out.join(name);
        let bytes = std::fs::read(&from).with_context(|| format!("{} is not built", from.display()))?;
        build::write(&tree.join("boot").join(name), &bytes)?;
    }
    build::write(&tree.join("boot/grub/grub.cfg"), menu(dom0_args).as_bytes())?;
    let image = workspace.out.join("oxen.iso");
    step("grub-mkrescue");
    let mut mkrescue = Command::new("grub-mkrescue");
    mkrescue.arg("-d").arg("/usr/lib/grub/i386-pc").arg("-o").arg(&image).arg(&tree).arg("--").arg("-quiet");
    run(&mut mkrescue, "see what grub-mkrescue says")?;
    Ok(image)
}

/// GRUB's menu. The first word after a file stands where Multiboot1 puts the file's name.
fn menu(dom0_args: &str) -> String {
    // GRUB takes quotes away; what they hold must reach dom0 with its own.
    let dom0_args = dom0_args.replace('"', "\\\"").replace(';', "\\;").replace(' ', "\\ ");
    let dom0_args = if dom0_args.is_empty() { dom0_args } else { format!(" {dom0_args}") };
    format!(
        "set timeout=0\nserial --unit=0 --speed=115200\nterminal_output serial console\n\
         menuentry Oxen {{\n  multiboot2 /boot/hv placeholder {HYPERVISOR_ARGS}\n  \
         module2 /boot/dom0 placeholder{dom0_args}\n  module2 /boot/ramdisk.cpio placeholder\n}}\n"
    )
}
