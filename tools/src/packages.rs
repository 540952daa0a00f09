//! Debian's packages: fetched by apt, which checks their sums, and unpacked. Nothing is installed, nothing needs root.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::process::{find, output, run, step};
use crate::workspace::Workspace;

/// Held while something is fetched or unpacked: scenarios run side by side.
pub(crate) static TURN: Mutex<()> = Mutex::new(());

pub(crate) const HINT: &str = "see what apt says";

/// The folder in which a package is unpacked; it is fetched the first time.
///
/// # Errors
/// As [`unpack_all`].
pub fn unpack(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    unpack_all(workspace, &[name])?.pop().context("no package was asked for")
}

/// The folders in which packages are unpacked, in the order of their names; those that are missing are fetched at once.
///
/// # Errors
/// Fails where there is no apt, or it does not have a package, or a folder cannot be written.
pub fn unpack_all<T: AsRef<str>>(workspace: &Workspace, names: &[T]) -> Result<Vec<PathBuf>> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let root = |name: &str| folder(workspace).join(name).join("root");
    let missing: Vec<&str> = names.iter().map(AsRef::as_ref).filter(|name| !root(name).is_dir()).collect();
    if !missing.is_empty() {
        fetch(workspace, &missing)?;
    }
    Ok(names.iter().map(|name| root(name.as_ref())).collect())
}

/// The first package on which another depends, for those that stand for the present version of something.
///
/// # Errors
/// Fails where there is no apt, or it knows no such package.
pub fn stands_for(workspace: &Workspace, name: &str) -> Result<String> {
    let known =
        |workspace| depends(workspace, &[name]).and_then(|all| all.into_iter().next().context("it needs nothing"));
    known(workspace).or_else(|_| update(workspace).and_then(|()| known(workspace)))
}

/// The libraries that packages need, and those that these need: what a ramdisk holds beside the programs.
///
/// # Errors
/// As [`stands_for`].
pub fn libraries(workspace: &Workspace, names: &[&str]) -> Result<Vec<String>> {
    let mut found = BTreeSet::new();
    let mut next: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    while !next.is_empty() {
        let asked: Vec<&str> = next.iter().map(String::as_str).collect();
        let needed = depends(workspace, &asked)?;
        next = needed.into_iter().filter(|name| name.contains("lib") && found.insert(name.clone())).collect();
    }
    Ok(found.into_iter().collect())
}

/// The packages on which others depend, the virtual ones left out.
fn depends(workspace: &Workspace, names: &[&str]) -> Result<Vec<String>> {
    let mut query = apt(workspace, "apt-cache")?;
    let said = output(query.args(["depends", "--important"]).args(names), HINT)?;
    Ok(depended(&said))
}

/// Reads the list that `apt-cache depends` prints; of alternatives it holds the first.
pub(crate) fn depended(said: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_alternative = false;
    for line in said.lines() {
        let first = line.trim_start().strip_prefix('|');
        let Some(name) = first.unwrap_or(line.trim_start()).strip_prefix("Depends: ") else { continue };
        if !is_alternative && !name.starts_with('<') {
            names.push(name.to_owned());
        }
        is_alternative = first.is_some();
    }
    names
}

/// Where packages stand.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.out.join("debian")
}

/// A program of apt's. Where [`update`] was needed it reads our own lists of packages.
pub(crate) fn apt(workspace: &Workspace, program: &str) -> Result<Command> {
    let Some(program) = find(program) else { bail!("this needs the apt of a Debian system") };
    let mut command = Command::new(program);
    let own = folder(workspace).join("apt");
    if own.is_dir() {
        command.arg("-o").arg(format!("Dir::State={}", own.display()));
        command.arg("-o").arg(format!("Dir::Cache={}", own.display()));
    }
    command.args(["-q", "-o", "APT::Sandbox::User="]);
    Ok(command)
}

/// Fetches lists of packages of our own, for a machine whose lists are old or missing.
pub(crate) fn update(workspace: &Workspace) -> Result<()> {
    let own = folder(workspace).join("apt");
    for part in ["lists/partial", "archives/partial"] {
        std::fs::create_dir_all(own.join(part)).with_context(|| format!("cannot create {}", own.display()))?;
    }
    step("apt-get update, into target/oxen");
    let updated = run(apt(workspace, "apt-get")?.arg("update"), HINT);
    if updated.is_err() {
        // Half a set of lists would hide the system's own.
        std::fs::remove_dir_all(&own).with_context(|| format!("cannot remove {}", own.display()))?;
    }
    updated
}

/// Fetches packages, and unpacks each into a folder of its own.
fn fetch(workspace: &Workspace, names: &[&str]) -> Result<()> {
    // Another process may be at it as well.
    let partial = folder(workspace).join(format!("partial-{}", std::process::id()));
    std::fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    step(&format!("apt-get download {}", names.join(" ")));
    let download = || run(apt(workspace, "apt-get")?.arg("download").args(names).current_dir(&partial), HINT);
    download().or_else(|_| update(workspace).and_then(|()| download()))?;
    for name in names {
        let begin = format!("{name}_");
        let file = std::fs::read_dir(&partial)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&begin)))
            .with_context(|| format!("apt-get left no package {name}"))?;
        let unpacked = partial.join("root");
        run(Command::new("dpkg").arg("-x").arg(file).arg(&unpacked), "this needs Debian's dpkg")?;
        keep(&unpacked, &folder(workspace).join(name))?;
    }
    std::fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))
}

/// Moves an unpacked package to its place, where it may stand already.
fn keep(unpacked: &Path, place: &Path) -> Result<()> {
    std::fs::create_dir_all(place).with_context(|| format!("cannot create {}", place.display()))?;
    let root = place.join("root");
    match std::fs::rename(unpacked, &root) {
        Err(_) if root.is_dir() => std::fs::remove_dir_all(unpacked).context("cannot remove what is there already"),
        moved => moved.context("cannot keep what was unpacked"),
    }
}

#[cfg(test)]
mod tests {
    use super::depended;

    #[test]
    fn of_alternatives_the_first_is_taken_and_virtual_packages_are_left_out() {
        let said = "tools\n |Depends: first\n  Depends: second\n  Depends: <virtual:any>\n    real\n  Depends: last\n";
        assert_eq!(depended(said), ["first", "last"]);
        assert_eq!(depended("nothing\n"), [""; 0]);
    }
}
