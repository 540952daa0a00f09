//! mdBook, which makes HTML of the pages: the one on the path, else Debian 13's, unpacked beside what it needs.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{find, output, run, step};
use crate::stock::DEBIAN_13;
use crate::workspace::Workspace;

/// Packages of Debian 13: mdBook and the libraries that it needs.
const PACKAGES: [&str; 3] = ["mdbook", "libc6", "libgcc-s1"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Makes HTML. Returns whether it could: without mdBook, and without apt to fetch it, the pages stay as they are.
///
/// # Errors
/// Fails where mdBook does.
pub(super) fn build(workspace: &Workspace, book: &Path, out: &Path) -> Result<bool> {
    let mut mdbook = match installed().map_or_else(|| fetched(workspace), Ok) {
        Ok(mdbook) => mdbook,
        Err(error) => {
            step(&format!(
                "no HTML: mdBook is neither here nor to be had ({error:#}); `cargo install mdbook` builds it"
            ));
            return Ok(false);
        }
    };
    run(mdbook.arg("build").arg("--dest-dir").arg(out).arg(book), "see what mdBook says")?;
    Ok(true)
}

/// What mdBook calls itself, if it is here.
#[must_use]
pub fn title(workspace: &Workspace) -> Option<String> {
    let mut mdbook = installed().or_else(|| unpacked(workspace))?;
    Some(output(mdbook.arg("--version"), "").ok()?.trim().to_owned())
}

fn installed() -> Option<Command> {
    find("mdbook").map(Command::new)
}

/// The folder of what was fetched.
fn root(workspace: &Workspace) -> std::path::PathBuf {
    workspace.out.join("debian/mdbook")
}

fn unpacked(workspace: &Workspace) -> Option<Command> {
    let root = root(workspace);
    let libraries = root.join(LIBRARIES);
    root.join("usr/bin/mdbook").is_file().then(|| {
        let mut command = Command::new(libraries.join(LOADER));
        command.arg("--library-path").arg(libraries).arg(root.join("usr/bin/mdbook"));
        command
    })
}

fn fetched(workspace: &Workspace) -> Result<Command> {
    if let Some(mdbook) = unpacked(workspace) {
        return Ok(mdbook);
    }
    let wanted = PACKAGES.iter().map(|package| DEBIAN_13.newest(workspace, package)).collect::<Result<Vec<_>>>()?;
    DEBIAN_13.unpack(workspace, &wanted, &root(workspace))?;
    match unpacked(workspace) {
        Some(mdbook) => Ok(mdbook),
        None => bail!("Debian's package holds no mdBook"),
    }
}
