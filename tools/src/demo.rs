//! The demo: what `cargo xtask run` shows where nobody is at a terminal.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::disk::{self, Sums};
use crate::process::step;
use crate::qemu::{Machine, USER_NETWORK};
use crate::session::{self, Exit};

/// What dom0 is told to do: each sample guest is created and its console shown, then the machine is powered off.
pub const SCRIPT: &str = "xl info; xl create hello.cfg; xl wait hello; xl create mmu.cfg; xl wait mmu; \
    xl create net.cfg cmdline=halt; xl wait net; xl create fs.cfg; xl list; xl wait fs; xl list; poweroff";

/// Puts on a machine what the demo needs: the disk, and a network. Returns the sums of the disk's files.
///
/// # Errors
/// Fails when the disk cannot be made.
pub fn furnish(machine: &mut Machine) -> Result<Sums> {
    let (image, sums) = disk::make(&machine.folder)?;
    machine.disks = vec![image];
    machine.network.get_or_insert_with(|| USER_NETWORK.to_owned());
    Ok(sums)
}

/// Runs the demo on a machine and compares the sums that the guest `fs` prints with those of the host.
///
/// # Errors
/// Fails when the run does, or a file's sum is not shown or differs.
pub fn run(mut machine: Machine, limit: Duration) -> Result<()> {
    step("make the demo's disk (ext4, 64 MiB)");
    let sums = furnish(&mut machine)?;
    step("boot");
    let outcome = session::boot(&machine, true, limit)?;
    if outcome.exit != Exit::Success {
        bail!(
            "the demo did not come to its end ({:?}); transcript: {}/run.log",
            outcome.exit,
            machine.folder.display()
        );
    }
    let missing = disk::missing(&sums, &outcome.transcript);
    if !missing.is_empty() {
        bail!("of {} files, these did not show the host's SHA-256: {}", sums.len(), missing.join(", "));
    }
    println!("\nThe guest read {} files from the disk; their SHA-256 sums are the host's.", sums.len());
    Ok(())
}
