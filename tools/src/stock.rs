//! The kernels of distributions, as they ship them: which there are, and where each is once it was fetched.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::archive::{Archive, Candidate, Keys};
use crate::process::step;
use crate::workspace::Workspace;

const DEBIAN: &str = "http://deb.debian.org/debian";
const DEBIAN_SECURITY: &str = "http://deb.debian.org/debian-security";
const UBUNTU: &str = "http://archive.ubuntu.com/ubuntu";

static DEBIAN_11: Archive = Archive {
    name: "debian-11",
    suites: &[(DEBIAN, "bullseye"), (DEBIAN_SECURITY, "bullseye-security")],
    keys: Keys::Debian,
};
static DEBIAN_12: Archive = Archive {
    name: "debian-12",
    suites: &[(DEBIAN, "bookworm"), (DEBIAN_SECURITY, "bookworm-security")],
    keys: Keys::Debian,
};
static DEBIAN_BACKPORTS: Archive =
    Archive { name: "debian-12-backports", suites: &[(DEBIAN, "bookworm-backports")], keys: Keys::Debian };
pub(crate) static DEBIAN_13: Archive = Archive {
    name: "debian-13",
    suites: &[(DEBIAN, "trixie"), (DEBIAN_SECURITY, "trixie-security")],
    keys: Keys::Debian,
};
static UBUNTU_24: Archive = Archive {
    name: "ubuntu-24",
    suites: &[(UBUNTU, "noble"), (UBUNTU, "noble-updates"), (UBUNTU, "noble-security")],
    keys: Keys::Package {
        archive: &DEBIAN_13,
        package: "ubuntu-keyring",
        file: "usr/share/keyrings/ubuntu-archive-keyring.gpg",
    },
};

/// A kernel of a distribution.
#[derive(Clone, Copy, Debug)]
pub struct Stock {
    /// What people type, and the host's name of its guests: a shell's prompt would end at a dot.
    pub name: &'static str,
    archive: &'static Archive,
    /// The package that stands for the newest.
    package: &'static str,
    /// What the package of its modules begins with, where that is another than the kernel's.
    modules: Option<&'static str>,
}

/// What every kernel's package begins with.
const KERNEL: &str = "linux-image-";

/// All that there are.
pub static ALL: [Stock; 6] = [
    Stock { name: "debian-11", archive: &DEBIAN_11, package: "linux-image-amd64", modules: None },
    Stock { name: "debian-12", archive: &DEBIAN_12, package: "linux-image-amd64", modules: None },
    Stock { name: "debian-12-cloud", archive: &DEBIAN_12, package: "linux-image-cloud-amd64", modules: None },
    Stock { name: "debian-backports", archive: &DEBIAN_BACKPORTS, package: "linux-image-amd64", modules: None },
    Stock { name: "debian-13", archive: &DEBIAN_13, package: "linux-image-amd64", modules: None },
    Stock { name: "ubuntu-24", archive: &UBUNTU_24, package: "linux-image-generic", modules: Some("linux-modules-") },
];

/// The kernel of this name, and its plain name; behind `=` may stand one of the versions that were fetched earlier.
///
/// # Errors
/// Fails, naming all, where there is no such kernel, or as [`Stock::kernel`].
pub fn kernel(workspace: &Workspace, wanted: &str) -> Result<(&'static str, Kernel)> {
    let (name, version) = wanted.split_once('=').map_or((wanted, None), |(name, version)| (name, Some(version)));
    let stock = find(name)?;
    let Some(version) = version else { return Ok((stock.name, stock.kernel(workspace)?)) };
    let root = stock.folder(workspace).join(version).join("root");
    if !root.is_dir() {
        let here: Vec<String> = stock.fetched(workspace).into_iter().map(|(version, _)| version).collect();
        let here = if here.is_empty() { "none".to_owned() } else { here.join(", ") };
        bail!("no version {version} of {name} was fetched; here: {here}");
    }
    Ok((stock.name, Kernel::of(&root)?))
}

/// Whether there is such a kernel, with a version behind its name or without.
#[must_use]
pub fn is_known(wanted: &str) -> bool {
    let name = wanted.split_once('=').map_or(wanted, |(name, _)| name);
    ALL.iter().any(|stock| stock.name == name)
}

/// All names, as a sentence lists them.
#[must_use]
pub fn names() -> String {
    ALL.iter().map(|stock| format!("`{}`", stock.name)).collect::<Vec<_>>().join(", ")
}

/// The kernel of this name.
///
/// # Errors
/// Fails, naming all, where there is none.
pub fn find(name: &str) -> Result<&'static Stock> {
    let found = ALL.iter().find(|stock| stock.name == name);
    found.with_context(|| format!("no stock kernel `{name}`: there are {}", names()))
}

/// A kernel's files.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What it calls itself: its release, who built it, its package's version.
    pub version: String,
    /// Its boot image, as it is shipped.
    pub image: PathBuf,
    /// The folder with its modules.
    pub modules: PathBuf,
    /// Whether it is built for dom0's place (`CONFIG_XEN_DOM0`): others work there, but have no console.
    pub is_for_dom0: bool,
}

impl Kernel {
    /// Finds them in an unpacked package.
    ///
    /// # Errors
    /// Fails where the package holds no kernel.
    pub fn of(root: &Path) -> Result<Self> {
        let entries = |folder: &str| {
            let folder = std::fs::read_dir(root.join(folder)).into_iter().flatten();
            folder.filter_map(|entry| Some(entry.ok()?.path()))
        };
        let is_named =
            |path: &Path, begin: &str| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin));
        let image = entries("boot").find(|path| is_named(path, "vmlinuz-")).context("the package holds no kernel")?;
        // Since Debian 13 `/lib` is no folder of packages any more.
        let modules = entries("lib/modules").chain(entries("usr/lib/modules")).next();
        let modules = modules.context("the package holds no modules")?;
        let bytes = std::fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
        let version = version_in(&bytes).context("the kernel's boot image is none")?;
        let config = entries("boot").find(|path| is_named(path, "config-"));
        let config = config.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let is_for_dom0 = !config.contains("# CONFIG_XEN_DOM0 is not set");
        Ok(Self { version, image, modules, is_for_dom0 })
    }
}

/// What the kernel in a boot image calls itself (Linux's `Documentation/arch/x86/boot.rst`: `kernel_version`).
fn version_in(image: &[u8]) -> Option<String> {
    const MAGIC: usize = 0x202;
    const VERSION: usize = 0x20e;
    const BASE: usize = 0x200;
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let at = u16::from_le_bytes(image.get(VERSION..VERSION + 2)?.try_into().ok()?);
    let text = image.get(BASE + usize::from(at)..)?.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(text).trim().to_owned())
}

impl Stock {
    /// The newest that can be had: the archive's, or where that does not answer the newest that was fetched earlier.
    ///
    /// # Errors
    /// Fails where none can be had.
    pub fn kernel(&self, workspace: &Workspace) -> Result<Kernel> {
        let again = |error| if self.archive.doubt(workspace) { self.fetch(workspace) } else { Err(error) };
        let error = match self.fetch(workspace).or_else(again) {
            Ok(kernel) => return Ok(kernel),
            Err(error) => error,
        };
        let Some((version, root)) = self.fetched(workspace).pop() else { return Err(error) };
        step(&format!("{}: {error:#}; the version {version} that is here will do", self.name));
        Kernel::of(&root)
    }

    fn fetch(&self, workspace: &Workspace) -> Result<Kernel> {
        let newest = self.archive.newest_behind(workspace, self.package)?;
        let root = self.folder(workspace).join(&newest.version).join("root");
        if !root.is_dir() {
            std::fs::create_dir_all(root.parent().context("no folder")?)?;
            let mut wanted = vec![newest.clone()];
            if let Some(modules) = self.modules {
                let package = newest.package.replacen(KERNEL, modules, 1);
                wanted.push(Candidate { package, version: newest.version.clone() });
            }
            self.archive.unpack(workspace, &wanted, &root)?;
        }
        Kernel::of(&root)
    }

    /// The folder of its versions.
    fn folder(&self, workspace: &Workspace) -> PathBuf {
        workspace.out.join("stock").join(self.name)
    }

    /// What was fetched, the newest last.
    fn fetched(&self, workspace: &Workspace) -> Vec<(String, PathBuf)> {
        let entries = std::fs::read_dir(self.folder(workspace)).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries
            .filter(|entry| entry.path().join("root").is_dir())
            .map(|entry| {
                let fetched = entry.metadata().and_then(|data| data.modified()).ok();
                (fetched, entry.file_name().to_string_lossy().into_owned(), entry.path().join("root"))
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, version, root)| (version, root)).collect()
    }
}

/// Debian 12's installer: a kernel, and a ramdisk with the installer in it.
///
/// # Errors
/// Fails where the package cannot be had or does not hold them.
pub fn installer(workspace: &Workspace) -> Result<(PathBuf, PathBuf)> {
    let newest = DEBIAN_12.newest(workspace, "debian-installer-12-netboot-amd64")?;
    let root = workspace.out.join("stock/installer").join(&newest.version).join("root");
    if !root.is_dir() {
        std::fs::create_dir_all(root.parent().context("no folder")?)?;
        DEBIAN_12.unpack(workspace, &[newest], &root)?;
    }
    let folder = root.join("usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64");
    let (kernel, ramdisk) = (folder.join("linux"), folder.join("initrd.gz"));
    if !kernel.is_file() || !ramdisk.is_file() {
        bail!("the package holds no installer in {}", folder.display());
    }
    Ok((kernel, ramdisk))
}

#[cfg(test)]
mod tests {
    use super::{ALL, find, is_known, version_in};

    #[test]
    fn names_are_unique_and_an_unknown_one_is_told_all_others() {
        assert!(ALL.iter().all(|stock| !stock.name.contains('.')));
        assert!(ALL.iter().all(|stock| find(stock.name).is_ok_and(|found| found.package == stock.package)));
        assert!(is_known("debian-12") && is_known("debian-12=6.1") && !is_known("debian"));
        let refused = find("debian-99").unwrap_err().to_string();
        assert!(refused.contains("no stock kernel `debian-99`"), "{refused}");
        assert!(ALL.iter().all(|stock| refused.contains(stock.name)), "{refused}");
    }
    #[test]
    fn a_boot_image_says_its_version() {
        let mut image = vec![0; 1024];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e] = 0x80;
        image[0x280..0x28b].copy_from_slice(b"6.1 (x) #1 ");
        assert_eq!(version_in(&image).as_deref(), Some("6.1 (x) #1"));
        image[0x20f] = 0xff;
        assert_eq!(version_in(&image), None, "beyond the end");
        assert_eq!(version_in(b"MZ"), None);
    }
}
