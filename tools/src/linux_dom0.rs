//! The other dom0: Debian's Linux with Debian's own Xen tools, made of packages, to run our guests on real Xen.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::qemu::{Machine, Module};
use crate::workspace::Workspace;
use crate::{build, debian, linux, packages};

/// The packages whose programs it runs; their libraries are found.
const TOOLS: [&str; 3] = ["xen-utils-4.17", "xen-utils-common", "xenstore-utils"];

/// Folders that its first process finds.
const FOLDERS: &str = "bin dev etc etc/xen etc/xen/scripts guests lib lib/x86_64-linux-gnu lib64 modules proc run sys \
    usr usr/bin usr/lib usr/lib/xen-4.17 usr/lib/xen-4.17/bin var var/lib var/log";

/// What is taken of their programs.
const PROGRAMS: [&str; 17] = [
    "usr/bin/xenalyze",
    "usr/bin/xenstore-exists",
    "usr/bin/xenstore-ls",
    "usr/bin/xenstore-read",
    "usr/bin/xenstore-rm",
    "usr/bin/xenstore-write",
    "usr/lib/xen-4.17/bin/libxl-save-helper",
    "usr/lib/xen-4.17/bin/xen-init-dom0",
    "usr/lib/xen-4.17/bin/xen-livepatch",
    "usr/lib/xen-4.17/bin/xenconsole",
    "usr/lib/xen-4.17/bin/xenconsoled",
    "usr/lib/xen-4.17/bin/xenctx",
    "usr/lib/xen-4.17/bin/xenpm",
    "usr/lib/xen-4.17/bin/xenstored",
    "usr/lib/xen-4.17/bin/xentop",
    "usr/lib/xen-4.17/bin/xentrace",
    "usr/lib/xen-4.17/bin/xl",
];

/// Kernel modules that are loaded, with what they depend on.
const MODULES: [&str; 11] = [
    "xen-privcmd",
    "xenfs",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "loop",
    "xen-blkback",
    "xen-netback",
    "bridge",
    "virtio_pci",
    "virtio_blk",
];

/// What it is told: only what its first process says is wanted.
const ARGS: &str = "console=hvc0 rdinit=/init quiet";

/// A machine on which a hypervisor starts this dom0, which runs a shell script and powers off. The ramdisk holds the
/// sample guests with their configurations, as that of Oxen's dom0 does, and more files
/// by name, in folders that it has.
///
/// # Errors
/// Fails where the packages cannot be had, or a file cannot be written.
pub fn machine(
    workspace: &Workspace,
    xen: Option<&Path>,
    folder: PathBuf,
    script: &str,
    files: &[(String, Vec<u8>)],
) -> Result<Machine> {
    let mut machine = Machine::oxen(workspace, "");
    if let Some(xen) = xen {
        machine.on_xen(xen);
    }
    machine.append = machine.append.replace("dom0_mem=128M", "dom0_mem=512M,max:512M");
    spare_the_fpu(&mut machine);
    machine.memory = 1024;
    let ramdisk = folder.join("linux-dom0.cpio");
    build::write(&ramdisk, &ramdisk_of(workspace, script, files)?)?;
    machine.modules = vec![
        Module { file: debian::vmlinuz(workspace)?, args: ARGS.to_owned() },
        Module { file: ramdisk, args: String::new() },
    ];
    machine.folder = folder;
    Ok(machine)
}

/// Has real Xen load the FPU's registers at once for a Linux dom0: where Xen leaves them to the next one who uses them,
/// QEMU's TCG loses them now and then, and dom0's programs fail at random.
pub(crate) fn spare_the_fpu(machine: &mut Machine) {
    machine.append = machine.append.replace("spec-ctrl=no", "spec-ctrl=no,eager-fpu=1");
}

/// Two archives, one behind the other: the system, then the guests. Of two files of one name Linux keeps the last.
fn ramdisk_of(workspace: &Workspace, script: &str, files: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in FOLDERS.split_whitespace() {
        archive.add_folder(folder);
    }
    archive.add_program("init", include_bytes!("linux_dom0/init.sh"));
    archive.add_program("etc/xen/scripts/block", include_bytes!("linux_dom0/block.sh"));
    archive.add_program("etc/xen/scripts/vif-bridge", include_bytes!("linux_dom0/vif.sh"));
    archive.add("etc/xen/xl.conf", b"autoballoon=\"off\"\n");
    archive.add("run.sh", script.as_bytes());
    archive.add_program("bin/busybox", &read(&debian::busybox(workspace)?)?);
    // The kernel starts the first process before there are links to busybox.
    archive.add_program("bin/sh", &read(&debian::busybox(workspace)?)?);
    add_tools(workspace, &mut archive)?;
    add_modules(workspace, &mut archive)?;
    let mut bytes = archive.finish();
    bytes.extend(build::ramdisk_with(workspace, files)?);
    Ok(bytes)
}

/// The Xen tools and the libraries that they need.
fn add_tools(workspace: &Workspace, archive: &mut Archive) -> Result<()> {
    let tools = packages::unpack_all(workspace, &TOOLS)?;
    for name in PROGRAMS {
        let file = tools.iter().map(|root| root.join(name)).find(|file| file.is_file());
        let file = file.with_context(|| format!("Debian's packages hold no {name}"))?;
        archive.add_program(name, &read(&file)?);
    }
    for root in packages::unpack_all(workspace, &packages::libraries(workspace, &TOOLS)?)? {
        for folder in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
            for name in names(&root, folder).filter(|name| name.contains(".so")) {
                let Some((_, file)) = name.rsplit_once('/') else { continue };
                archive.add_program(&format!("lib/x86_64-linux-gnu/{file}"), &read(&root.join(&name))?);
                if file.starts_with("ld-linux") {
                    archive.add_program(&format!("lib64/{file}"), &read(&root.join(&name))?);
                }
            }
        }
    }
    Ok(())
}

fn add_modules(workspace: &Workspace, archive: &mut Archive) -> Result<()> {
    let mut order = String::new();
    for (name, module) in linux::modules(workspace, &MODULES)? {
        archive.add(&format!("modules/{name}.ko"), &module);
        order.push_str(&format!("{name}.ko\n"));
    }
    archive.add("modules/order", order.as_bytes());
    Ok(())
}

/// The files and links to files in a folder of a package, sorted, each with the folder before it. Where a library has
/// a link that names it in short, by which programs ask for it, the long name is left out.
fn names(root: &Path, folder: &str) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
    let entries: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    let meant: Vec<PathBuf> =
        entries.iter().filter_map(|path| Some(path.with_file_name(path.read_link().ok()?))).collect();
    let mut names: Vec<String> = entries
        .iter()
        .filter(|path| !meant.contains(path))
        .filter_map(|path| Some(format!("{folder}/{}", path.file_name()?.to_str()?)))
        .collect();
    names.sort();
    names.into_iter()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
