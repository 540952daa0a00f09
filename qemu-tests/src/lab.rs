//! What a scenario works with: machines in a folder of its own, and questions to their transcripts.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use oxen_tools::build;
use oxen_tools::emulator::{Emulator, Kind};
use oxen_tools::qemu::{self, Machine};
use oxen_tools::run::dom0_args;
use oxen_tools::session::{Exit, Outcome, Session};
use oxen_tools::workspace::Workspace;

/// How long a machine may take where a scenario says nothing else. It is met only by what hangs.
pub const LIMIT: Duration = Duration::from_secs(180);

/// A script that no command line can hold, in the machine's folder and in dom0's ramdisk.
const SCRIPT_FILE: &str = "script.xl";

/// Bytes of a script that stands on dom0's command line.
const MAX_INLINE: usize = 800;

/// How many lines at a transcript's end a failure shows.
const TAIL: usize = 40;

/// What dom0 says of the first `expect` in vain, behind what the hypervisor knows of the guest:
/// what comes later follows from it.
const IN_VAIN: &str = "has not printed `";
/// How many lines of a transcript a failure shows up to there.
const FIRST: usize = 120;

/// How a scenario ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The guarantee holds.
    Passed,
    /// It cannot be tried here, for this reason.
    Skipped(String),
}

/// A scenario's place and means.
#[derive(Debug)]
pub struct Lab<'a> {
    /// The workspace, whose images stand built.
    pub workspace: &'a Workspace,
    /// A folder of this scenario's own, empty when it begins.
    pub folder: PathBuf,
    /// The Xen binary that stands in the hypervisor's place, where one does.
    pub xen: Option<&'a Path>,
    /// What runs its machines.
    pub emulator: &'a Emulator,
    boots: Cell<u32>,
}

impl<'a> Lab<'a> {
    /// A lab in an empty folder.
    ///
    /// # Errors
    /// Fails when the folder cannot be made.
    pub fn new(
        workspace: &'a Workspace,
        folder: PathBuf,
        xen: Option<&'a Path>,
        emulator: &'a Emulator,
    ) -> Result<Self> {
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self { workspace, folder, xen, emulator, boots: Cell::new(0) })
    }

    /// A machine with the dom0 and the guests that are built; dom0 runs the script, or without one is at its prompt.
    ///
    /// # Errors
    /// Fails when a script that dom0's command line cannot hold cannot be written.
    pub fn machine(&self, script: &str) -> Result<Machine> {
        // GRUB cannot pass every text, and nobody one that is long: such a script is a file.
        let is_file = script.len() > MAX_INLINE || self.emulator.boots_by_grub() && script.contains(['\'', '\n']);
        let args = match script {
            "" => String::new(),
            _ if is_file => format!("script=@{SCRIPT_FILE} debug-exit"),
            script => dom0_args(Some(script))?,
        };
        let mut machine = Machine::oxen(self.workspace, &args);
        machine.emulator = self.emulator.clone();
        self.boots.set(self.boots.get() + 1);
        machine.folder = self.folder.join(format!("boot-{}", self.boots.get()));
        if let Some(xen) = self.xen {
            machine.on_xen(xen);
        }
        if is_file {
            build::write(&machine.folder.join(SCRIPT_FILE), script.as_bytes())?;
            self.add(&mut machine, &[])?;
        }
        Ok(machine)
    }

    /// Boots a machine and waits for its end, however it is.
    ///
    /// # Errors
    /// Fails when QEMU cannot be run.
    pub fn boot(&self, machine: &Machine) -> Result<Report> {
        // Bochs interprets each instruction.
        self.boot_within(machine, if self.emulator.kind == Kind::Bochs { LIMIT * 4 } else { LIMIT })
    }

    /// As [`Lab::boot`], with a deadline of its own.
    ///
    /// # Errors
    /// Fails when QEMU cannot be run.
    pub fn boot_within(&self, machine: &Machine, limit: Duration) -> Result<Report> {
        let outcome = Session::start(machine, false)?.finish(Instant::now() + limit)?;
        Ok(Report(outcome))
    }

    /// Boots, runs the script, and demands that dom0 reports success.
    ///
    /// # Errors
    /// Fails when it does not.
    pub fn script(&self, script: &str) -> Result<Report> {
        self.boot(&self.machine(script)?)?.succeeded()
    }

    /// Adds files to dom0's ramdisk.
    ///
    /// # Errors
    /// Fails when the ramdisk cannot be written.
    pub fn add(&self, machine: &mut Machine, files: &[(&str, &[u8])]) -> Result<()> {
        let mut files: Vec<_> = files.iter().map(|(name, data)| ((*name).to_owned(), data.to_vec())).collect();
        // Where there is none, the script stands on the command line.
        if let Ok(script) = std::fs::read(machine.folder.join(SCRIPT_FILE)) {
            files.push((SCRIPT_FILE.to_owned(), script));
        }
        qemu::add_to_ramdisk(self.workspace, machine, &files)
    }

    /// Writes a file into the scenario's folder.
    ///
    /// # Errors
    /// Fails when it cannot be written.
    pub fn file(&self, name: &str, data: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        build::write(&path, data)?;
        Ok(path)
    }
}

/// dom0's prompt, at which a scenario types.
#[derive(Debug)]
pub struct Prompt(Session);

/// What dom0 prints when it waits for a command. Where it shows its prompt again, below what was printed meanwhile, a
/// terminal's escape sequence stands before it.
const PROMPT: &str = "\ndom0# ";

impl Prompt {
    /// Boots a machine whose dom0 has no script, and waits for the prompt.
    ///
    /// # Errors
    /// Fails, with the transcript's end, when there is none in time.
    pub fn open(machine: &Machine) -> Result<Self> {
        let mut prompt = Self(Session::start(machine, false)?);
        prompt.wait("the prompt", LIMIT)?;
        Ok(prompt)
    }

    /// Types a command and returns what it printed.
    ///
    /// # Errors
    /// Fails, with the transcript's end, when the prompt does not come back in time.
    pub fn command(&mut self, line: &str) -> Result<String> {
        self.0.send(&format!("{line}\r"))?;
        self.wait(line, LIMIT)
    }

    /// Types keys that end a line, and returns what was said until the next prompt.
    ///
    /// # Errors
    /// As [`Prompt::command`].
    pub fn keys(&mut self, keys: &str) -> Result<String> {
        self.0.send(keys)?;
        self.wait(keys, LIMIT)
    }

    /// Types keys and waits for a text.
    ///
    /// # Errors
    /// Fails, with the transcript's end, when it does not come in time.
    pub fn type_until(&mut self, keys: &str, text: &str) -> Result<()> {
        self.0.send(keys)?;
        let said = self.0.wait_for(text, Instant::now() + LIMIT).map(|_| ());
        said.or_else(|error| fail(self.0.transcript(), &format!("after {keys:?}: {error}")))
    }

    /// Powers the machine off and returns the run.
    ///
    /// # Errors
    /// Fails when it does not power off.
    pub fn power_off(mut self) -> Result<Report> {
        self.0.send("poweroff\r")?;
        Report(self.0.finish(Instant::now() + LIMIT)?).ended(Exit::PoweredOff)
    }

    /// Ends the machine where it stands, as if its plug were pulled.
    pub fn kill(self) {
        drop(self.0.stop());
    }

    fn wait(&mut self, what: &str, limit: Duration) -> Result<String> {
        let said = self.0.wait_for(PROMPT, Instant::now() + limit).map(|said| format!("{said}\n"));
        said.or_else(|error| fail(self.0.transcript(), &format!("after `{what}`: {error}")))
    }
}

/// A run that has ended.
#[derive(Clone, Debug)]
pub struct Report(pub Outcome);

impl Report {
    /// All that was said.
    #[must_use]
    pub fn transcript(&self) -> &str {
        &self.0.transcript
    }

    /// Demands that dom0 reported success.
    ///
    /// # Errors
    /// Fails, with the transcript's end, when it did not.
    pub fn succeeded(self) -> Result<Self> {
        self.ended(Exit::Success)
    }

    /// Demands a certain end.
    ///
    /// # Errors
    /// Fails, with the transcript's end, when it was another.
    pub fn ended(self, exit: Exit) -> Result<Self> {
        if self.0.exit != exit {
            return self.fail(&format!("the run ended with {:?} instead of {exit:?}", self.0.exit));
        }
        Ok(self)
    }

    /// Demands that a text was said.
    ///
    /// # Errors
    /// Fails, with the transcript's end, when it was not.
    pub fn says(self, text: &str) -> Result<Self> {
        if !self.transcript().contains(text) {
            return self.fail(&format!("nobody said `{text}`"));
        }
        Ok(self)
    }

    /// Demands that texts were said in this order.
    ///
    /// # Errors
    /// Fails, with the transcript's end, when one was not, or too early.
    pub fn says_in_order(self, texts: &[&str]) -> Result<Self> {
        let mut rest = self.transcript();
        for text in texts {
            let Some((_, after)) = rest.split_once(text) else {
                return self.fail(&format!("nobody said `{text}` in its turn"));
            };
            rest = after;
        }
        Ok(self)
    }

    /// Demands that a text was not said.
    ///
    /// # Errors
    /// Fails, with the transcript's end, when it was.
    pub fn lacks(self, text: &str) -> Result<Self> {
        if self.transcript().contains(text) {
            return self.fail(&format!("somebody said `{text}`"));
        }
        Ok(self)
    }

    /// The lines that hold a text.
    #[must_use]
    pub fn lines_with(&self, text: &str) -> Vec<&str> {
        self.transcript().lines().filter(|line| line.contains(text)).collect()
    }

    /// Fails with a reason and the transcript's end.
    ///
    /// # Errors
    /// Always.
    pub fn fail<T>(&self, why: &str) -> Result<T> {
        fail(self.transcript(), why)
    }
}

fn fail<T>(transcript: &str, why: &str) -> Result<T> {
    let lines: Vec<&str> = transcript.lines().collect();
    let tail_starts = lines.len().saturating_sub(TAIL);
    let tail = lines.get(tail_starts..).unwrap_or_default();
    let in_vain = lines.iter().position(|line| line.contains(IN_VAIN)).filter(|&first| first < tail_starts);
    let first = in_vain.map_or(String::new(), |first| {
        let shown = lines.get((first + 1).saturating_sub(FIRST)..=first).unwrap_or_default();
        format!("; this came first:\n    | {}\n    ", shown.join("\n    | "))
    });
    bail!("{why}{first}; the transcript ends:\n    | {}", tail.join("\n    | "))
}
