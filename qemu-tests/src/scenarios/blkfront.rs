//! Linux's block frontend on disks in dom0's memory: sizes that change, discards, flushes, what may only be read.

use anyhow::Result;
use oxen_tools::linux::Ramdisk;

use super::complaints::content;
use super::linux::linux;
use crate::lab::{Lab, Verdict};

/// What the guest does with `xvda` (2 MiB, may be written) and `xvdb1` (1 MiB, may only be read).
const WORK: &str = r#"
size() { cat /sys/class/block/$1/size; }
echo "disk: sizes $(size xvda) $(size xvdb1)"
echo "disk: cache $(cat /sys/block/xvda/queue/write_cache)"
dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null
dd if=/tmp/a of=/dev/xvda bs=64k conv=fsync 2>/dev/null && echo "disk: written and flushed"
dd if=/dev/zero of=/dev/xvdb1 bs=4k count=1 2>/dev/null || echo "disk: xvdb1 takes no writes"
blkdiscard -o 1048576 -l 1048576 /dev/xvda && echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/xvda bs=1M skip=1 count=1 2>/dev/null | tr -d '\0' | wc -c | sed 's/^/disk: left of what was discarded: /'
cmp -n 1048576 /tmp/a /dev/xvda && echo "disk: the rest stands"
echo "disk: resize me"
while [ "$(size xvda)" != 8192 ]; do usleep 100000; done
dd if=/tmp/a of=/dev/xvda bs=1M seek=2 conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/xvda bs=1M skip=2 count=2 2>/dev/null | cmp - /tmp/a && echo "disk: what was added holds data"
"#;

const SCRIPT: &str = "
xl create linux.cfg; xl block-list linux
expect linux 'disk: resize me'
xl block-resize linux xvda 4; xl block-resize linux xvdz
xl wait linux; poweroff
";

pub(super) fn disks_are_flushed_discarded_protected_and_resized(lab: &Lab<'_>) -> Result<Verdict> {
    let linux = match linux(lab, &Ramdisk::new(lab.workspace, "linux").disks().script(WORK)) {
        Ok(linux) => linux,
        Err(verdict) => return Ok(verdict),
    };
    let config = b"name = \"linux\"\nkernel = \"guests/linux\"\nramdisk = \"guests/initrd\"\nmemory = 192\n\
        cmdline = \"console=hvc0 rdinit=/init\"\ndisk = [\"data.img,raw,xvda,w\", \"fixed.img,raw,xvdb1,r\"]\n";
    let mut machine = lab.machine(&SCRIPT.trim().replace('\n', "; "))?;
    machine.memory = 1024;
    machine.append = machine.append.replace("dom0_mem=128M", "dom0_mem=256M");
    let (data, fixed, kernel) = (vec![7; 2 << 20], vec![8; 1 << 20], std::fs::read(linux.kernel)?);
    let files: [(&str, &[u8]); 5] = [
        ("linux.cfg", config),
        ("guests/linux", &kernel),
        ("guests/initrd", &linux.ramdisk),
        ("data.img", &data),
        ("fixed.img", &fixed),
    ];
    lab.add(&mut machine, &files)?;
    // The script asks for a disk that is not there, too.
    let report = content(lab.boot(&machine)?.ended(oxen_tools::session::Exit::Failure)?)?;
    report.says_in_order(&[
        "disk: sizes 4096 2048",
        "disk: cache write back",
        "disk: written and flushed",
        "disk: xvdb1 takes no writes",
        "disk: left of what was discarded: 0",
        "disk: the rest stands",
        "xvda has 8192 sectors, 4 MiB",
        "error: `linux` has no disk `xvdz`",
        "disk: what was added holds data",
        "has ended: poweroff",
    ])?;
    Ok(Verdict::Passed)
}
