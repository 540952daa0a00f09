//! `cargo xtask new-guest NAME`: lays out a guest crate of its own that builds with `cargo build --release` and boots.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::build::write;
use crate::workspace::{BARE_METAL, Workspace};

/// Lays out the crate in `parent/name` and says what to do with it.
///
/// # Errors
/// Fails when the name is no crate's name, the folder exists, or a file cannot be written.
pub fn run(workspace: &Workspace, parent: &Path, name: &str) -> Result<()> {
    let folder = lay_out(workspace, parent, name)?;
    println!("{} is laid out. Next:\n", folder.display());
    println!("    (cd {} && cargo build --release)", folder.display());
    println!("    cargo xtask run --kernel {}\n", kernel(&folder, name).display());
    println!("docs/guests.md tells what a guest can do.");
    Ok(())
}

/// Where cargo leaves the kernel of a guest crate that builds into its own folder.
#[must_use]
pub fn kernel(folder: &Path, name: &str) -> PathBuf {
    folder.join("target").join(BARE_METAL).join("release").join(name)
}

/// Writes the crate's files and returns its folder.
///
/// # Errors
/// As [`run`].
pub fn lay_out(workspace: &Workspace, parent: &Path, name: &str) -> Result<PathBuf> {
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c));
    ensure!(is_name, "`{name}` cannot name a crate: a small letter first, then small letters, digits, - and _");
    let folder = parent.join(name);
    ensure!(!folder.exists(), "{} is there already: choose another name", folder.display());
    let library = workspace.root.join("domu-lib");
    let files = [
        ("Cargo.toml", MANIFEST),
        (".cargo/config.toml", CONFIG),
        (".gitignore", "/target\n"),
        ("rust-toolchain.toml", TOOLCHAIN),
        ("src/main.rs", MAIN),
        ("guest.cfg", GUEST),
    ];
    for (file, text) in files {
        let text = text.replace("NAME", name).replace("LIBRARY", &library.display().to_string());
        let file = if file == "guest.cfg" { format!("{name}.cfg") } else { file.to_owned() };
        write(&folder.join(file), text.replace("TARGET", BARE_METAL).as_bytes())?;
    }
    Ok(folder)
}

const MANIFEST: &str = r#"[package]
name = "NAME"
version = "0.1.0"
edition = "2024"

# A workspace of its own, wherever it stands.
[workspace]

[dependencies]
oxen-domu-lib = { path = "LIBRARY" }

[profile.dev]
panic = "abort"

[profile.release]
panic = "abort"
"#;

const CONFIG: &str = r#"[build]
target = "TARGET"

# Linked where the domain builder maps it.
[target.TARGET]
rustflags = ["-C", "relocation-model=pic", "-C", "link-arg=-no-pie", "-C", "link-arg=-TLIBRARY/guest.ld"]
"#;

const TOOLCHAIN: &str = "[toolchain]\nchannel = \"stable\"\ntargets = [\"TARGET\"]\n";

const MAIN: &str = r#"//! The guest NAME.
#![no_std]
#![no_main]
#![forbid(unsafe_op_in_unsafe_fn)]

use oxen_domu_lib::{entry, println, start_info, task, time};

entry!(run);

/// When this returns, the domain powers off.
fn run() {
    println!("NAME runs on {}", start_info::magic());
    println!("command line: {:?}", start_info::command_line());
    task::run(async {
        let before = time::now();
        time::sleep(50 * time::MILLISECOND).await;
        println!("slept {} us", (time::now() - before) / 1000);
    });
    println!("NAME is done");
}
"#;

const GUEST: &str = "name = \"NAME\"\nkernel = \"guests/NAME\"\nmemory = 16\n";

#[cfg(test)]
mod tests {
    use super::lay_out;
    use crate::workspace::Workspace;

    #[test]
    fn a_crate_is_laid_out_once_and_only_under_a_crates_name() {
        let workspace = Workspace::open().unwrap();
        let parent = std::env::temp_dir().join(format!("oxen-new-guest-{}", std::process::id()));
        let folder = lay_out(&workspace, &parent, "my-guest").unwrap();
        let config = std::fs::read_to_string(folder.join(".cargo/config.toml")).unwrap();
        assert!(config.contains("domu-lib/guest.ld") && config.contains("x86_64-unknown-none"));
        assert!(folder.join("my-guest.cfg").is_file());
        assert!(lay_out(&workspace, &parent, "my-guest").is_err());
        for bad in ["", "Guest", "../x", "a b", "1st"] {
            assert!(lay_out(&workspace, &parent, bad).is_err(), "{bad}");
        }
        std::fs::remove_dir_all(parent).unwrap();
    }
}
