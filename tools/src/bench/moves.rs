//! How long a small guest stands still that moves from one machine to another.
//!
//! Two machines cannot share virtual time: what is measured is real, under QEMU's own emulation of both.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::qemu::Machine;
use crate::session::Session;
use crate::workspace::Workspace;

/// How often the guest moves there and back.
const ROUNDS: usize = 5;
/// Nobody else is on that line.
const KEY: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
const PROMPT: &str = "\ndom0# ";

/// A machine at its prompt.
struct Place {
    session: Session,
    address: &'static str,
    deadline: Instant,
}

impl Place {
    fn open(workspace: &Workspace, folder: &Path, own: u8, address: &'static str, limit: Duration) -> Result<Self> {
        let mut machine = Machine::oxen(workspace, "");
        machine.folder = folder.join(format!("machine-{own}"));
        machine.join_line(own, KEY);
        let mut place = Self { session: Session::start(&machine, false)?, address, deadline: Instant::now() + limit };
        place.wait(PROMPT)?;
        Ok(place)
    }

    fn wait(&mut self, text: &str) -> Result<String> {
        self.session.wait_for(text, self.deadline).map(str::to_owned)
    }

    fn command(&mut self, line: &str) -> Result<String> {
        self.session.send(&format!("{line}\r"))?;
        self.wait(PROMPT)
    }
}

/// Moves the sample `steady`, which writes to a MiB once a second, there and back some times; returns what the first
/// machine's dom0 and the second's said of it.
///
/// # Errors
/// Fails when the guest does not move.
pub(super) fn measure(workspace: &Workspace, folder: &Path, limit: Duration) -> Result<String> {
    let mut here = Place::open(workspace, folder, 1, "10.9.0.1", limit)?;
    let mut there = Place::open(workspace, folder, 2, "10.9.0.2", limit)?;
    here.command("xl create steady.cfg cmdline='period=1000' name=small")?;
    here.command("xl expect small 'step 2 is whole'")?;
    let mut all = String::new();
    for _ in 0..2 * ROUNDS {
        there.session.send("xl receive\r")?;
        there.wait("waiting for a guest")?;
        let said = here.command(&format!("xl migrate small {}", there.address))?;
        ensure!(said.contains("moved: "), "the guest does not move: {said}");
        all.push_str(&said);
        all.push('\n');
        there.wait(PROMPT)?;
        std::mem::swap(&mut here, &mut there);
    }
    for place in [here, there] {
        let _ = place.session.stop();
    }
    Ok(all)
}
