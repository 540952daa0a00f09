//! ISO images that GRUB boots by Multiboot 2, from a BIOS and from UEFI.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::grub::Grub;

/// A boot module: a file and what stands behind its name.
#[derive(Clone, Debug)]
pub struct Module {
    /// The file.
    pub file: PathBuf,
    /// Its command line.
    pub args: String,
}

/// Makes an ISO image of what a machine boots.
///
/// # Errors
/// Fails when a file is missing, GRUB cannot pass an argument, or its tools fail.
pub(crate) fn make(grub: &Grub, hypervisor: &Path, append: &str, modules: &[Module], image: &Path) -> Result<()> {
    let tree = image.with_extension("tree");
    let copy = |from: &Path, name: &str| {
        let bytes = std::fs::read(from).with_context(|| format!("{} is not there", from.display()))?;
        build::write(&tree.join("boot").join(name), &bytes)
    };
    copy(hypervisor, "hv")?;
    for (index, module) in modules.iter().enumerate() {
        copy(&module.file, &format!("module{index}"))?;
    }
    copy(&grub.bios, "grub/bios.img")?;
    copy(&grub.efi, "grub/efi.img")?;
    build::write(&tree.join("boot/grub/grub.cfg"), menu(append, modules)?.as_bytes())?;
    let mut xorriso = grub.command("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-o"]).arg(image);
    xorriso.args(["-b", "boot/grub/bios.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]);
    xorriso.arg("--grub2-boot-info").arg("--grub2-mbr").arg(grub.disk_boot_code());
    xorriso.args(["-eltorito-alt-boot", "-e", "boot/grub/efi.img", "-no-emul-boot", "-isohybrid-gpt-basdat"]);
    // It says who it is whatever it is told; what it says matters where it fails.
    let done = xorriso.arg(&tree).output().context("cannot start xorriso")?;
    ensure!(done.status.success(), "xorriso fails ({}):\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// GRUB's menu. The first word after a file stands where Multiboot 1 puts the file's name.
fn menu(append: &str, modules: &[Module]) -> Result<String> {
    let mut menu = "set timeout=0\nserial --unit=0 --speed=115200\nterminal_output serial console\n\
        menuentry Oxen {\n"
        .to_owned();
    menu.push_str(&format!("  multiboot2 /boot/hv placeholder{}\n", passed(append)?));
    for (index, module) in modules.iter().enumerate() {
        menu.push_str(&format!("  module2 /boot/module{index} placeholder{}\n", passed(&module.args)?));
    }
    Ok(menu + "}\n")
}

/// A command line as GRUB takes it. It takes the single quotes away and puts double ones around what holds spaces.
fn passed(line: &str) -> Result<String> {
    ensure!(!line.contains(['\'', '\\', '\n']), "GRUB cannot pass single quotes, backslashes or several lines: {line}");
    let mut out = String::new();
    let mut is_quoted = false;
    let mut word = String::new();
    for letter in line.chars().chain([' ']) {
        match letter {
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => {
                if !word.is_empty() {
                    out.push_str(&format!(" '{word}'"));
                }
                word.clear();
            }
            _ => word.push(letter),
        }
    }
    ensure!(!is_quoted, "a double quote is not closed: {line}");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::passed;

    #[test]
    fn grub_is_given_words() {
        assert_eq!(
            passed("script=\"xl list; poweroff\" debug-exit").unwrap(),
            " 'script=xl list; poweroff' 'debug-exit'"
        );
        assert_eq!(passed("console=com1  com1=115200,8n1").unwrap(), " 'console=com1' 'com1=115200,8n1'");
        assert_eq!(passed("").unwrap(), "");
        assert!(passed("it's").is_err() && passed("a \"b").is_err());
    }
}
