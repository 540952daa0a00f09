//! A stock Linux kernel, as Debian packages it, in dom0's place and as a guest: processes on page tables of its own.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use oxen_tools::elf::Elf;
use oxen_tools::linux::{CMDLINE, Ramdisk};
use oxen_tools::qemu::{Machine, Module};
use oxen_tools::session::Exit;
use oxen_tools::workspace::Workspace;
use oxen_tools::{debian, disk};

use super::complaints::content;
use super::gallery::{self, Place};
use crate::lab::{Lab, Verdict};

/// What it does: forks, pipes, files, copies, and the arithmetic of checksums and compression.
const WORK: &str = r#"echo "init: $(nproc) cpus"
i=0; while [ $i -lt 60 ]; do busybox true; i=$((i+1)); done; echo "init: $i processes"
for j in 1 2 3; do
    (i=0; while [ $i -lt 12 ]; do x=$(echo $i | sed s/1/2/ | tr 3 4); i=$((i+1)); done; echo "init: worker $j") &
done
wait
dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null; gzip -c /tmp/a > /tmp/b
[ "$(gunzip -c /tmp/b | md5sum)" = "$(md5sum < /tmp/a)" ] && echo "init: the sums agree"
sleep 1; echo "init: slept"
"#;

/// What it does as a guest with a disk.
const DISK_WORK: &str = r#"echo "init: $(nproc) cpus"
dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null
dd if=/tmp/a of=/dev/xvda bs=64k conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches
[ "$(dd if=/dev/xvda bs=64k count=32 2>/dev/null | md5sum)" = "$(md5sum < /tmp/a)" ] && echo "init: the disk agrees"
"#;

/// Linux takes events from queues where it is given them.
const QUEUES: &str = "Using FIFO-based ABI";

/// The kernel, and a ramdisk with what it does.
pub(super) struct Linux {
    pub(super) kernel: PathBuf,
    pub(super) ramdisk: Vec<u8>,
}

/// Makes both of what Debian packages; `Err` where that cannot be had.
pub(super) fn linux(lab: &Lab<'_>, ramdisk: &Ramdisk<'_>) -> Result<Linux, Verdict> {
    let make = || anyhow::Ok(Linux { kernel: debian::kernel(lab.workspace)?, ramdisk: ramdisk.build()? });
    make().map_err(|error| Verdict::Skipped(format!("no stock kernel: {error:#}")))
}

/// A machine whose dom0 has such guests to create: for each a name, which is its
/// configuration's too, and more lines for that.
pub(super) fn with_guests(lab: &Lab<'_>, linux: &Linux, script: &str, guests: &[(&str, &str)]) -> Result<Machine> {
    let mut machine = lab.machine(script)?;
    machine.memory = 1024;
    machine.append = machine.append.replace("dom0_mem=128M", "dom0_mem=384M");
    let kernel = std::fs::read(&linux.kernel)?;
    let mut configs = Vec::new();
    for (name, lines) in guests {
        let config = format!(
            "name = \"{name}\"\nkernel = \"guests/linux\"\nramdisk = \"guests/linux.initrd\"\n\
            cmdline = \"console=hvc0 earlyprintk=xen rdinit=/init name={name}\"\n{lines}\n"
        );
        configs.push((format!("{name}.cfg"), config.into_bytes()));
    }
    let mut files: Vec<(&str, &[u8])> = configs.iter().map(|(name, config)| (&**name, &**config)).collect();
    files.extend([("guests/linux", &*kernel), ("guests/linux.initrd", &*linux.ramdisk)]);
    lab.add(&mut machine, &files)?;
    Ok(machine)
}

/// A machine whose dom0 has a kernel of Debian's and a ramdisk as the guest of `linux.cfg`, with these further
/// settings, and more files, and runs a script about them; `Err` where the kernel cannot be had.
pub(super) fn guest(
    lab: &Lab<'_>,
    kernel: fn(&Workspace) -> Result<PathBuf>,
    ramdisk: &Ramdisk<'_>,
    settings: &str,
    more: &[(&str, &[u8])],
    script: &str,
) -> Result<Machine, Verdict> {
    let make = || {
        let kernel = std::fs::read(kernel(lab.workspace)?)?;
        let ramdisk = ramdisk.build()?;
        let config = format!(
            "name = \"linux\"\nkernel = \"guests/linux\"\nramdisk = \"guests/initrd\"\n\
             cmdline = \"{CMDLINE}\"\n{settings}\n"
        );
        let mut machine = lab.machine("")?;
        machine.modules.first_mut().context("no dom0")?.args = "script=@script.xl debug-exit".to_owned();
        let files: [(&str, &[u8]); 4] = [
            ("linux.cfg", config.as_bytes()),
            ("guests/linux", &kernel),
            ("guests/initrd", &ramdisk),
            ("script.xl", script.as_bytes()),
        ];
        lab.add(&mut machine, &[&files, more].concat())?;
        anyhow::Ok(machine)
    };
    make().map_err(|error| Verdict::Skipped(format!("no stock kernel: {error:#}")))
}

/// Boots a file of Debian's kernel in dom0's place with so many vcpus, and demands that
/// everything was done in its turn.
fn works(lab: &Lab<'_>, kernel: fn(&Workspace) -> Result<PathBuf>, vcpus: u32) -> Result<Verdict> {
    let make = || anyhow::Ok((kernel(lab.workspace)?, Ramdisk::new(lab.workspace, "dom0").script(WORK).build()?));
    let (kernel, ramdisk) = match make() {
        Ok(files) => files,
        Err(error) => return Ok(Verdict::Skipped(format!("no stock kernel: {error:#}"))),
    };
    let mut machine = lab.machine("")?;
    machine.memory = 1024;
    machine.smp = vcpus;
    machine.append = "console=com1 com1=115200,8n1 dom0_mem=384M".to_owned();
    machine.modules = vec![
        Module { file: kernel, args: "console=hvc0 earlyprintk=xen rdinit=/init".to_owned() },
        Module { file: lab.file("ramdisk.cpio", &ramdisk)?, args: String::new() },
    ];
    let report = content(lab.boot(&machine)?.ended(Exit::PoweredOff)?)?;
    let cpus = format!("init: {vcpus} cpus");
    let turns =
        ["Hypervisor detected: Xen PV", QUEUES, &cpus, "init: 60 processes", "init: the sums agree", "init: slept"];
    let report = report.says_in_order(&turns)?;
    for worker in 1..=3 {
        ensure!(report.transcript().contains(&format!("init: worker {worker}")), "worker {worker} is missing");
    }
    Ok(Verdict::Passed)
}

/// The file as Debian ships it, which the hypervisor unpacks.
pub(super) fn debians_boot_image_works_as_dom0_and_powers_off(lab: &Lab<'_>) -> Result<Verdict> {
    works(lab, debian::vmlinuz, 1)
}

pub(super) fn debians_kernel_works_as_dom0_on_four_cpus(lab: &Lab<'_>) -> Result<Verdict> {
    works(lab, debian::kernel, 4)
}

/// blkfront against dom0's backend, on four vcpus, created and destroyed by dom0's toolstack.
pub(super) fn debians_kernel_works_as_a_guest_with_a_disk(lab: &Lab<'_>) -> Result<Verdict> {
    let linux = match linux(lab, &Ramdisk::new(lab.workspace, "linux").disks().script(DISK_WORK)) {
        Ok(linux) => linux,
        Err(verdict) => return Ok(verdict),
    };
    let lines = "memory = 256\nvcpus = 4\ndisk = [\"phy:vda,xvda,w\"]";
    let mut machine = with_guests(lab, &linux, "xl create linux.cfg; xl wait linux; poweroff", &[("linux", lines)])?;
    machine.disks.push(lab.file("disk.img", &disk::noise(5, 4 << 20))?);
    content(lab.boot(&machine)?.succeeded()?)?.says_in_order(&[
        QUEUES,
        "init: 4 cpus",
        "init: the disk agrees",
        "ended",
    ])?;
    Ok(Verdict::Passed)
}

/// The oldest that is looked after, and the newest: all others are in the gallery.
pub(super) fn debian_11s_kernel_works_as_a_guest(lab: &Lab<'_>) -> Result<Verdict> {
    gallery::boots(lab, "debian-11", &[Place::Guest])
}

pub(super) fn debian_13s_kernel_works_as_a_guest_and_as_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    gallery::boots(lab, "debian-13", &[Place::Guest, Place::Dom0])
}

/// Debian's kernel made unfit in three ways; what dom0 says of each, and that guests can be created afterwards.
pub(super) fn kernels_that_cannot_be_guests_are_refused_with_the_reason(lab: &Lab<'_>) -> Result<Verdict> {
    let files = debian::kernel(lab.workspace).and_then(|elf| Ok((elf, debian::vmlinuz(lab.workspace)?)));
    let (elf, image) = match files {
        Ok((elf, image)) => (std::fs::read(elf)?, std::fs::read(image)?),
        Err(error) => return Ok(Verdict::Skipped(format!("no stock kernel: {error:#}"))),
    };
    // The class in the ELF header; nothing behind the headers is looked at then.
    let mut narrow = elf.get(..64 << 10).context("a short kernel")?.to_vec();
    *narrow.get_mut(4).context("a short kernel")? = 1;
    let cut = image.get(..image.len() / 2).context("a short kernel")?;
    let foreign = without_xen_notes(&elf)?;
    let config = |kernel: &str| format!("name = \"x\"\nkernel = \"{kernel}\"\nmemory = 128\n").into_bytes();
    let script = "xl create narrow.cfg; xl create cut.cfg; xl create foreign.cfg; \
        xl create hello.cfg; xl wait hello; xl info; poweroff";
    let mut machine = lab.machine(script)?;
    let configs = ["narrow", "cut", "foreign"].map(config);
    let [a, b, c] = &configs;
    let files: [(&str, &[u8]); 6] = [
        ("narrow.cfg", a),
        ("cut.cfg", b),
        ("foreign.cfg", c),
        ("narrow", &narrow),
        ("cut", cut),
        ("foreign", &foreign),
    ];
    lab.add(&mut machine, &files)?;
    let reasons = [
        "error: narrow.cfg: kernel `narrow`: an ELF file of another word size, class (1); \
            only 64-bit x86 kernels can be guests",
        "error: cut.cfg: kernel `cut`: the bzImage is truncated: its kernel lies beyond the end of the file",
        "error: foreign.cfg: kernel `foreign`: no Xen notes in the ELF file: the kernel was not built to run \
            paravirtual on Xen (CONFIG_XEN_PV)",
        "(hello) hello from a guest",
    ];
    lab.boot(&machine)?.ended(Exit::Failure)?.says_in_order(&reasons)?.lacks("Panic")?;
    Ok(Verdict::Passed)
}

/// The beginning of a kernel, as far as its notes, with each note of Xen's made somebody else's.
fn without_xen_notes(elf: &[u8]) -> Result<Vec<u8>> {
    const OWNER: &[u8] = b"Xen\0";
    const PT_NOTE: u32 = 4;
    let segments = Elf::new(elf)?.segments()?;
    let notes = segments.iter().find(|segment| segment.kind == PT_NOTE).context("a kernel without notes")?;
    let (start, size) = (usize::try_from(notes.offset)?, usize::try_from(notes.file_size)?);
    let mut head = elf.get(..start + size).context("notes beyond the end")?.to_vec();
    let mut changed = 0;
    for at in (start..start + size).step_by(4) {
        if let Some(owner) = head.get_mut(at..at + OWNER.len()).filter(|owner| **owner == *OWNER) {
            owner.copy_from_slice(b"Xem\0");
            changed += 1;
        }
    }
    ensure!(changed > 10, "only {changed} notes of Xen's");
    Ok(head)
}
