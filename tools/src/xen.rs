//! Real Xen, as Debian packages it, to compare with: found, or fetched, and unpacked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{build, debian, packages};

/// The package that holds the hypervisor, and the file in it.
const PACKAGE: &str = "xen-hypervisor-4.17-amd64";
const FILE: &str = "boot/xen-4.17-amd64.gz";

/// Held while it is unpacked: scenarios run side by side.
static TURN: Mutex<()> = Mutex::new(());

/// Where real Xen's binary is: the given file, or for `xen` Debian's, which is fetched when it is not installed.
///
/// # Errors
/// Fails when there is no such file, or the package cannot be fetched.
pub fn find(workspace: &Workspace, wanted: &Path) -> Result<PathBuf> {
    let packed = if wanted == Path::new("xen") { debian(workspace)? } else { wanted.to_path_buf() };
    let bytes = std::fs::read(&packed).with_context(|| format!("cannot read {}", packed.display()))?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(packed);
    }
    let unpacked = workspace.out.join("xen/xen");
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let gzip = Command::new("gzip").arg("-dc").arg(&packed).output().context("cannot start gzip")?;
    build::write(&unpacked, &gzip.stdout)?;
    Ok(unpacked)
}

fn debian(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(file) = debian::installed(FILE) {
        return Ok(file);
    }
    let root = packages::unpack(workspace, PACKAGE)
        .context("on other systems than Debian 12 give the path of a Xen binary instead")?;
    Ok(root.join(FILE))
}
