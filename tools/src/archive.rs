//! Archives of distributions, each read by apt with lists of our own in `target/oxen`: what this machine is set to and
//! has installed does not matter, and nothing is installed. apt checks the lists' signatures against the distribution's
//! own keys, and the packages' sums against the lists.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{find, output, run, step};
use crate::workspace::Workspace;
use crate::{build, packages};

/// Held while lists or packages are fetched: scenarios run side by side.
static TURN: Mutex<()> = Mutex::new(());

/// How old lists may be.
const FRESH: Duration = Duration::from_secs(6 * 3600);

const HINT: &str = "see what apt says";

/// A release of a distribution.
#[derive(Clone, Copy, Debug)]
pub struct Archive {
    /// The folder of its lists.
    pub name: &'static str,
    /// Where its packages are: addresses, each with a suite.
    pub suites: &'static [(&'static str, &'static str)],
    /// What its lists are signed by.
    pub keys: Keys,
}

/// Where the keys of a distribution are.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// On every Debian system.
    Debian,
    /// In a file of a package of another archive.
    Package {
        /// That archive.
        archive: &'static Archive,
        /// The package.
        package: &'static str,
        /// The file in it.
        file: &'static str,
    },
}

const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A package at its newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub package: String,
    /// Its version.
    pub version: String,
}

impl Archive {
    /// The newest version of the package for which another stands: of the first on which that depends.
    ///
    /// # Errors
    /// Fails where there is no apt, the archive cannot be reached, or has no such package.
    pub fn newest_behind(&self, workspace: &Workspace, package: &str) -> Result<Candidate> {
        self.update(workspace)?;
        let said = output(self.apt(workspace, "apt-cache")?.args(["depends", "--important", package]), HINT)?;
        let real = packages::depended(&said).into_iter().next();
        self.candidate(workspace, &real.with_context(|| format!("{package} needs nothing"))?)
    }

    /// Has the lists fetched anew before they are asked again; returns whether there were any. They may name packages
    /// that newer ones have replaced.
    #[must_use]
    pub fn doubt(&self, workspace: &Workspace) -> bool {
        std::fs::remove_file(self.folder(workspace).join("updated")).is_ok()
    }

    /// The newest version of a package.
    ///
    /// # Errors
    /// As [`Archive::newest_behind`].
    pub fn newest(&self, workspace: &Workspace, package: &str) -> Result<Candidate> {
        self.update(workspace)?;
        self.candidate(workspace, package)
    }

    fn candidate(&self, workspace: &Workspace, package: &str) -> Result<Candidate> {
        let said = output(self.apt(workspace, "apt-cache")?.args(["show", "--no-all-versions", package]), HINT)?;
        let version = said.lines().find_map(|line| line.strip_prefix("Version: "));
        let version = version.with_context(|| format!("{} has no package {package}", self.name))?.to_owned();
        Ok(Candidate { package: package.to_owned(), version })
    }

    /// Fetches packages, and unpacks them into one folder, which is made whole or not at all.
    ///
    /// # Errors
    /// Fails where apt or dpkg does, or the folder cannot be written.
    pub fn unpack(&self, workspace: &Workspace, wanted: &[Candidate], folder: &Path) -> Result<()> {
        self.update(workspace)?;
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if folder.is_dir() {
            return Ok(());
        }
        let parent = folder.parent().context("no folder")?;
        // Another process may be at it as well.
        let partial = parent.join(format!("partial-{}", std::process::id()));
        empty(&partial)?;
        let wanted: Vec<String> = wanted.iter().map(|c| format!("{}={}", c.package, c.version)).collect();
        step(&format!("apt-get download {}", wanted.join(" ")));
        run(self.apt(workspace, "apt-get")?.arg("download").args(&wanted).current_dir(&partial), HINT)?;
        let root = partial.join("root");
        for file in std::fs::read_dir(&partial)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()? {
            run(Command::new("dpkg").arg("-x").arg(&file).arg(&root), "this needs Debian's dpkg")?;
        }
        ensure!(root.is_dir(), "apt-get left no package of {}", wanted.join(" "));
        match std::fs::rename(&root, folder) {
            Err(_) if folder.is_dir() => {}
            moved => moved.context("cannot keep what was unpacked")?,
        }
        std::fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))
    }

    /// Where its lists are.
    fn folder(&self, workspace: &Workspace) -> PathBuf {
        workspace.out.join("archives").join(self.name)
    }

    /// Fetches the lists, where they are missing or old.
    fn update(&self, workspace: &Workspace) -> Result<()> {
        if let Keys::Package { archive, .. } = self.keys {
            archive.update(workspace)?;
        }
        let keys = self.keys(workspace)?;
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (folder, stamp) = (self.folder(workspace), self.folder(workspace).join("updated"));
        for part in ["lists/partial", "archives/partial", "none"] {
            std::fs::create_dir_all(folder.join(part))
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        build::write(&folder.join("sources.list"), self.sources(&keys)?.as_bytes())?;
        build::write(&folder.join(CONFIG), config(&folder).as_bytes())?;
        let updated = std::fs::metadata(&stamp).and_then(|file| file.modified());
        let now = SystemTime::now();
        if updated.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age < FRESH)) {
            return Ok(());
        }
        step(&format!("apt-get update for {}, into target/oxen", self.name));
        run(self.apt(workspace, "apt-get")?.args(["update", "--error-on=any"]), HINT)?;
        build::write(&stamp, &[])
    }

    /// The file with the keys.
    fn keys(&self, workspace: &Workspace) -> Result<PathBuf> {
        match self.keys {
            Keys::Debian if Path::new(DEBIAN_KEYS).is_file() => Ok(DEBIAN_KEYS.into()),
            Keys::Debian => bail!("{DEBIAN_KEYS} is missing: this needs Debian's package debian-archive-keyring"),
            Keys::Package { archive, package, file } => {
                let root = archive.folder(workspace).join(package);
                if !root.is_dir() {
                    let keys = archive.candidate(workspace, package)?;
                    archive.unpack(workspace, &[keys], &root)?;
                }
                Ok(root.join(file))
            }
        }
    }

    /// What apt reads as its sources.
    fn sources(&self, keys: &Path) -> Result<String> {
        let keys = keys.to_str().filter(|keys| !keys.contains([' ', ']'])).context("apt takes no such folder")?;
        let line =
            |(address, suite): &(&str, &str)| format!("deb [arch=amd64 signed-by={keys}] {address} {suite} main\n");
        Ok(self.suites.iter().map(line).collect())
    }

    /// A program of apt's that knows this archive alone.
    fn apt(&self, workspace: &Workspace, program: &str) -> Result<Command> {
        let Some(program) = find(program) else { bail!("this needs the apt of a Debian system") };
        let mut command = Command::new(program);
        command.arg("-c").arg(self.folder(workspace).join(CONFIG)).arg("-q");
        Ok(command)
    }
}

/// What apt reads besides this machine's own settings, and in their place.
const CONFIG: &str = "apt.conf";

fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "Dir::State \"{folder}\";\nDir::Cache \"{folder}\";\nDir::Etc::SourceList \"{folder}/sources.list\";\n\
         Dir::Etc::SourceParts \"{folder}/none\";\nDir::Etc::PreferencesParts \"{folder}/none\";\n\
         Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Acquire::Retries \"2\";\nAPT::Architecture \"amd64\";\nAPT::Sandbox::User \"\";\n"
    )
}

fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::{Archive, Keys};
    use std::path::Path;

    #[test]
    fn every_suite_is_trusted_by_the_archives_own_keys_alone() {
        let suites = &[("http://a/debian", "one"), ("http://a/security", "two")];
        let archive = Archive { name: "x", suites, keys: Keys::Debian };
        let text = archive.sources(Path::new("/k/keys.gpg")).unwrap();
        assert_eq!(
            text,
            "deb [arch=amd64 signed-by=/k/keys.gpg] http://a/debian one main\n\
             deb [arch=amd64 signed-by=/k/keys.gpg] http://a/security two main\n"
        );
        assert!(archive.sources(Path::new("/a folder/keys.gpg")).is_err(), "apt would part it");
    }
}
