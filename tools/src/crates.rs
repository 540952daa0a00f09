//! `cargo xtask package`: the crates that are for others to use, packed as a registry would get them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::{cargo, run as perform, step};
use crate::workspace::Workspace;

/// They, in the order of their dependence.
pub const PACKAGES: [&str; 4] = ["oxen-abi", "oxen-model", "oxen-ring", "oxen-domu-lib"];

/// Packs the crates and builds each from its package. They depend on each other and no registry has them: cargo packs
/// them together, and builds the later ones against the packages of the earlier ones (`cargo package` since 1.90).
///
/// # Errors
/// Fails when one cannot be packed, or does not build from what is packed.
pub fn run(workspace: &Workspace) -> Result<()> {
    step("package and build from the packages");
    pack(workspace, &[])?;
    for package in PACKAGES {
        println!("{}", file(workspace, package).display());
    }
    Ok(())
}

/// Packs the crates without building them, and unpacks them below `into`; returns each one's name and folder.
///
/// # Errors
/// Fails when one cannot be packed or unpacked.
pub fn unpacked(workspace: &Workspace, into: &Path) -> Result<Vec<(String, PathBuf)>> {
    pack(workspace, &["--no-verify"])?;
    std::fs::create_dir_all(into).with_context(|| format!("cannot create {}", into.display()))?;
    PACKAGES
        .iter()
        .map(|package| {
            let mut tar = Command::new("tar");
            perform(
                tar.arg("-xzf").arg(file(workspace, package)).arg("-C").arg(into),
                "the package cannot be unpacked",
            )?;
            let folder = into.join(format!("{package}-{VERSION}"));
            ensure!(folder.join("Cargo.toml").is_file(), "{} holds no package", folder.display());
            Ok(((*package).to_owned(), folder))
        })
        .collect()
}

/// All crates of the workspace have the same one.
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn file(workspace: &Workspace, package: &str) -> PathBuf {
    workspace.root.join("target/package").join(format!("{package}-{VERSION}.crate"))
}

fn pack(workspace: &Workspace, options: &[&str]) -> Result<()> {
    let mut cargo = cargo();
    cargo.current_dir(&workspace.root).args(["package", "--quiet", "--allow-dirty", "--target-dir", "target"]);
    cargo.args(options);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    perform(&mut cargo, "a crate cannot be packaged")
}
