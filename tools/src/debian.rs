//! What Debian packages, as guests use it: a stock Linux kernel, busybox.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::packages;
use crate::stock::Kernel;
use crate::workspace::Workspace;

/// Held while something is made of a package: scenarios run side by side.
static TURN: Mutex<()> = Mutex::new(());

/// The unpacked package of Debian's present Linux kernel.
fn kernel_package(workspace: &Workspace) -> Result<PathBuf> {
    packages::unpack(workspace, &packages::stands_for(workspace, "linux-image-amd64")?)
}

/// Debian's present Linux kernel: that of the release which this machine's apt is set to.
///
/// # Errors
/// Fails where the package cannot be had or holds no kernel.
pub fn present(workspace: &Workspace) -> Result<Kernel> {
    Kernel::of(&kernel_package(workspace)?)
}

/// It as it is shipped: a boot image, `vmlinuz`.
///
/// # Errors
/// As [`present`].
pub fn vmlinuz(workspace: &Workspace) -> Result<PathBuf> {
    Ok(present(workspace)?.image)
}

/// Debian's present Linux kernel as an ELF file, taken out of its boot image.
///
/// # Errors
/// As [`present`]; fails where `xz` does not unpack the image.
pub fn kernel(workspace: &Workspace) -> Result<PathBuf> {
    let kernel = kernel_package(workspace)?.join("vmlinux");
    let image = vmlinuz(workspace)?;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if kernel.is_file() {
        return Ok(kernel);
    }
    let image = std::fs::read(image).context("cannot read the kernel's boot image")?;
    let packed = kernel.with_extension("xz");
    build::write(&packed, payload(&image).context("the kernel's boot image is none")?)?;
    let unpacked = Command::new("xz").arg("-dc").arg(&packed).output().context("cannot start xz")?;
    ensure!(unpacked.status.success(), "xz does not unpack the kernel: {}", String::from_utf8_lossy(&unpacked.stderr));
    build::write(&kernel, &unpacked.stdout)?;
    Ok(kernel)
}

/// The folder with that kernel's modules.
///
/// # Errors
/// As [`present`].
pub fn modules(workspace: &Workspace) -> Result<PathBuf> {
    Ok(present(workspace)?.modules)
}

/// busybox, linked statically.
///
/// # Errors
/// As [`packages::unpack`].
pub fn busybox(workspace: &Workspace) -> Result<PathBuf> {
    Ok(packages::unpack(workspace, "busybox-static")?.join("bin/busybox"))
}

/// GRUB as a 64-bit paravirtual kernel, which loads another from its guest's disk.
///
/// # Errors
/// As [`packages::unpack`].
pub fn pv_grub(workspace: &Workspace) -> Result<PathBuf> {
    Ok(packages::unpack(workspace, "grub-xen-host")?.join("usr/lib/grub-xen/grub-x86_64-xen.bin"))
}

/// The compressed ELF file in a boot image (Linux's `Documentation/arch/x86/boot.rst`): behind the sectors of the setup
/// code, at an offset of its own; the last four bytes of it are the size that it unpacks to.
fn payload(image: &[u8]) -> Option<&[u8]> {
    const SECTOR: usize = 512;
    const SETUP_SECTORS: usize = 0x1f1;
    const MAGIC: usize = 0x202;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    const SIZE: usize = 4;
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let sectors = match usize::from(*image.get(SETUP_SECTORS)?) {
        0 => 4,
        sectors => sectors,
    };
    let start = (sectors + 1) * SECTOR + word(PAYLOAD_OFFSET)?;
    image.get(start..start + word(PAYLOAD_LENGTH)?.checked_sub(SIZE)?)
}

/// Whether a file of Debian's is installed.
pub(crate) fn installed(file: &str) -> Option<PathBuf> {
    Some(Path::new("/").join(file)).filter(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::payload;

    #[test]
    fn the_payload_stands_where_the_header_says() {
        let mut image = vec![0; 2048];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248] = 16;
        image[0x24c] = 9;
        image[1024 + 16..1024 + 21].copy_from_slice(b"hello");
        assert_eq!(payload(&image), Some(b"hello".as_slice()));
        image[0x24e] = 1;
        assert_eq!(payload(&image), None, "a length beyond the end");
        image[0x202] = 0;
        assert_eq!(payload(&image), None, "no boot image");
    }
}
