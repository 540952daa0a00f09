//! QEMU's own control socket: what a scenario does to a machine from outside.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use oxen_tools::qemu::Machine;

/// The socket's name in the machine's folder.
const SOCKET: &str = "qmp.sock";
/// How long QEMU may take to an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives a machine such a socket.
pub fn add(machine: &mut Machine) {
    // The path is relative: that of a socket may not be long.
    machine.devices.extend(["-qmp".to_owned(), format!("unix:{SOCKET},server=on,wait=off")]);
}

/// A connection to a running machine.
#[derive(Debug)]
pub struct Control {
    lines: BufReader<UnixStream>,
}

impl Control {
    /// Connects to the machine that runs in this folder.
    ///
    /// # Errors
    /// There is no socket, or QEMU does not speak by it.
    pub fn open(folder: &Path) -> Result<Self> {
        // A path may be long, a link to its folder is not.
        let link = std::env::temp_dir().join(format!("qmp-{}-{:?}", std::process::id(), std::thread::current().id()));
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(std::fs::canonicalize(folder)?, &link)?;
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(link.join(SOCKET)) {
                Ok(stream) => break Ok(stream),
                Err(error) if Instant::now() > deadline => break Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let _ = std::fs::remove_file(&link);
        let stream = stream.context("no control socket")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut control = Self { lines: BufReader::new(stream) };
        control.answer("QMP")?;
        control.command("qmp_capabilities", "")?;
        Ok(control)
    }

    /// Gives a command with its arguments, the inside of a JSON object.
    ///
    /// # Errors
    /// QEMU refuses it, with the reason, or is gone.
    pub fn command(&mut self, name: &str, arguments: &str) -> Result<()> {
        self.ask(name, arguments).map(drop)
    }

    /// What QEMU's monitor for people says to a command, as JSON has it.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        self.ask("human-monitor-command", &format!("\"command-line\":\"{command}\""))
    }

    fn ask(&mut self, name: &str, arguments: &str) -> Result<String> {
        let line = format!("{{\"execute\":\"{name}\",\"arguments\":{{{arguments}}}}}\n");
        self.lines.get_mut().write_all(line.as_bytes()).context("QEMU is gone")?;
        self.answer("return").with_context(|| format!("{name} {arguments}"))
    }

    /// Reads up to the line that has this word; an error ends it.
    fn answer(&mut self, word: &str) -> Result<String> {
        loop {
            let mut line = String::new();
            ensure!(self.lines.read_line(&mut line).context("QEMU does not answer")? > 0, "QEMU is gone");
            ensure!(!line.starts_with("{\"error\""), "QEMU says {}", line.trim());
            if line.starts_with(&format!("{{\"{word}\"")) {
                return Ok(line);
            }
        }
    }
}
