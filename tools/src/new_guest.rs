//! `cargo xtask new-guest NAME`: lays out a guest crate of its own, in any folder, that `cargo
//! run --release` builds and boots.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::build::write;
use crate::workspace::{BARE_METAL, Workspace};

/// Where the new crate has the runtime from.
#[derive(Clone, Copy, Debug)]
pub enum Library<'a> {
    /// This checkout, as it stands.
    Checkout,
    /// Packages, unpacked in these folders, as if a registry had them: `(package, folder)`.
    Packages(&'a [(String, PathBuf)]),
}

/// Lays out the crate in the folder `path`, whose last part is its name, and says what to do with it.
///
/// # Errors
/// Fails when the name is no crate's name, the folder exists, or a file cannot be written.
pub fn run(workspace: &Workspace, parent: &Path, path: &Path) -> Result<()> {
    let path = std::path::absolute(parent.join(path))?;
    let name = path.file_name().and_then(|name| name.to_str()).context("a guest wants a name")?;
    let folder = lay_out(workspace, path.parent().unwrap_or(parent), name, Library::Checkout)?;
    println!("{} is laid out. Next:\n", folder.display());
    println!("    cd {}", folder.display());
    println!("    cargo run --release                                 # builds it and boots it in QEMU");
    println!("    cargo run --release -- --script 'xl create {name}.cfg; xl wait {name}; poweroff'\n");
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
pub fn lay_out(workspace: &Workspace, parent: &Path, name: &str, library: Library<'_>) -> Result<PathBuf> {
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c));
    ensure!(is_name, "`{name}` cannot name a crate: a small letter first, then small letters, digits, - and _");
    let folder = parent.join(name);
    ensure!(!folder.exists(), "{} is there already: choose another name", folder.display());
    let files = [
        ("Cargo.toml", MANIFEST),
        (".cargo/config.toml", CONFIG),
        (".gitignore", "/target\n"),
        ("rust-toolchain.toml", TOOLCHAIN),
        ("src/main.rs", MAIN),
        ("guest.cfg", GUEST),
    ];
    for (file, text) in files {
        let text = text.replace("DEPENDENCY", &library.dependency(workspace)).replace("PATCH", &library.patch());
        let text = text.replace("CHECKOUT", &workspace.root.display().to_string());
        let file = if file == "guest.cfg" { format!("{name}.cfg") } else { file.to_owned() };
        write(&folder.join(file), text.replace("NAME", name).replace("TARGET", BARE_METAL).as_bytes())?;
    }
    Ok(folder)
}

impl Library<'_> {
    fn dependency(self, workspace: &Workspace) -> String {
        match self {
            Self::Checkout => format!("{{ path = {:?} }}", workspace.root.join("domu-lib")),
            Self::Packages(_) => format!("{:?}", env!("CARGO_PKG_VERSION")),
        }
    }

    fn patch(self) -> String {
        let Self::Packages(packages) = self else { return String::new() };
        let lines = packages.iter().map(|(package, folder)| format!("{package} = {{ path = {folder:?} }}\n"));
        format!("\n[patch.crates-io]\n{}", lines.collect::<String>())
    }
}

const MANIFEST: &str = r#"[package]
name = "NAME"
version = "0.1.0"
edition = "2024"

# A workspace of its own, wherever it stands.
[workspace]

[dependencies]
oxen-domu-lib = DEPENDENCY

[profile.dev]
panic = "abort"

[profile.release]
panic = "abort"
PATCH"#;

const CONFIG: &str = r#"[build]
target = "TARGET"

# Linked where the domain builder maps it: the runtime brings the linker script.
[target.TARGET]
rustflags = ["-C", "relocation-model=pic", "-C", "link-arg=-no-pie", "-C", "link-arg=-Tguest.ld"]
# `cargo run` boots what it built; what stands behind `--` goes to `cargo xtask run`.
runner = ["sh", "-c", '''
kernel=$(realpath "$0") && guest=$PWD && cd "CHECKOUT" &&
exec cargo xtask run --config "$guest/NAME.cfg" --file "target/TARGET/release/NAME=$kernel" "$@"''']
"#;

const TOOLCHAIN: &str = "[toolchain]\nchannel = \"stable\"\ntargets = [\"TARGET\"]\n";

const MAIN: &str = r#"//! The guest NAME.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

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

const GUEST: &str = "name = \"NAME\"\nkernel = \"target/TARGET/release/NAME\"\nmemory = 16\n";

#[cfg(test)]
mod tests {
    use super::{Library, lay_out};
    use crate::workspace::Workspace;

    #[test]
    fn a_crate_is_laid_out_once_and_only_under_a_crates_name() {
        let workspace = Workspace::open().unwrap();
        let parent = std::env::temp_dir().join(format!("oxen-new-guest-{}", std::process::id()));
        let folder = lay_out(&workspace, &parent, "my-guest", Library::Checkout).unwrap();
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        let config = read(".cargo/config.toml");
        assert!(config.contains("-Tguest.ld") && config.contains("x86_64-unknown-none"));
        assert!(config.contains("--config \"$guest/my-guest.cfg\""));
        assert!(read("Cargo.toml").contains("domu-lib\" }") && !read("Cargo.toml").contains("patch"));
        assert!(read("my-guest.cfg").contains("target/x86_64-unknown-none/release/my-guest"));
        let packages = [("oxen-abi".to_owned(), "/p/abi".into())];
        let packed = lay_out(&workspace, &parent, "packed", Library::Packages(&packages)).unwrap();
        let manifest = std::fs::read_to_string(packed.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("oxen-domu-lib = \"0.1.0\""));
        assert!(manifest.ends_with("[patch.crates-io]\noxen-abi = { path = \"/p/abi\" }\n"));
        for bad in ["my-guest", "", "Guest", "../x", "a b", "1st"] {
            assert!(lay_out(&workspace, &parent, bad, Library::Checkout).is_err(), "{bad}");
        }
        std::fs::remove_dir_all(parent).unwrap();
    }
}
