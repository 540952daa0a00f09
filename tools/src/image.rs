//! `cargo xtask image`: an ISO image that GRUB boots by Multiboot2, in a machine or on a PC.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::process::{run, step};
use crate::qemu::HYPERVISOR_ARGS;
use crate::setup::{Need, require};
use crate::workspace::Workspace;

/// Makes an ISO image of what is built; dom0 runs `script`, or is at its prompt.
///
/// # Errors
/// Fails when something is not built, the script cannot be passed, or GRUB's tools fail.
pub fn make(workspace: &Workspace, script: Option<&str>, image: &Path) -> Result<()> {
    require(&[Need::Grub])?;
    let tree = image.with_extension("tree");
    for name in ["hv", "dom0", "ramdisk.cpio"] {
        let from = workspace.out.join(name);
        let bytes = std::fs::read(&from).with_context(|| format!("{} is not built", from.display()))?;
        build::write(&tree.join("boot").join(name), &bytes)?;
    }
    build::write(&tree.join("boot/grub/grub.cfg"), menu(script)?.as_bytes())?;
    step("grub-mkrescue");
    let mut mkrescue = Command::new("grub-mkrescue");
    mkrescue.arg("-d").arg("/usr/lib/grub/i386-pc").arg("-o").arg(image).arg(&tree);
    run(&mut mkrescue, "see what grub-mkrescue says")
}

/// GRUB's menu. The first word after a file stands where Multiboot1 puts the file's name.
fn menu(script: Option<&str>) -> Result<String> {
    // GRUB takes the single quotes away and puts double ones around the whole word.
    let dom0_args = match script {
        Some(script) => {
            ensure!(!script.contains(['"', '\'', '\\']), "GRUB cannot pass a script that holds quotes or backslashes");
            format!("placeholder 'script={script}' debug-exit")
        }
        None => "placeholder".to_owned(),
    };
    Ok(format!(
        "set timeout=0\nserial --unit=0 --speed=115200\nterminal_output serial console\n\
         menuentry Oxen {{\n  multiboot2 /boot/hv placeholder {HYPERVISOR_ARGS}\n  \
         module2 /boot/dom0 {dom0_args}\n  module2 /boot/ramdisk.cpio placeholder\n}}\n"
    ))
}
