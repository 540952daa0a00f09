//! Release builds of everything that boots, into `target/oxen/`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;

use crate::cpio::Archive;
use crate::elf::Elf;
use crate::process::{cargo, done, shown, step};
use crate::workspace::{BARE_METAL, Workspace};
use crate::{setup, source, symbols};

/// What cargo is asked to build: one program of one package, linked by one script.
struct Program<'a> {
    package: &'a str,
    /// `--bin` or `--example`.
    kind: &'a str,
    name: &'a str,
    script: &'a str,
    /// The profile of the workspace's manifest.
    profile: &'a str,
}

/// `cargo xtask build`: `hv`, `dom0`, the guests, the ramdisk.
///
/// # Errors
/// Fails when a build does; cargo has then said why.
pub fn all(workspace: &Workspace) -> Result<()> {
    guests(workspace)?;
    dom0(workspace)?;
    ramdisk(workspace)?;
    hypervisor(workspace)
}

/// Builds `target/oxen/hv`, with its symbols inside for backtraces, and `target/oxen/debug/hv` for the debugger.
///
/// # Errors
/// As [`all`].
pub fn hypervisor(workspace: &Workspace) -> Result<()> {
    hypervisor_with(workspace, "hypervisor", &[], "hv")
}

/// Builds `target/oxen/hv-checked`, a hypervisor with its debug assertions, the order of locks among them, and overflow
/// checks: it panics where one is broken.
///
/// # Errors
/// As [`all`].
pub fn checked_hypervisor(workspace: &Workspace) -> Result<()> {
    hypervisor_with(workspace, "checked", &[], CHECKED)
}

/// The name of the hypervisor of [`checked_hypervisor`].
pub const CHECKED: &str = "hv-checked";

/// Builds `target/oxen/hv-perfc`, a hypervisor that counts what domains ask of it.
///
/// # Errors
/// As [`all`].
pub fn counting_hypervisor(workspace: &Workspace) -> Result<()> {
    hypervisor_with(workspace, "hypervisor", &["--features", "perfc"], "hv-perfc")
}

fn hypervisor_with(workspace: &Workspace, profile: &str, options: &[&str], place: &str) -> Result<()> {
    let program = Program { package: "oxen-hv", kind: "--bin", name: "hv", script: "hv/hv.ld", profile };
    let built = program.build(workspace, options)?;
    let mut bytes = std::fs::read(&built)?;
    symbols::fill(&mut bytes)?;
    keep_for_debugger(workspace, place, &bytes)?;
    write(&workspace.out.join(place), &Elf::new(&bytes)?.without_sections()?)
}

/// Builds `target/oxen/dom0`.
///
/// # Errors
/// As [`all`].
pub fn dom0(workspace: &Workspace) -> Result<()> {
    guest(
        workspace,
        &Program { package: "oxen-dom0", kind: "--bin", name: "dom0", script: GUEST_SCRIPT, profile: "release" },
        &[],
        "dom0",
    )
}

/// Builds each sample guest into `target/oxen/guests/`.
///
/// # Errors
/// As [`all`].
pub fn guests(workspace: &Workspace) -> Result<()> {
    for name in workspace.guests()? {
        let program = Program {
            package: "oxen-domu-lib",
            kind: "--example",
            name: &name,
            script: GUEST_SCRIPT,
            profile: "release",
        };
        // One of them has connections; the library is built once.
        guest(workspace, &program, &["--features", "ip-segmentation"], &format!("guests/{name}"))?;
    }
    Ok(())
}

/// Builds `target/oxen/probe`, the guest of the QEMU tests.
///
/// # Errors
/// As [`all`].
pub fn probe(workspace: &Workspace) -> Result<()> {
    guest(
        workspace,
        &Program { package: "oxen-probe", kind: "--bin", name: "probe", script: GUEST_SCRIPT, profile: "release" },
        &[],
        "probe",
    )
}

/// Packs what is built into `target/oxen/ramdisk.cpio`.
///
/// # Errors
/// Fails when a file cannot be read or written.
pub fn ramdisk(workspace: &Workspace) -> Result<()> {
    write(&workspace.out.join("ramdisk.cpio"), &ramdisk_with(workspace, &[])?)
}

/// A ramdisk of the sample guests and their configurations, and before them of more files by name.
///
/// # Errors
/// Fails when a file cannot be read.
pub fn ramdisk_with(workspace: &Workspace, more: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (name, data) in more {
        archive.add(name, data);
    }
    for name in workspace.guests()? {
        let kernel = workspace.out.join("guests").join(&name);
        archive.add(&format!("guests/{name}"), &read(&kernel)?);
    }
    for config in source::files(&workspace.root.join("domu-lib/examples"), &[".cfg"])? {
        let name = config.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        archive.add(&name, &read(&config)?);
    }
    Ok(archive.finish())
}

const GUEST_SCRIPT: &str = "domu-lib/guest.ld";

/// Builds a guest with options of cargo's.
fn guest(workspace: &Workspace, program: &Program<'_>, options: &[&str], place: &str) -> Result<()> {
    let bytes = std::fs::read(program.build(workspace, options)?)?;
    keep_for_debugger(workspace, place, &bytes)?;
    write(&workspace.out.join(place), &symbols::append(&bytes)?)
}

impl Program<'_> {
    /// Builds it with options of cargo's, and returns where cargo left it.
    fn build(&self, workspace: &Workspace, options: &[&str]) -> Result<PathBuf> {
        setup::target()?;
        let script = workspace.root.join(self.script);
        if !script.is_file() {
            bail!("{} is missing: {} cannot be linked without it", script.display(), self.name);
        }
        let begun = Instant::now();
        let mut cargo = cargo();
        cargo.current_dir(&workspace.root).args([
            "rustc",
            "--quiet",
            "--profile",
            self.profile,
            "--target",
            BARE_METAL,
        ]);
        cargo.args(["--package", self.package, self.kind, self.name, "--message-format=json-render-diagnostics"]);
        cargo.args(options);
        cargo.args(["--config", &without_folders(workspace)]);
        cargo.arg("--").arg("-C").arg(format!("link-arg=-T{}", script.display()));
        if self.package == "oxen-hv" {
            cargo.args(["-C", "link-arg=--build-id=sha1"]);
        }
        step(&format!("build {}", self.name));
        let built = executable(&mut cargo)?;
        done(self.name, begun);
        Ok(built)
    }
}

/// What has images name sources by where they are in the workspace and in cargo's registry, not by where
/// these are on this machine: the same bytes come of the same sources in any folder. (Cargo adds it to the
/// flags of `.cargo/config.toml`.)
fn without_folders(workspace: &Workspace) -> String {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).unwrap_or_default();
    let folders = [(workspace.root.as_path(), "oxen"), (cargo_home.as_path(), "cargo")];
    let flags = folders.map(|(folder, name)| format!("'--remap-path-prefix={}={name}'", folder.display()));
    format!("target.{BARE_METAL}.rustflags=[{}]", flags.join(", "))
}

/// Runs a cargo command that writes JSON messages, and returns the last program that it says it made.
fn executable(cargo: &mut Command) -> Result<PathBuf> {
    let run = cargo.stderr(Stdio::inherit()).output();
    let output = run.with_context(|| format!("cannot start `{}`", shown(cargo)))?;
    if !output.status.success() {
        bail!("the build failed: `{}`", shown(cargo));
    }
    let mut made = None;
    for message in Message::parse_stream(output.stdout.as_slice()) {
        if let Message::CompilerArtifact(artifact) = message.context("cargo's messages cannot be read")? {
            made = artifact.executable.or(made);
        }
    }
    Ok(made.with_context(|| format!("`{}` made no program", shown(cargo)))?.into_std_path_buf())
}

fn keep_for_debugger(workspace: &Workspace, place: &str, bytes: &[u8]) -> Result<()> {
    write(&workspace.out.join("debug").join(place), bytes)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}; `cargo xtask build` makes it", path.display()))
}

/// Writes a file whole, with the folders on the way.
///
/// # Errors
/// Fails when that cannot be done.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(fail)?;
    }
    // A machine that is running may have the old file open: replace it, never rewrite it.
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, bytes).with_context(fail)?;
    std::fs::rename(&fresh, path).with_context(fail)
}
