//! The guest `probe` on real Xen and on Oxen.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::lines::{SAID, Transcript};
use crate::linux_dom0;
use crate::qemu::{Machine, Module, add_to_ramdisk};
use crate::run::dom0_args;
use crate::session::{Exit, Session};
use crate::workspace::Workspace;

/// As which domain the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Place {
    /// In dom0's place, without another dom0: the fast way
    Dom0,
    /// As a guest of Oxen's dom0, and of a Linux dom0 on real Xen
    Guest,
}

/// Both sides.
#[derive(Debug)]
pub struct Sides<'a> {
    /// Where the images stand built.
    pub workspace: &'a Workspace,
    /// Real Xen.
    pub xen: PathBuf,
    /// Where the machines run.
    pub folder: PathBuf,
    /// QEMU's CPU model.
    pub cpu: String,
    /// As what the guest runs.
    pub place: Place,
    /// How long the guest may say nothing before its machine is stopped.
    pub limit: Duration,
}

/// Seconds that a Linux dom0 waits for the guest: it is the limit for silence that ends a machine.
const PATIENCE: u32 = 1_000_000;

impl Sides<'_> {
    /// Boots both with the same options for the guest; what the guest said on real Xen, and on Oxen.
    ///
    /// # Errors
    /// Fails when a machine cannot be described or started. A guest that does not come to its end has said what it has.
    pub(super) fn run(&self, options: &str) -> Result<(Transcript, Transcript)> {
        std::thread::scope(|scope| {
            let theirs = scope.spawn(|| self.run_on(true, options));
            let ours = self.run_on(false, options)?;
            let theirs = theirs.join().ok().context("the thread of real Xen's machine died")?;
            Ok((theirs?, ours))
        })
    }

    /// Boots one of them.
    ///
    /// # Errors
    /// As [`Sides::run`].
    pub(super) fn run_on(&self, on_xen: bool, options: &str) -> Result<Transcript> {
        let machine = self.machine(on_xen, options)?;
        let outcome = Session::start(&machine, false)?.finish_unless_silent(SAID, self.limit)?;
        Ok(Transcript::read(&outcome.transcript, outcome.exit == Exit::Deadline))
    }

    fn machine(&self, on_xen: bool, options: &str) -> Result<Machine> {
        let mut machine = self.machine_of_place(on_xen, options)?;
        self.cpu.clone_into(&mut machine.cpu);
        Ok(machine)
    }

    fn machine_of_place(&self, on_xen: bool, options: &str) -> Result<Machine> {
        let folder = self.folder.join(if on_xen { "xen" } else { "oxen" });
        let probe = self.workspace.out.join("probe");
        if self.place == Place::Dom0 {
            let mut machine = Machine::oxen(self.workspace, "");
            machine.modules = vec![Module { file: probe, args: options.to_owned() }];
            machine.folder = folder;
            if on_xen {
                machine.on_xen(&self.xen);
                // Nothing of what the guest prints may be lost.
                machine.append.push_str(" sync_console sched=credit");
            }
            return Ok(machine);
        }
        let config = format!("name = \"fuzz\"\nkernel = \"guests/probe\"\nmemory = 32\ncmdline = \"{options}\"\n");
        let probe = std::fs::read(&probe).context("the probe is not built")?;
        let files = [("fuzz.cfg".to_owned(), config.into_bytes()), ("guests/probe".to_owned(), probe)];
        if on_xen {
            let script = format!("follow fuzz; create fuzz.cfg; finish fuzz {PATIENCE}");
            return linux_dom0::machine(self.workspace, Some(&self.xen), folder, &script, &files);
        }
        let mut machine =
            Machine::oxen(self.workspace, &dom0_args(Some("xl create fuzz.cfg; xl wait fuzz; poweroff"))?);
        machine.folder = folder;
        add_to_ramdisk(self.workspace, &mut machine, &files)?;
        Ok(machine)
    }
}
