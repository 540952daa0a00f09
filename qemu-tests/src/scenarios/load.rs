//! Debian's kernel as a guest that works hard: thousands of processes, and programs that try what memory, signals,
//! threads, tracing, vector registers and segments must keep right, for 64-bit and 32-bit mode, and a compiler.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use oxen_tools::linux::Ramdisk;

use super::complaints::content;
use super::linux::{linux, with_guests};
use crate::compiler;
use crate::lab::{Lab, Verdict};

/// The programs' sources.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/load");

/// What the guest's own compiler makes a program of.
const COMPILED: [&str; 5] = ["-D_GNU_SOURCE", "-DWITHOUT_ASSEMBLY", "main.c", "memory.c", "processes.c"];

/// What is done. The kernel need not tell of each program that ends by a signal, as many do on purpose.
const WORK: &str = r#"echo 0 > /proc/sys/debug/exception-trace
echo "load: $(nproc) cpus"
i=0; while [ $i -lt 2000 ]; do /bin/busybox true || break; i=$((i+1)); done; echo "load: $i processes"
load64 && echo "load: 64-bit programs are right"
load32 && echo "load: 32-bit programs are right"
cd /src && /usr/bin/tcc ARGUMENTS -o /tmp/compiled && /tmp/compiled && echo "load: compiled programs are right"
"#;

/// How long it may take: a machine that does other things as well is slow.
const LIMIT: Duration = Duration::from_secs(600);

/// QEMU's name of a CPU of Intel's: programs in 32-bit mode ask their kernel by SYSENTER
/// there, and by SYSCALL on others.
const INTEL: &str = "Skylake-Client";

/// Boots the guest with so many vcpus, and demands that all was right.
fn is_right(lab: &Lab<'_>, vcpus: u32, cpu: Option<&str>) -> Result<Verdict> {
    let sources = Path::new(SOURCES);
    let prepare = || {
        let ramdisk = Ramdisk::new(lab.workspace, "load").script(&WORK.replace("ARGUMENTS", &COMPILED.join(" ")));
        let ramdisk = ramdisk.program("bin/load64", &compiler::program(lab, sources, 64)?);
        let ramdisk = ramdisk.program("bin/load32", &compiler::program(lab, sources, 32)?);
        compiler::with_tcc(lab, ramdisk, sources, &COMPILED)
    };
    let ramdisk = match prepare() {
        Ok(ramdisk) => ramdisk,
        Err(error) => return Ok(Verdict::Skipped(format!("no programs: {error:#}"))),
    };
    let linux = match linux(lab, &ramdisk) {
        Ok(linux) => linux,
        Err(verdict) => return Ok(verdict),
    };
    let lines = format!("memory = 256\nvcpus = {vcpus}");
    let mut machine = with_guests(lab, &linux, "xl create load.cfg; xl wait load; poweroff", &[("load", &lines)])?;
    if let Some(cpu) = cpu {
        cpu.clone_into(&mut machine.cpu);
    }
    let report = content(lab.boot_within(&machine, LIMIT)?.succeeded()?)?.lacks("WRONG")?;
    report.says_in_order(&[
        &format!("load: {vcpus} cpus"),
        "load: 2000 processes",
        "load: 64-bit programs are right",
        "load: 32-bit programs are right",
        "load: compiled programs are right",
    ])?;
    Ok(Verdict::Passed)
}

pub(super) fn processes_memory_signals_and_compilers_are_right_on_one_vcpu(lab: &Lab<'_>) -> Result<Verdict> {
    is_right(lab, 1, None)
}

pub(super) fn processes_memory_signals_and_compilers_are_right_on_two_vcpus_of_an_intel_cpu(
    lab: &Lab<'_>,
) -> Result<Verdict> {
    is_right(lab, 2, Some(INTEL))
}
