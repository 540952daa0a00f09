//! A guest that plays another guest's disk and lies: the other one lives, is told what is wrong, and loses no memory.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use oxen_tools::linux::Ramdisk;

use super::hostile::machine;
use super::linux::{linux, with_guests};
use crate::lab::{Lab, Verdict};

/// What dom0 writes so that domain 1 serves disks of domain 2. It has no command for that.
fn introduce(ids: &[u32]) -> Result<String> {
    let mut script = String::new();
    for id in ids {
        let (back, front) = (format!("/local/domain/1/backend/vbd/2/{id}"), format!("/local/domain/2/device/vbd/{id}"));
        writeln!(script, "xenstore-write {back}/frontend {front} {back}/frontend-id 2 {back}/state 1")?;
        for node in ["", "/frontend", "/frontend-id", "/state"] {
            writeln!(script, "xenstore-chmod {back}{node} n1 r2")?;
        }
        writeln!(script, "xenstore-write {front}/virtual-device {id} {front}/backend-id 1 {front}/device-type disk")?;
        for node in ["", "/virtual-device", "/backend-id", "/device-type"] {
            writeln!(script, "xenstore-chmod {front}{node} n2 r1")?;
        }
        // A frontend looks as soon as it can.
        writeln!(script, "xenstore-write {front}/backend {back}\nxenstore-chmod {front}/backend n2 r1")?;
        writeln!(script, "xenstore-write {front}/state 1\nxenstore-chmod {front}/state n2 r1")?;
    }
    Ok(script)
}

pub(super) fn lies(lab: &Lab<'_>, seconds: u32) -> Result<Verdict> {
    let script = format!(
        "xl create liar.cfg; xl create victim.cfg\n{}xl wait victim; xl list\n\
         xl create hello.cfg; xl wait hello; poweroff\n",
        introduce(&[51712])?
    );
    let (liar, victim) = (format!("do=backend seconds={}", seconds + 30), format!("do=victim seconds={seconds}"));
    let report =
        lab.boot_within(&machine(lab, &script, &[("liar", &liar, ""), ("victim", &victim, "")])?, super::LONG_LIMIT)?;
    let report = report.succeeded()?.lacks("panicked")?.lacks("exception")?;
    let told = report.lines_with("(victim) probe: ").join("\n");
    println!("{told}");
    for kind in ["done", "broke the protocol: an answer", "broke the protocol: ring index", "cannot be", "is gone"] {
        ensure!(told.contains(kind), "the guest was never told `{kind}`:\n{told}");
    }
    ensure!(told.contains(" 0 pages fewer"), "the guest lost memory:\n{told}");
    report.says("(hello) hello from a guest")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_disk_that_lies_is_told_of_by_our_frontend_which_lives(lab: &Lab<'_>) -> Result<Verdict> {
    lies(lab, 20)
}

/// Disks that Debian's kernel tries to use while their backend lies, each in a process of its own.
const WORK: &str = r#"echo "linux: is up"
for tries in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/xvdb ] || sleep 1; done
for tries in 1 2 3 4 5 6 7 8 9 10; do
    for disk in /dev/xvd?; do
        [ -b $disk ] && (dd if=/dev/zero of=$disk bs=4k count=64 conv=fsync; dd if=$disk of=/dev/null bs=64k count=16) \
            >/dev/null 2>&1 &
    done
    sleep 1
done
echo "linux: lives with $(ls /dev/xvd? 2>/dev/null | wc -l) disks, $((6 * 7))"
"#;

pub(super) fn debians_kernel_lives_with_disks_that_lie(lab: &Lab<'_>) -> Result<Verdict> {
    let linux = match linux(lab, &Ramdisk::new(lab.workspace, "linux").disks().script(WORK)) {
        Ok(linux) => linux,
        Err(verdict) => return Ok(verdict),
    };
    let probe = std::fs::read(lab.workspace.out.join("probe"))?;
    let script = format!(
        "xl create liar.cfg; xl create linux.cfg; expect linux 'linux: is up'\n{}expect linux ', 42' 120\n\
         xl destroy linux; xl destroy liar; xl create hello.cfg; xl wait hello; poweroff\n",
        introduce(&[51728, 51744, 51760, 51776, 51792, 51808])?
    );
    let mut machine = with_guests(lab, &linux, &script, &[("linux", "memory = 192")])?;
    let config = b"name = \"liar\"\nkernel = \"guests/probe\"\nmemory = 32\ncmdline = \"do=backend sizes\"\n";
    let linux_config =
        b"name = \"linux\"\nkernel = \"guests/linux\"\nramdisk = \"guests/linux.initrd\"\nmemory = 192\n\
        cmdline = \"console=hvc0 rdinit=/init\"\n";
    let kernel = std::fs::read(&linux.kernel)?;
    let files: [(&str, &[u8]); 5] = [
        ("liar.cfg", config),
        ("guests/probe", &probe),
        ("linux.cfg", linux_config),
        ("guests/linux", &kernel),
        ("guests/linux.initrd", &linux.ramdisk),
    ];
    lab.add(&mut machine, &files)?;
    let report = lab.boot(&machine)?.succeeded()?.says(", 42")?.says("(hello) hello from a guest")?;
    // It may warn of its backend, which is no fault of its own.
    report.lacks("Kernel panic")?.lacks("BUG:")?;
    Ok(Verdict::Passed)
}
