//! Running other programs: what is being done is said first, and a failure says what to do next.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Says on the error stream that a step begins.
pub fn step(what: &str) {
    eprintln!("==> {what}");
}

/// Finds a program on the path, and in the folders where Debian keeps what a user's path leaves out.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// What nightly Rust runs: `rustup run nightly …`. The toolchain that runs us does not answer for it.
#[must_use]
pub fn nightly(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly"]).args(arguments);
    for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

/// Whether a command runs and succeeds; what it says is not shown.
#[must_use]
pub fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Renders a command for a message, as a shell would take it.
#[must_use]
pub fn shown(command: &Command) -> String {
    let quote = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect::<Vec<_>>().join(" ")
}

/// Runs a command whose output the user sees.
///
/// # Errors
/// Fails when it cannot be started or does not succeed; `hint` says what to do then.
pub fn run(command: &mut Command, hint: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`; {hint}", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status}); {hint}", shown(command));
    }
    Ok(())
}

/// Runs a command and returns what it wrote to its standard output; its errors go to ours.
///
/// # Errors
/// As [`run`].
pub fn output(command: &mut Command, hint: &str) -> Result<String> {
    let run = command.stderr(Stdio::inherit()).output();
    let output = run.with_context(|| format!("cannot start `{}`; {hint}", shown(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({}); {hint}", shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The cargo that runs us, so that the same toolchain builds everything.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` says of this package must not reach the packages it builds.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME"] {
        cargo.env_remove(name);
    }
    cargo
}

/// Says how long a step took, when it was long enough to wonder.
pub fn done(what: &str, since: Instant) {
    let seconds = since.elapsed().as_secs_f32();
    if seconds >= 1.0 {
        eprintln!("    {what}: {seconds:.1} s");
    }
}
