//! `cargo xtask image`: an ISO image that GRUB boots by Multiboot 2, from a BIOS and from
//! UEFI, in a machine or on a PC.

use std::path::Path;

use anyhow::Result;

use crate::grub::Grub;
use crate::iso;
use crate::process::step;
use crate::qemu::Machine;
use crate::run::dom0_args;
use crate::workspace::Workspace;

/// Makes an ISO image of what is built; dom0 runs `script`, or is at its prompt.
///
/// # Errors
/// Fails when something is not built, the script cannot be passed, or GRUB's tools cannot be had or fail.
pub fn make(workspace: &Workspace, script: Option<&str>, image: &Path) -> Result<()> {
    let machine = Machine::oxen(workspace, &dom0_args(script)?);
    step("an image for GRUB");
    iso::make(&Grub::get(workspace)?, &machine.hypervisor, &machine.append, &machine.modules, image)
}
