//! A stock Linux kernel, as Debian packages it, in dom0's place: thousands of processes on page tables of its own.

use anyhow::{Result, ensure};
use oxen_tools::cpio::Archive;
use oxen_tools::debian;
use oxen_tools::qemu::Module;
use oxen_tools::session::Exit;

use crate::lab::{Lab, Report, Verdict};

/// What runs as its first process: forks, pipes, files, copies, and the arithmetic of checksums and compression.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t devtmpfs dev /dev; mount -t tmpfs tmpfs /tmp
echo "init: $(nproc) cpus"
i=0; while [ $i -lt 60 ]; do busybox true; i=$((i+1)); done; echo "init: $i processes"
for j in 1 2 3; do
    (i=0; while [ $i -lt 12 ]; do x=$(echo $i | sed s/1/2/ | tr 3 4); i=$((i+1)); done; echo "init: worker $j") &
done
wait
dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null; gzip -c /tmp/a > /tmp/b
[ "$(gunzip -c /tmp/b | md5sum)" = "$(md5sum < /tmp/a)" ] && echo "init: the sums agree"
sleep 1; echo "init: slept"
poweroff -f
"#;

/// Boots Debian's kernel in dom0's place with so many vcpus, until it powers the machine off.
fn boot(lab: &Lab<'_>, vcpus: u32) -> Result<Result<Report, Verdict>> {
    let files = debian::kernel(lab.workspace).and_then(|kernel| Ok((kernel, debian::busybox(lab.workspace)?)));
    let (kernel, busybox) = match files {
        Ok(files) => files,
        Err(error) => return Ok(Err(Verdict::Skipped(format!("no stock kernel: {error:#}")))),
    };
    let mut ramdisk = Archive::default();
    for folder in ["bin", "proc", "tmp"] {
        ramdisk.add_folder(folder);
    }
    ramdisk.add_program("bin/busybox", &std::fs::read(busybox)?);
    ramdisk.add_program("init", INIT.as_bytes());
    let mut machine = lab.machine("")?;
    machine.memory = 1024;
    machine.append = format!("console=com1 com1=115200,8n1 dom0_mem=384M dom0_max_vcpus={vcpus}");
    machine.modules = vec![
        Module { file: kernel, args: "console=hvc0 earlyprintk=xen rdinit=/init".to_owned() },
        Module { file: lab.file("ramdisk.cpio", &ramdisk.finish())?, args: String::new() },
    ];
    let report = lab.boot(&machine)?.ended(Exit::PoweredOff)?;
    for complaint in ["Kernel panic", "WARNING: CPU", "BUG:", "Call Trace", "segfault"] {
        ensure!(!report.transcript().contains(complaint), "the kernel complains: {:?}", report.lines_with(complaint));
    }
    Ok(Ok(report))
}

/// Boots, and demands that everything was done in its turn.
fn works(lab: &Lab<'_>, vcpus: u32) -> Result<Verdict> {
    let report = match boot(lab, vcpus)? {
        Ok(report) => report,
        Err(verdict) => return Ok(verdict),
    };
    let cpus = format!("init: {vcpus} cpus");
    let turns = ["Hypervisor detected: Xen PV", &cpus, "init: 60 processes", "init: the sums agree", "init: slept"];
    let report = report.says_in_order(&turns)?;
    for worker in 1..=3 {
        ensure!(report.transcript().contains(&format!("init: worker {worker}")), "worker {worker} is missing");
    }
    Ok(Verdict::Passed)
}

pub(super) fn debians_kernel_works_as_dom0_and_powers_off(lab: &Lab<'_>) -> Result<Verdict> {
    works(lab, 1)
}

pub(super) fn debians_kernel_works_as_dom0_on_two_vcpus(lab: &Lab<'_>) -> Result<Verdict> {
    works(lab, 2)
}
