//! GRUB's tools, installed or unpacked, and the two programs of its own that boot an image: one for a
//! PC's BIOS, one for UEFI firmware.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::build;
use crate::process::{run, step};
use crate::programs::{Release, Tree};
use crate::setup::Need;
use crate::workspace::Workspace;

/// Held while the boot programs are made: scenarios run side by side.
static TURN: Mutex<()> = Mutex::new(());

const HINT: &str = "see what it says";
/// What GRUB has to know to find the image, read its menu and load by Multiboot 2; GRUB holds no more of itself.
const MODULES: [&str; 9] =
    ["normal", "configfile", "serial", "terminal", "search", "iso9660", "part_msdos", "part_gpt", "multiboot2"];
/// Finds the file system that the image is.
const FIRST_STEPS: &str =
    "search --file --set=root /boot/hv\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n";
/// The size of the file system for UEFI: a floppy disk's, in KiB.
const EFI_KIB: &str = "1440";

/// GRUB's tools with xorriso and mtools, and what was made by them.
#[derive(Clone, Debug)]
pub struct Grub {
    /// The packages, where they are not installed.
    tree: Option<Tree>,
    /// Boots from a CD by a BIOS.
    pub(crate) bios: PathBuf,
    /// A FAT file system with the program that UEFI starts.
    pub(crate) efi: PathBuf,
}

impl Grub {
    /// Gets the tools and makes the boot programs, once.
    ///
    /// # Errors
    /// Fails where the tools are neither installed nor to be had from apt, or do not do their work.
    pub fn get(workspace: &Workspace) -> Result<Self> {
        let tree = if Need::Grub.is_met() {
            None
        } else {
            Some(Tree::get(workspace, "grub", Release::Own, Need::Grub.packages())?)
        };
        let folder = workspace.out.join("grub");
        let grub = Self { tree, bios: folder.join("bios.img"), efi: folder.join("efi.img") };
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if !grub.bios.is_file() || !grub.efi.is_file() {
            grub.make(&folder)?;
        }
        Ok(grub)
    }

    /// One of the tools.
    pub(crate) fn command(&self, tool: &str) -> Command {
        self.tree.as_ref().map_or_else(|| Command::new(tool), |tree| tree.command(&format!("usr/bin/{tool}")))
    }

    /// GRUB's modules for a platform.
    fn platform(&self, name: &str) -> PathBuf {
        let folder = Path::new("usr/lib/grub").join(name);
        self.tree.as_ref().map_or_else(|| Path::new("/").join(&folder), |tree| tree.file(&folder.to_string_lossy()))
    }

    /// What makes a CD's image bootable as a disk as well.
    pub(crate) fn disk_boot_code(&self) -> PathBuf {
        self.platform("i386-pc").join("boot_hybrid.img")
    }

    fn make(&self, folder: &Path) -> Result<()> {
        step("grub-mkimage, for BIOS and UEFI");
        let first_steps = folder.join("first.cfg");
        build::write(&first_steps, FIRST_STEPS.as_bytes())?;
        let program = |platform: &str, format: &str, to: &Path, more: &[&str]| {
            let mut make = self.command("grub-mkimage");
            make.args(["-O", format, "-p", "/boot/grub", "-d"]).arg(self.platform(platform));
            make.arg("-c").arg(&first_steps).arg("-o").arg(to).args(MODULES).args(more);
            run(&mut make, HINT)
        };
        let program_for_uefi = folder.join("bootx64.efi");
        program("x86_64-efi", "x86_64-efi", &program_for_uefi, &["fat"])?;
        let efi = folder.join("efi.new");
        // mformat takes what is there for a disk of its own.
        let _ = std::fs::remove_file(&efi);
        let mtool = |name: &str| {
            let mut tool = self.command(name);
            tool.arg("-i").arg(&efi);
            tool
        };
        run(mtool("mformat").args(["-C", "-f", EFI_KIB, "::"]), HINT)?;
        run(mtool("mmd").args(["::/EFI", "::/EFI/BOOT"]), HINT)?;
        run(mtool("mcopy").arg(&program_for_uefi).arg("::/EFI/BOOT/BOOTX64.EFI"), HINT)?;
        std::fs::rename(&efi, &self.efi).context("cannot keep UEFI's file system")?;
        program("i386-pc", "i386-pc-eltorito", &self.bios, &["biosdisk"])
    }
}
