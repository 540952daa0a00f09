//! A machine that runs: its output is kept and waited for under deadlines, its end is named.

mod lines;

use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::bochs::{self, Sign};
use crate::emulator::Kind;
pub use crate::exit::Exit;
use crate::patience::{self, Patience};
use crate::qemu::{self, Machine, Serial};
use crate::workspace::Workspace;

/// Xen's last words.
const XEN_HALTED: &str = "Hardware Dom0 halted: halting machine\n";
const XEN_CRASHED: &str = "Hardware Dom0 crashed: ";

/// A finished run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub exit: Exit,
    /// All that the serial line and QEMU said, without carriage returns.
    pub transcript: String,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("child", &self.child).field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// What comes out of a machine.
enum Said {
    /// By its serial line, and by QEMU.
    Bytes(Vec<u8>),
    /// By Bochs's log.
    Sign(Sign),
}

/// How long Bochs may take to its own end after the machine has told its status: what is on the serial line arrives.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Runs a machine of Oxen's, its time counted in instructions, with further files in its ramdisk, to its
/// good end. Returns what it said.
///
/// # Errors
/// Fails when it does not come to a good end within `limit`.
pub fn run_counted(
    workspace: &Workspace,
    mut machine: Machine,
    files: &[(String, Vec<u8>)],
    limit: Duration,
) -> Result<String> {
    qemu::add_to_ramdisk(workspace, &mut machine, files)?;
    machine.for_measurements();
    machine.icount = true;
    let outcome = Session::start(&machine, false)?.finish(Instant::now() + limit)?;
    let log = machine.folder.join("run.log");
    ensure!(outcome.exit == Exit::Success, "it ended with {:?}; transcript: {}", outcome.exit, log.display());
    Ok(outcome.transcript)
}

/// A running machine. Dropping it stops it.
pub struct Session {
    child: Child,
    input: Box<dyn Write + Send>,
    output: Receiver<Said>,
    /// How the run ends, where the emulator has said it before its own end.
    told: Option<Exit>,
    transcript: String,
    /// The first bytes of a character whose rest has not arrived.
    partial: Vec<u8>,
    echo: bool,
    /// How far [`Session::wait_for`] has matched.
    seen: usize,
}

impl Session {
    /// Starts a machine. With `echo`, what it says is repeated on our standard output.
    ///
    /// # Errors
    /// Fails when QEMU cannot be started.
    pub fn start(machine: &Machine, echo: bool) -> Result<Self> {
        if machine.emulator.kind == Kind::Bochs {
            return Self::start_bochs(machine, echo);
        }
        Self::spawn(machine.command(Serial::Pipe)?, echo)
    }

    /// Bochs connects to us for its serial line, and tells the rest in its log.
    fn start_bochs(machine: &Machine, echo: bool) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port for the serial line")?;
        let mut command = bochs::command(machine, &listener)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start Bochs")?;
        let log = child.stderr.take().context("no log")?;
        let (sender, output) = channel();
        let file = std::fs::File::create(machine.folder.join("run.log")).context("cannot write the log")?;
        lines::watch(log, file, sender.clone());
        let serial = match lines::connected(&listener, &mut child) {
            Ok(serial) => serial,
            Err(error) => {
                let _ = child.kill();
                return Err(error.context(format!("its log: {}", machine.folder.join("run.log").display())));
            }
        };
        lines::forward(serial.try_clone().context("no serial line")?, sender);
        Ok(Self::new(child, Box::new(serial), output, echo))
    }

    fn new(child: Child, input: Box<dyn Write + Send>, output: Receiver<Said>, echo: bool) -> Self {
        let (transcript, partial) = (String::new(), Vec::new());
        Self { child, input, output, told: None, transcript, partial, echo, seen: 0 }
    }

    /// Starts QEMU by a command line of the caller's, whose serial line is its standard input and output.
    ///
    /// # Errors
    /// Fails when QEMU cannot be started.
    pub fn spawn(mut command: Command, echo: bool) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start QEMU; `cargo xtask setup` installs it")?;
        let (sender, output) = channel();
        lines::forward(child.stdout.take().context("no output")?, sender.clone());
        lines::forward(child.stderr.take().context("no output")?, sender);
        let input = Box::new(child.stdin.take().context("no input")?);
        Ok(Self::new(child, input, output, echo))
    }

    /// What has been said so far.
    #[must_use]
    pub fn transcript(&self) -> &str {
        &self.transcript
    }

    /// What QEMU has used of the host's CPUs, in seconds: a measure that other programs of the host disturb little.
    ///
    /// # Errors
    /// Fails when the machine has ended.
    pub fn cpu_seconds(&self) -> Result<f64> {
        // User and system time in hundredths of a second, the 12th and 13th word after the name, which ends in `)`.
        let line =
            std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).context("the machine has ended")?;
        let (_, words) = line.rsplit_once(')').context("no name")?;
        let ticks = words.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok());
        Ok(ticks.sum::<f64>() / 100.0)
    }

    /// Types into the serial line.
    ///
    /// # Errors
    /// Fails when the machine has ended.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.input.write_all(text.as_bytes()).and_then(|()| self.input.flush()).context("the machine has ended")
    }

    /// Waits until the machine says `text`, after what an earlier wait matched; returns what it said before that.
    ///
    /// # Errors
    /// Fails when the machine ends first or the deadline passes.
    pub fn wait_for(&mut self, text: &str, deadline: Instant) -> Result<&str> {
        let from = self.seen;
        let mut read = from;
        loop {
            if let Some(found) = self.transcript.as_bytes().get(read..).and_then(|new| find(new, text.as_bytes())) {
                let found = read + found;
                self.seen = found + text.len();
                return Ok(self.transcript.get(from..found).unwrap_or_default());
            }
            // Only what is new, and what it may be the end of: whoever says much is not read again and again.
            read = from.max(self.transcript.len().saturating_sub(text.len()));
            match self.receive(deadline) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => bail!("the machine did not say `{text}` in time"),
                Err(RecvTimeoutError::Disconnected) => bail!("the machine ended without saying `{text}`"),
            }
        }
    }

    /// Waits for the machine's end, or stops it at the deadline.
    ///
    /// # Errors
    /// Fails when QEMU's end cannot be learnt.
    pub fn finish(self, deadline: Instant) -> Result<Outcome> {
        self.finish_by(deadline, |_| None)
    }

    /// Waits for the machine's end, or stops it when for so long it has not said `word`, whatever else it says.
    ///
    /// # Errors
    /// Fails when QEMU's end cannot be learnt.
    pub fn finish_unless_silent(self, word: &str, limit: Duration) -> Result<Outcome> {
        let next_deadline = |said: &[u8]| find(said, word.as_bytes()).map(|_| Instant::now() + limit);
        self.finish_by(Instant::now() + limit, next_deadline)
    }

    /// Waits for the machine's end; what it says may put off the deadline, and what it is
    /// held back by a busy host does.
    fn finish_by(mut self, deadline: Instant, next_deadline: impl Fn(&[u8]) -> Option<Instant>) -> Result<Outcome> {
        let mut read = 0;
        let held_back = |session: &Self| patience::held_back(session.child.id());
        let mut patience = Patience::new(deadline, held_back(&self));
        let mut last_words = None;
        let exit = loop {
            if self.told.is_some() && last_words.is_none() {
                last_words = Some(Instant::now() + LAST_WORDS);
            }
            match self.receive(last_words.map_or(patience.deadline(), |end| patience.deadline().min(end))) {
                Ok(()) => {
                    // Only what is new, and what it may be the end of: a serial line speaks byte by byte.
                    let said = self.transcript.as_bytes().get(read..).unwrap_or_default();
                    let says = |words: &str| find(said, words.as_bytes()).is_some();
                    // Xen leaves it to a dom0 to power off the machine, and stands still where that only shuts itself
                    // down.
                    if says(XEN_HALTED) {
                        break Exit::PoweredOff;
                    }
                    if says(XEN_CRASHED) {
                        break Exit::Crashed;
                    }
                    if let Some(next) = next_deadline(said) {
                        patience = Patience::new(next, held_back(&self));
                    }
                    read = self.transcript.len().saturating_sub(XEN_HALTED.len());
                }
                Err(RecvTimeoutError::Timeout)
                    if self.told.is_none() && patience.has_more(Instant::now(), held_back(&self)) => {}
                Err(RecvTimeoutError::Timeout) => break self.told.unwrap_or(Exit::Deadline),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    break self.told.unwrap_or_else(|| Exit::from_status(status));
                }
            }
        };
        Ok(Outcome { exit, transcript: std::mem::take(&mut self.transcript) })
    }

    /// Stops the machine dead, wherever it stands; returns all that it has said.
    #[must_use]
    pub fn stop(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What is still on its way arrives, until nothing comes any more.
        let deadline = Instant::now() + LAST_WORDS;
        while self.receive(deadline).is_ok() {}
        std::mem::take(&mut self.transcript)
    }

    fn receive(&mut self, deadline: Instant) -> Result<(), RecvTimeoutError> {
        // A channel that is never empty would never time out.
        let left = deadline.checked_duration_since(Instant::now()).ok_or(RecvTimeoutError::Timeout)?;
        let bytes = match self.output.recv_timeout(left)? {
            Said::Bytes(bytes) => bytes,
            Said::Sign(sign) => {
                let (told, words) = match sign {
                    Sign::Status(value) => (Exit::from_told(value), String::new()),
                    Sign::Off => (Exit::PoweredOff, String::new()),
                    Sign::Panic(panic) => (Exit::Qemu(None), format!("\nBochs gives up: {panic}\n")),
                };
                self.told.get_or_insert(told);
                words.into_bytes()
            }
        };
        self.partial.extend_from_slice(&bytes);
        let whole = match std::str::from_utf8(&self.partial) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.partial.len(),
        };
        let rest = self.partial.split_off(whole);
        let text = String::from_utf8_lossy(&std::mem::replace(&mut self.partial, rest)).replace('\r', "");
        if self.echo {
            // Nobody may be listening any more; the run goes on.
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
        self.transcript.push_str(&text);
        Ok(())
    }
}

/// Where a text begins in what was said.
fn find(said: &[u8], text: &[u8]) -> Option<usize> {
    said.windows(text.len().max(1)).position(|window| window == text)
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Boots a machine and waits for its end.
///
/// # Errors
/// Fails when QEMU cannot be run.
pub fn boot(machine: &Machine, echo: bool, limit: Duration) -> Result<Outcome> {
    Session::start(machine, echo)?.finish(Instant::now() + limit)
}

/// Gives a machine's serial line to the person at our terminal, and waits for its end.
///
/// # Errors
/// Fails when QEMU cannot be run.
pub fn interact(machine: &Machine) -> Result<Exit> {
    let mut command = machine.command(Serial::Terminal)?;
    let status = command.status().context("cannot start QEMU; `cargo xtask setup` installs it")?;
    Ok(Exit::from_status(status))
}

#[cfg(test)]
mod tests {
    use super::{Exit, Session};
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[test]
    fn who_never_stops_talking_is_not_waited_for_longer_than_the_deadline() -> anyhow::Result<()> {
        let mut session = Session::spawn(Command::new("yes"), false)?;
        let begin = Instant::now();
        session.wait_for("y\ny", begin + Duration::from_secs(60))?;
        assert!(session.wait_for("no", begin + Duration::from_millis(200)).is_err());
        assert!(begin.elapsed() < Duration::from_secs(30));
        Ok(())
    }

    #[test]
    fn who_no_longer_says_what_is_waited_for_is_stopped() -> anyhow::Result<()> {
        let shell = |script: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", script]);
            Session::spawn(shell, false)
        };
        let limit = Duration::from_millis(1_500);
        // Longer than the limit as a whole, and never silent for as long.
        let talks =
            shell("for i in 1 2 3 4 5; do echo step $i; sleep 0.5; done")?.finish_unless_silent("step", limit)?;
        assert_eq!((talks.exit, talks.transcript.contains("step 5")), (Exit::PoweredOff, true));
        let hangs = shell("echo step 1; exec sleep 60")?.finish_unless_silent("step", limit)?;
        assert_eq!((hangs.exit, hangs.transcript.as_str()), (Exit::Deadline, "step 1\n"));
        // Other words are none.
        let begin = Instant::now();
        let chatters = shell("echo step 1; exec yes")?.finish_unless_silent("step", limit)?;
        assert_eq!(chatters.exit, Exit::Deadline);
        // On a host so busy that it hardly ran, it is waited for longer.
        assert!(begin.elapsed() < Duration::from_secs(120));
        Ok(())
    }
}
