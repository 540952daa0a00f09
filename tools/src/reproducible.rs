//! `cargo xtask reproducible`: the same sources in another folder give the same bytes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process::{done, step};
use crate::workspace::Workspace;
use crate::{build, source};

/// Builds all that boots here and in a copy of the workspace in the folder for temporary files, and compares the two.
///
/// # Errors
/// Fails when a build does, or when two files differ.
pub fn run(workspace: &Workspace) -> Result<()> {
    twice(workspace, build::all, images)
}

/// The same for the hypervisor alone: what the default suite has time for.
///
/// # Errors
/// As [`run`].
pub(crate) fn hypervisor(workspace: &Workspace) -> Result<()> {
    twice(workspace, build::hypervisor, |_| vec![PathBuf::from("hv")])
}

/// Builds in both folders, and compares what `named` says is there.
fn twice(
    workspace: &Workspace,
    build: impl Fn(&Workspace) -> Result<()>,
    named: impl Fn(&Path) -> Vec<PathBuf>,
) -> Result<()> {
    let begun = Instant::now();
    build(workspace)?;
    let copy = copy(workspace)?;
    step(&format!("the same in {}", copy.root.display()));
    let built = build(&copy);
    let differing = differences(&workspace.out, &copy.out, named);
    std::fs::remove_dir_all(&copy.root).with_context(|| format!("cannot remove {}", copy.root.display()))?;
    built?;
    if !differing.is_empty() {
        bail!("what is built depends on the folder: {}", differing.join(", "));
    }
    done("two builds in two folders, the same bytes", begun);
    Ok(())
}

/// Copies the workspace's sources, as the disk has them. (A folder inside the workspace would take its `.cargo` too.)
fn copy(workspace: &Workspace) -> Result<Workspace> {
    let root = std::env::temp_dir().join(format!("oxen-built-elsewhere-{}", std::process::id()));
    for file in source::files(&workspace.root, &[""])? {
        let to = root.join(file.strip_prefix(&workspace.root)?);
        let fail = || format!("cannot copy {} to {}", file.display(), to.display());
        std::fs::create_dir_all(to.parent().context("a file lies in a folder")?).with_context(fail)?;
        std::fs::copy(&file, &to).with_context(fail)?;
    }
    let out = root.join("target/oxen");
    Ok(Workspace { root, out })
}

/// Names of what boots that is not the same, or not there, in both folders.
fn differences(one: &Path, other: &Path, named: impl Fn(&Path) -> Vec<PathBuf>) -> Vec<String> {
    let mut differing = Vec::new();
    let names: BTreeSet<PathBuf> = [one, other].into_iter().flat_map(named).collect();
    for name in names {
        let read = |folder: &Path| std::fs::read(folder.join(&name)).ok();
        let (a, b) = (read(one), read(other));
        if a.is_none() || a != b {
            differing.push(name.display().to_string());
        }
    }
    differing
}

/// What boots, below a folder of images: the hypervisor, dom0, the ramdisk, the guests.
fn images(folder: &Path) -> Vec<PathBuf> {
    let guests = std::fs::read_dir(folder.join("guests")).into_iter().flatten().flatten();
    let guests = guests.map(|guest| Path::new("guests").join(guest.file_name()));
    guests.chain(["hv", "dom0", "ramdisk.cpio"].map(PathBuf::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_differs_and_a_file_that_is_missing_are_named() {
        let root = std::env::temp_dir().join(format!("oxen-reproducible-{}", std::process::id()));
        let [one, other] = ["one", "other"].map(|name| root.join(name));
        for (folder, files) in [(&one, ["hv", "dom0", "guests/a"]), (&other, ["hv", "dom0", "guests/b"])] {
            std::fs::create_dir_all(folder.join("guests")).unwrap();
            std::fs::write(folder.join("ramdisk.cpio"), "same").unwrap();
            files.iter().for_each(|name| std::fs::write(folder.join(name), "same").unwrap());
        }
        std::fs::write(other.join("dom0"), "sane").unwrap();
        let found = differences(&one, &other, images);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, ["dom0", "guests/a", "guests/b"]);
    }
}
