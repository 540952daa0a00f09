//! The hypervisor's trace, read by tools that are not ours.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use oxen_tools::session::Exit;
use oxen_tools::{packages, trace};

use crate::lab::{Lab, Verdict};

/// Bytes of the disk that takes the trace.
const DISK: u64 = 64 << 20;

/// dom0 takes the trace of a guest's life down; Debian's `xenalyze` knows the domains and the hypercalls in it.
pub(super) fn xenalyze_reads_what_dom0_takes_down(lab: &Lab<'_>) -> Result<Verdict> {
    let xenalyze = match packages::unpack(lab.workspace, "xen-utils-common") {
        Ok(root) => root.join("usr/bin/xenalyze"),
        Err(error) => return Ok(Verdict::Skipped(format!("no xenalyze of Debian's: {error:#}"))),
    };
    let mut machine = lab.machine("xl trace begin vda; xl create hello.cfg; wait hello; xl trace end; poweroff")?;
    let disk = lab.folder.join("trace.img");
    std::fs::File::create(&disk).and_then(|file| file.set_len(DISK)).context("no disk for the trace")?;
    machine.disks.push(disk.clone());
    machine.smp = 2;
    lab.boot(&machine)?.ended(Exit::Success)?.says(" 0 lost, ")?;
    let stream = lab.folder.join("trace.bin");
    std::fs::write(&stream, trace::stream_of(&disk)?)?;
    let told = Command::new(xenalyze).arg("--summary").arg(&stream).output().context("xenalyze does not run")?;
    let text = String::from_utf8_lossy(&told.stdout);
    for expected in ["|-- Domain 0 --|", "|-- Domain 1 --|", "update_va_mapping", "sched_op", "running:"] {
        ensure!(text.contains(expected), "xenalyze says nothing of `{expected}`:\n{text}");
    }
    ensure!(told.status.success(), "xenalyze fails: {}", String::from_utf8_lossy(&told.stderr));
    Ok(Verdict::Passed)
}
