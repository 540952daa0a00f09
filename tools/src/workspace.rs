//! Where things are: the workspace's root, the output folder, the sample guests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The target triple of everything that runs without an operating system beneath it.
pub const BARE_METAL: &str = "x86_64-unknown-none";

/// The workspace on disk.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The folder that holds the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// What is built for booting: `target/oxen`.
    pub out: PathBuf,
}

impl Workspace {
    /// Finds the workspace from the crate that cargo runs, else from where this crate was compiled.
    ///
    /// # Errors
    /// Fails when the output folder cannot be created.
    pub fn open() -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
        let compiled = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = [manifest.parent(), compiled.parent()]
            .into_iter()
            .flatten()
            .find(|root| root.join("domu-lib/Cargo.toml").is_file())
            .context("the workspace is not where it was compiled: run `cargo xtask` inside a clone of Oxen")?
            .to_path_buf();
        let out = root.join("target/oxen");
        std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
        Ok(Self { root, out })
    }

    /// The names of the sample guests: the examples of `domu-lib`, sorted.
    ///
    /// # Errors
    /// Fails when a folder cannot be read.
    pub fn guests(&self) -> Result<Vec<String>> {
        let folder = self.root.join("domu-lib/examples");
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let is_example = if path.is_dir() {
                path.join("main.rs").is_file()
            } else {
                path.extension().is_some_and(|e| e == "rs")
            };
            if let (true, Some(stem)) = (is_example, path.file_stem().and_then(|s| s.to_str())) {
                names.push(stem.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The crates of the workspace, as folder names, in the order of their arrows.
    #[must_use]
    pub fn crates(&self) -> &'static [&'static str] {
        &["abi", "ring", "image", "hv", "domu-lib", "dom0", "tools", "qemu-tests", "fuzz"]
    }
}
