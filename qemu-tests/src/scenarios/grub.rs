//! Debian's PV GRUB: a small paravirtual kernel with frontends of its own, which loads a guest's
//! kernel from the guest's own disk.

use std::time::Duration;

use anyhow::Result;
use oxen_tools::disk::{self, sha256};
use oxen_tools::linux::Ramdisk;
use oxen_tools::{build, debian};

use super::complaints::content;
use crate::lab::{Lab, Verdict};

/// How long it may take: two boots of a kernel, each behind GRUB's. It is met only by what hangs.
const LIMIT: Duration = Duration::from_secs(600);

/// What it finds on the disk: an entry that halts, and behind it the one that is booted unless a key is pressed.
const MENU: &str = "set timeout=2\nset default=1\n\
    menuentry 'Halt' {\n  halt\n}\n\
    menuentry 'Linux' {\n  linux /boot/vmlinuz console=hvc0 rdinit=/init chosen=linux\n  initrd /boot/initrd\n}\n";

/// The system on the disk works there; after a restart it is loaded anew from what was written meanwhile.
const SCRIPT: &str = "
xl create grub.cfg; expect grub 'grub:/# ' 300
send grub 'mount /dev/xvda /mnt && sha256sum </mnt/boot/vmlinuz; nproc; cat /proc/cmdline; echo seen:$?'
expect grub 'seen:0'
send grub 'echo kept >/mnt/note; umount /mnt; echo written:$?'; expect grub 'written:0'
xl reboot grub; expect grub 'GNU GRUB' 120; expect grub 'grub:/# ' 300
send grub 'mount /dev/xvda /mnt; echo the note says $(cat /mnt/note), $(ls /sys/class/net | grep eth)'
expect grub 'the note says kept, eth0'
xl block-list grub; xl shutdown -w grub; xl list; xl info; poweroff
";

pub(super) fn debians_pv_grub_loads_a_kernel_from_the_guests_own_disk(lab: &Lab<'_>) -> Result<Verdict> {
    let ramdisk = Ramdisk::new(lab.workspace, "grub").disks().network();
    let made = debian::pv_grub(lab.workspace)
        .and_then(|grub| Ok((std::fs::read(grub)?, std::fs::read(debian::vmlinuz(lab.workspace)?)?, ramdisk.build()?)));
    let (grub, kernel, ramdisk) = match made {
        Ok(made) => made,
        Err(error) => return Ok(Verdict::Skipped(format!("no PV GRUB or kernel of Debian's: {error:#}"))),
    };
    let tree = lab.folder.join("tree");
    for (name, bytes) in [("grub/grub.cfg", MENU.as_bytes()), ("vmlinuz", &kernel), ("initrd", &ramdisk)] {
        build::write(&tree.join("boot").join(name), bytes)?;
    }
    let image = lab.folder.join("disk.img");
    disk::format(&tree, &image, 64)?;
    let config = "name = \"grub\"\nkernel = \"guests/grub\"\nmemory = 256\nvcpus = 2\n\
        disk = [\"phy:vda,xvda,w\"]\nvif = [\"\"]\n";
    let mut machine = lab.machine("")?;
    machine.memory = 1024;
    machine.disks.push(image);
    if let Some(dom0) = machine.modules.first_mut() {
        dom0.args = "script=@script.xl debug-exit".to_owned();
    }
    let files: [(&str, &[u8]); 3] =
        [("grub.cfg", config.as_bytes()), ("guests/grub", &grub), ("script.xl", SCRIPT.as_bytes())];
    lab.add(&mut machine, &files)?;
    let report = content(lab.boot_within(&machine, LIMIT)?.succeeded()?)?;
    let report =
        report.says_in_order(&["GNU GRUB", "Hypervisor detected: Xen PV", &sha256(&kernel), "chosen=linux"])?;
    report.says_in_order(&["has ended: reboot", "GNU GRUB", "the note says kept, eth0", "has ended: poweroff"])?;
    Ok(Verdict::Passed)
}
