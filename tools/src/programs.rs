//! Programs out of Debian's packages that are not installed: unpacked with all the libraries that they need, those of
//! the C library included, and started by the loader among these. So they run beside whatever this system has.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::PoisonError;

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::packages::{HINT, TURN, apt, folder, update};
use crate::process::{find, output, run, step};
use crate::workspace::Workspace;

/// Where packages are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// What this system installs from.
    Own,
    /// Newer versions, built for the release that this system is.
    Backports,
}

/// Packages that are unpacked into one folder.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

/// Where libraries stand in a tree.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

impl Tree {
    /// The tree of a name; the first time its packages are fetched, with the libraries that they need.
    ///
    /// # Errors
    /// Fails where there is no apt, or it does not have a package, or a folder cannot be written.
    pub fn get(workspace: &Workspace, name: &str, release: Release, packages: &[&str]) -> Result<Self> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let root = root_of(workspace, name);
        if !root.is_dir() {
            fetch(workspace, &root, release, packages)
                .with_context(|| format!("cannot have {}", packages.join(" ")))?;
        }
        Ok(Self { root })
    }

    /// Whether a tree stands unpacked.
    #[must_use]
    pub fn is_here(workspace: &Workspace, name: &str) -> bool {
        root_of(workspace, name).is_dir()
    }

    /// A file of the tree.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A program of the tree, with its libraries.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut path = OsString::new();
        for (index, folder) in LIBRARIES.iter().enumerate() {
            path.push(if index > 0 { ":" } else { "" });
            path.push(self.file(folder));
        }
        let mut command = Command::new(self.file(LOADER));
        command.arg("--library-path").arg(path).arg(self.file(program));
        command
    }
}

fn root_of(workspace: &Workspace, name: &str) -> PathBuf {
    folder(workspace).join("programs").join(name)
}

/// Fetches packages and the libraries that they need, and unpacks them into one folder.
fn fetch(workspace: &Workspace, root: &Path, release: Release, packages: &[&str]) -> Result<()> {
    let partial = root.with_extension(format!("partial-{}", std::process::id()));
    std::fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let done = fetch_into(workspace, &partial, release, packages).and_then(|()| {
        match std::fs::rename(partial.join("root"), root) {
            // Another process has been faster.
            Err(_) if root.is_dir() => Ok(()),
            moved => moved.context("cannot keep what was unpacked"),
        }
    });
    std::fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    done
}

fn fetch_into(workspace: &Workspace, partial: &Path, release: Release, packages: &[&str]) -> Result<()> {
    let source = Source::new(workspace, partial, release)?;
    let wanted = source.closure(packages)?;
    step(&format!("apt-get download {} and what it needs, {} packages in all", packages.join(" "), wanted.len()));
    // What apt fetched it names line by line; that is worth knowing only where it fails.
    output(source.apt_get()?.arg("download").args(&wanted).current_dir(partial), HINT)?;
    let root = partial.join("root");
    for entry in std::fs::read_dir(partial)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(file).arg(&root), "this needs Debian's dpkg")?;
        }
    }
    ensure!(root.join(LOADER).is_file(), "the packages bring no loader for programs");
    Ok(())
}

/// What apt is asked, as if nothing were installed.
struct Source<'a> {
    workspace: &'a Workspace,
    status: PathBuf,
    /// For another release than this system's: where its lists are, and its name.
    other: Option<(PathBuf, String)>,
}

impl<'a> Source<'a> {
    fn new(workspace: &'a Workspace, partial: &Path, release: Release) -> Result<Self> {
        let status = partial.join("status");
        build::write(&status, b"")?;
        let mut source = Self { workspace, status, other: None };
        if release == Release::Backports {
            let name = codename().context("this needs a Debian system that has backports")?;
            let own = folder(workspace).join("backports");
            for part in ["lists/partial", "archives/partial"] {
                std::fs::create_dir_all(own.join(part)).with_context(|| format!("cannot create {}", own.display()))?;
            }
            build::write(&own.join("sources.list"), sources(&name).as_bytes())?;
            source.other = Some((own, format!("{name}-backports")));
            run(source.apt_get()?.arg("-qq").arg("update"), HINT)?;
        }
        Ok(source)
    }

    fn apt_get(&self) -> Result<Command> {
        let mut command = match &self.other {
            None => apt(self.workspace, "apt-get")?,
            Some((own, release)) => {
                let mut command = Command::new(find("apt-get").context("this needs the apt of a Debian system")?);
                let lists = own.join("sources.list");
                for (option, value) in [("Dir::State", own), ("Dir::Cache", own), ("Dir::Etc::sourcelist", &lists)] {
                    command.arg("-o").arg(format!("{option}={}", value.display()));
                }
                command.args(["-q", "-o", "APT::Sandbox::User=", "-o", "Dir::Etc::sourceparts=/dev/null"]);
                command.arg("-o").arg(format!("APT::Default-Release={release}"));
                command
            }
        };
        command.arg("-o").arg(format!("Dir::State::status={}", self.status.display()));
        Ok(command)
    }

    /// The packages and all libraries that they need, each with its version. What else they depend on serves those who
    /// install them.
    fn closure(&self, packages: &[&str]) -> Result<Vec<String>> {
        let ask = || {
            let mut install = self.apt_get()?;
            output(install.args(["--no-install-recommends", "--simulate", "install"]).args(packages), HINT)
        };
        let said = match ask() {
            Err(_) if self.other.is_none() => update(self.workspace).and_then(|()| ask()),
            said => said,
        }?;
        let wanted = |name: &str| packages.contains(&name) || name.contains("lib");
        Ok(installs(&said)
            .filter(|(name, _)| wanted(name))
            .map(|(name, version)| format!("{name}={version}"))
            .collect())
    }
}

/// Reads names and versions of what a simulated installation would unpack.
fn installs(said: &str) -> impl Iterator<Item = (&str, &str)> {
    said.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        Some((name, rest.split_once(' ')?.0))
    })
}

/// This system's release, as Debian names it.
fn codename() -> Option<String> {
    let release = std::fs::read_to_string("/etc/os-release").ok()?;
    let value = |key: &str| release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value("ID").filter(|&id| id == "debian").and(value("VERSION_CODENAME")).map(str::to_owned)
}

/// apt's list of sources for a release with its backports.
fn sources(release: &str) -> String {
    const SOURCE: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian";
    format!("{SOURCE} {release} main\n{SOURCE} {release}-backports main\n")
}

#[cfg(test)]
mod tests {
    use super::installs;

    #[test]
    fn a_simulated_installation_names_packages_and_versions() {
        let said = "Reading package lists...\nInst libc6 (2.36-9 Debian:12.11/stable [amd64])\n\
            Inst qemu-system-x86 (1:10.0.2+ds-2 Debian Backports:stable-backports [amd64]) []\n\
            Conf libc6 (2.36-9 Debian)\n";
        let found: Vec<_> = installs(said).collect();
        assert_eq!(found, [("libc6", "2.36-9"), ("qemu-system-x86", "1:10.0.2+ds-2")]);
    }
}
