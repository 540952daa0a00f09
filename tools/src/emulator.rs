//! What a machine runs on: the QEMU that is installed, or another judge, fetched and
//! unpacked where it is not installed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::faults::{self, Version};
use crate::grub::Grub;
use crate::process::{find, output};
use crate::programs::{Release, Tree};
use crate::setup::Need;
use crate::workspace::Workspace;

/// The judges, each with its name on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The installed QEMU, which loads the hypervisor by Multiboot 1
    #[default]
    Qemu,
    /// The QEMU of Debian's backports, with SMAP where the installed one has to hide it
    QemuNext,
    /// The installed QEMU with UEFI firmware: GRUB's EFI build loads the image, by Multiboot 2
    Ovmf,
    /// Bochs with a Skylake-X: GRUB loads the image from its BIOS, by Multiboot 2; no virtio devices
    Bochs,
}

impl Kind {
    /// All but the usual one.
    pub const OTHERS: [Self; 3] = [Self::QemuNext, Self::Ovmf, Self::Bochs];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::QemuNext => "qemu-next",
            Self::Ovmf => "ovmf",
            Self::Bochs => "bochs",
        }
    }
}

/// The program that runs machines, ready to start.
#[derive(Clone, Debug, Default)]
pub struct Emulator {
    /// Which it is.
    pub kind: Kind,
    /// Its packages, where it is not installed.
    tree: Option<Tree>,
    /// What makes images for machines that boot by GRUB.
    pub(crate) grub: Option<Grub>,
    /// The folder with UEFI firmware, where a machine has it.
    firmware: Option<PathBuf>,
}

const QEMU: &str = "qemu-system-x86_64";
const INSTALLED_FIRMWARE: &str = "/usr/share/OVMF";
const FIRMWARE_CODE: &str = "OVMF_CODE.fd";
const FIRMWARE_VARIABLES: &str = "OVMF_VARS.fd";

impl Emulator {
    /// Gets a judge ready; what is missing is fetched.
    ///
    /// # Errors
    /// Fails where it can neither be found nor fetched.
    pub fn get(workspace: &Workspace, kind: Kind) -> Result<Self> {
        let mut emulator = Self { kind, ..Self::default() };
        match kind {
            Kind::Qemu => {}
            Kind::QemuNext => {
                let packages = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];
                emulator.tree = Some(Tree::get(workspace, "qemu-next", Release::Backports, &packages)?);
            }
            Kind::Ovmf => {
                let installed = Path::new(INSTALLED_FIRMWARE);
                emulator.firmware = Some(if installed.join(FIRMWARE_CODE).is_file() {
                    installed.to_path_buf()
                } else {
                    // Firmware needs no library, but a tree is whole with one.
                    Tree::get(workspace, "ovmf", Release::Own, &["ovmf", "libc6"])?.file("usr/share/OVMF")
                });
            }
            Kind::Bochs => {
                let packages = ["bochs", "bochs-term", "bochsbios", "vgabios"];
                emulator.tree = Some(Tree::get(workspace, "bochs", Release::Own, &packages)?);
            }
        }
        if matches!(kind, Kind::Ovmf | Kind::Bochs) {
            emulator.grub = Some(Grub::get(workspace)?);
        }
        Ok(emulator)
    }

    /// Whether a judge is ready without fetching anything.
    #[must_use]
    pub fn is_here(workspace: &Workspace, kind: Kind) -> bool {
        let has = |name| Tree::is_here(workspace, name);
        let has_grub = Need::Grub.is_met() || has("grub");
        match kind {
            Kind::Qemu => find(QEMU).is_some(),
            Kind::QemuNext => has("qemu-next"),
            Kind::Ovmf => has_grub && (Path::new(INSTALLED_FIRMWARE).join(FIRMWARE_CODE).is_file() || has("ovmf")),
            Kind::Bochs => has_grub && has("bochs"),
        }
    }

    /// The command that starts it.
    pub(crate) fn command(&self) -> Command {
        let Some(tree) = &self.tree else { return Command::new(QEMU) };
        if self.kind == Kind::Bochs {
            let mut bochs = tree.command("usr/bin/bochs-bin");
            bochs.env("LTDL_LIBRARY_PATH", tree.file("usr/lib/x86_64-linux-gnu/bochs/plugins"));
            return bochs;
        }
        let mut qemu = tree.command(&format!("usr/bin/{QEMU}"));
        qemu.env("QEMU_MODULE_DIR", tree.file("usr/lib/x86_64-linux-gnu/qemu"));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            qemu.arg("-L").arg(tree.file(firmware));
        }
        qemu
    }

    /// A file of its packages.
    ///
    /// # Errors
    /// Fails where it has none of its own.
    pub(crate) fn file(&self, name: &str) -> Result<PathBuf> {
        Ok(self.tree.as_ref().with_context(|| format!("no package holds {name}"))?.file(name))
    }

    /// Whether machines boot an image by GRUB, which passes on fewer texts than QEMU.
    #[must_use]
    pub fn boots_by_grub(&self) -> bool {
        self.grub.is_some()
    }

    /// The firmware's code, which machines share, and its variables, of which each machine writes a copy.
    pub(crate) fn firmware(&self) -> Option<(PathBuf, PathBuf)> {
        let folder = self.firmware.as_ref()?;
        Some((folder.join(FIRMWARE_CODE), folder.join(FIRMWARE_VARIABLES)))
    }

    /// QEMU's version as major and minor number.
    #[must_use]
    pub fn qemu_version(&self) -> Option<Version> {
        static INSTALLED: OnceLock<Option<Version>> = OnceLock::new();
        static NEXT: OnceLock<Option<Version>> = OnceLock::new();
        match self.kind {
            Kind::Bochs => None,
            Kind::Qemu | Kind::Ovmf => *INSTALLED.get_or_init(|| version_of(&mut Command::new(find(QEMU)?))),
            Kind::QemuNext => *NEXT.get_or_init(|| version_of(&mut self.command())),
        }
    }

    /// QEMU's CPU model without what this QEMU emulates wrongly on a machine of so many CPUs.
    #[must_use]
    pub fn sound_model(&self, model: &str, cpus: u32) -> String {
        self.qemu_version().map_or_else(|| model.to_owned(), |version| faults::sound_model(model, version, cpus))
    }

    /// Its name and version, for reports.
    ///
    /// # Errors
    /// Fails where it does not start.
    pub fn title(&self) -> Result<String> {
        if self.kind == Kind::Bochs {
            // It prints its version where it is asked for something, and ends with a status of its own.
            let said = self.command().args(["-q", "--help", "cpu"]).output().context("cannot start Bochs")?;
            let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
            let version = said.lines().find_map(|line| line.trim().strip_prefix("Bochs x86 Emulator "));
            return Ok(format!("Bochs {}, GRUB, BIOS", version.with_context(|| format!("no Bochs:\n{said}"))?.trim()));
        }
        let said = output(self.command().arg("--version"), "QEMU does not start")?;
        let version =
            said.lines().next().and_then(|line| line.split_once("version ")).map_or("", |(_, version)| version);
        Ok(format!("QEMU {version}{}", if self.kind == Kind::Ovmf { ", GRUB, UEFI" } else { "" }))
    }
}

fn version_of(qemu: &mut Command) -> Option<Version> {
    let text = output(qemu.arg("--version"), "").ok()?;
    let mut numbers = text.split_once("version ")?.1.split(['.', ' ', '(']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.trim().parse().ok()?))
}
