//! Ramdisks for Debian's kernel as a guest: busybox, modules with what they need, and a first process that prepares
//! the system for a shell on the console or for a script.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oxen_image::payload::Payload;

use crate::cpio::Archive;
use crate::debian;
use crate::elf::Elf;
use crate::source;
use crate::stock::Kernel;
use crate::workspace::Workspace;

/// What the kernel is told so that it starts the ramdisk's first process, with its console where Xen's is.
pub const CMDLINE: &str = "console=hvc0 rdinit=/init";

/// What the shell on the console prints when it waits for a command, where the guest has this name.
#[must_use]
pub fn prompt(name: &str) -> String {
    format!("{name}:/# ")
}

/// Complaints of Linux about itself.
const COMPLAINTS: [&str; 5] = ["Kernel panic", "WARNING: CPU", "BUG:", "Call Trace", "segfault"];

/// The first line in which Linux complains of itself.
#[must_use]
pub fn complaint(transcript: &str) -> Option<&str> {
    transcript.lines().find(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)))
}

/// The first process. What fails in it is said on the console, and the rest goes on.
const INIT: &str = include_str!("linux/init");
/// What busybox's init starts: the shell.
const INITTAB: &str = include_str!("linux/inittab");
/// What the shell reads first.
const PROFILE: &str = include_str!("linux/profile");
/// What is called for the kernel's events.
const HOTPLUG: &str = include_str!("linux/hotplug");
/// What the DHCP client calls.
const UDHCPC: &str = include_str!("linux/udhcpc");

/// The folders that every ramdisk has, each after the one in which it lies.
const FOLDERS: [&str; 12] =
    ["bin", "dev", "etc", "lib", "lib/modules", "mnt", "proc", "root", "run", "sys", "tmp", "var"];

/// A ramdisk to be made.
#[derive(Clone, Debug)]
pub struct Ramdisk<'a> {
    workspace: &'a Workspace,
    name: String,
    /// The folder with its kernel's modules; that of Debian's present kernel where none is given.
    modules_of: Option<PathBuf>,
    modules: Vec<String>,
    script: Option<String>,
    programs: Vec<(String, Vec<u8>)>,
}

impl<'a> Ramdisk<'a> {
    /// A ramdisk with busybox, whose host's name is `name`.
    #[must_use]
    pub fn new(workspace: &'a Workspace, name: &str) -> Self {
        let name = name.to_owned();
        Self { workspace, name, modules_of: None, modules: Vec::new(), script: None, programs: Vec::new() }
    }

    /// Takes the modules of another kernel than Debian's present one.
    #[must_use]
    pub fn kernel(mut self, kernel: &Kernel) -> Self {
        self.modules_of = Some(kernel.modules.clone());
        self
    }

    /// Adds modules by their names, such as `xen-blkfront`; they are loaded in this order, after what they depend on.
    #[must_use]
    pub fn modules(mut self, names: &[&str]) -> Self {
        self.modules.extend(names.iter().map(|&name| name.to_owned()));
        self
    }

    /// Adds the modules for disks and their file systems.
    #[must_use]
    pub fn disks(self) -> Self {
        // ext4 looks for its checksums by an alias that nothing in the ramdisk would resolve.
        self.modules(&["xen-blkfront", "crc32c_generic", "ext4"])
    }

    /// Adds the modules for network interfaces; `/init` asks for an address by DHCP where there is one.
    #[must_use]
    pub fn network(self) -> Self {
        self.modules(&["xen-netfront"])
    }

    /// What is done instead of a shell; then the guest powers off. In the script's folder lie busybox's programs.
    #[must_use]
    pub fn script(mut self, lines: &str) -> Self {
        self.script = Some(lines.to_owned());
        self
    }

    /// Adds a file that can be executed, by its path without a leading `/`; the folders in which it lies are made.
    #[must_use]
    pub fn program(mut self, path: &str, bytes: &[u8]) -> Self {
        self.programs.push((path.to_owned(), bytes.to_vec()));
        self
    }

    /// Makes the archive.
    ///
    /// # Errors
    /// Fails where kernel or busybox cannot be had, or a module is not there.
    pub fn build(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in FOLDERS {
            archive.add_folder(folder);
        }
        archive.add_program("bin/busybox", &std::fs::read(debian::busybox(self.workspace)?)?);
        archive.add_program("init", INIT.as_bytes());
        archive.add_program("etc/hotplug", HOTPLUG.as_bytes());
        archive.add_program("etc/udhcpc", UDHCPC.as_bytes());
        for (name, text) in [("etc/inittab", INITTAB), ("etc/profile", PROFILE), ("etc/hostname", &self.name)] {
            archive.add(name, text.as_bytes());
        }
        let modules = match &self.modules_of {
            Some(folder) => modules_in(folder, &self.modules)?,
            None => modules(self.workspace, &self.modules)?,
        };
        let list: String = modules.iter().map(|(name, _)| format!("{name}\n")).collect();
        archive.add("etc/modules", list.as_bytes());
        for (name, bytes) in &modules {
            archive.add(&format!("lib/modules/{name}.ko"), bytes);
        }
        if let Some(script) = &self.script {
            archive.add("etc/script", script.as_bytes());
        }
        let mut folders: BTreeSet<&Path> = FOLDERS.iter().map(Path::new).collect();
        for (path, bytes) in &self.programs {
            let above: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
            for folder in above.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
                if folders.insert(folder) {
                    archive.add_folder(&folder.to_string_lossy());
                }
            }
            archive.add_program(path, bytes);
        }
        Ok(archive.finish())
    }
}

/// Modules of Debian's kernel and all that they depend on, each once and after what it needs: names and files.
///
/// # Errors
/// Fails where the kernel cannot be had, or has no such module.
pub fn modules<T: AsRef<str>>(workspace: &Workspace, names: &[T]) -> Result<Vec<(String, Vec<u8>)>> {
    if names.is_empty() { Ok(Vec::new()) } else { modules_in(&debian::modules(workspace)?, names) }
}

/// The same of a folder with a kernel's modules. What is built into the kernel is no module, and left out.
fn modules_in<T: AsRef<str>>(folder: &Path, names: &[T]) -> Result<Vec<(String, Vec<u8>)>> {
    let known = Modules::of(folder)?;
    let mut ordered = Vec::new();
    for name in names {
        known.add(&plain(name.as_ref()), &mut ordered)?;
    }
    Ok(ordered)
}

/// A kernel's modules. Names are the same whether written with `-` or `_`.
struct Modules {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in a file `a/xen-blkfront.ko.xz`.
fn name_of(file: &Path) -> Option<String> {
    Some(plain(file.file_name()?.to_str()?.split_once(".ko")?.0))
}

impl Modules {
    /// Those in a folder and the folders in it.
    fn of(folder: &Path) -> Result<Self> {
        let files = source::files(folder, &[".ko", ".ko.xz", ".ko.zst"])?;
        let files = files.into_iter().filter_map(|file| Some((name_of(&file)?, file))).collect();
        let built_in = std::fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        let built_in = built_in.lines().filter_map(|line| name_of(Path::new(line))).collect();
        Ok(Self { files, built_in })
    }

    /// Adds a module behind what it depends on.
    fn add(&self, name: &str, ordered: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        if self.built_in.contains(name) || ordered.iter().any(|(other, _)| other == name) {
            return Ok(());
        }
        let file = self.files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let bytes = unpacked(&bytes).with_context(|| format!("cannot unpack {}", file.display()))?;
        for needed in depends(&bytes).with_context(|| format!("{} is no module", file.display()))? {
            self.add(&needed, ordered)?;
        }
        ordered.push((name.to_owned(), bytes));
        Ok(())
    }
}

/// A module as it is loaded: newer distributions pack each file.
fn unpacked(file: &[u8]) -> Result<Vec<u8>> {
    const ROOM: usize = 256 << 20;
    let refused = |refusal: oxen_image::Refusal| anyhow::anyhow!("{refusal}");
    let mut payload = Payload::open(file, ROOM).map_err(refused)?;
    let mut bytes = Vec::new();
    while let Some(piece) = payload.next_piece().map_err(refused)? {
        bytes.extend_from_slice(piece);
    }
    Ok(bytes)
}

/// What a module says it depends on.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let sections = Elf::new(module)?.sections()?;
    let info = sections.iter().find(|section| section.name == ".modinfo").context("it has no .modinfo")?;
    let info = module.get(info.offset..info.offset + info.size).context("its .modinfo lies outside")?;
    Ok(depends_in(info))
}

/// The names behind `depends=` among words that end in zero bytes.
fn depends_in(info: &[u8]) -> Vec<String> {
    let words = info.split(|&byte| byte == 0).filter_map(|word| std::str::from_utf8(word).ok());
    let lists = words.filter_map(|word| word.strip_prefix("depends="));
    lists.flat_map(|list| list.split(',')).filter(|name| !name.is_empty()).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::{Modules, depends_in, name_of};
    use std::path::Path;

    #[test]
    fn dependencies_are_named_as_files_are() {
        let info = b"license=GPL\0depends=jbd2,crc-16\0depends=\0intree=Y\0";
        assert_eq!(depends_in(info), ["jbd2", "crc_16"]);
        assert!(depends_in(b"license=GPL\0").is_empty());
    }
    #[test]
    fn modules_are_found_packed_or_not_and_those_built_in_need_no_file() {
        for file in ["a/xen-blkfront.ko", "a/xen_blkfront.ko.xz", "xen-blkfront.ko.zst"] {
            assert_eq!(name_of(Path::new(file)).as_deref(), Some("xen_blkfront"), "{file}");
        }
        assert_eq!(name_of(Path::new("modules.dep")), None);
        let built_in = ["ext4".to_owned()].into();
        let modules = Modules { files: [].into(), built_in };
        let mut ordered = Vec::new();
        modules.add("ext4", &mut ordered).unwrap();
        assert!(ordered.is_empty());
        assert_eq!(modules.add("jbd2", &mut ordered).unwrap_err().to_string(), "the kernel has no module jbd2");
    }
}
