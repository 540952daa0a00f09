//! What stock Linux lives through as a guest: memory targets, processors and devices that come and go, a restart, a
//! crash.

use std::time::Duration;

use anyhow::{Result, ensure};
use oxen_tools::debian;
use oxen_tools::disk::sha256;
use oxen_tools::linux::Ramdisk;
use oxen_tools::qemu::Machine;

use super::complaints::content;
use super::linux::guest;
use super::soak;
use crate::lab::{Lab, Report, Verdict};

/// A guest of Debian's boot image, in a machine whose dom0 runs a script about it; `Err` where it cannot be had.
/// `settings` are further lines of its configuration.
fn machine(lab: &Lab<'_>, script: &str, settings: &str) -> Result<Machine, Verdict> {
    machine_with(lab, &Ramdisk::new(lab.workspace, "linux"), script, settings)
}

/// The same with a ramdisk of the scenario's own.
fn machine_with(lab: &Lab<'_>, ramdisk: &Ramdisk<'_>, script: &str, settings: &str) -> Result<Machine, Verdict> {
    let mut machine = guest(lab, debian::vmlinuz, ramdisk, settings, &[], script)?;
    machine.memory = 1024;
    Ok(machine)
}

/// Three boots, as `soak` does a hundred.
pub(super) fn a_few_boots_of_debians_kernel_lose_nothing(lab: &Lab<'_>) -> Result<Verdict> {
    soak::boots(lab, 3)
}

/// The numbers of a guest's `MemTotal`, in KiB, in the order in which it showed them.
fn totals(report: &Report) -> Vec<u64> {
    let number = |line: &str| line.split_whitespace().rev().nth(1)?.parse().ok();
    report.lines_with("(linux) MemTotal:").into_iter().filter_map(number).collect()
}

/// From 192 MiB to 128 and to 256, which is its maximum, with both vcpus at work.
const MEMORY: &str = "
xl create linux.cfg; expect linux 'linux:/# '
send linux 'for i in 1 2; do while :; do md5sum /bin/busybox >/tmp/$i; done & done; \
    grep MemTotal /proc/meminfo; echo at:$?'
expect linux 'at:0'
xl mem-set -w linux 128
send linux 'grep MemTotal /proc/meminfo; echo down:$?'; expect linux 'down:0'; xl list linux; balloon
xl mem-set -w linux 256
send linux 'grep MemTotal /proc/meminfo; echo up:$?'; expect linux 'up:0'; xl list linux
send linux 'kill $(jobs -p); echo killed:$?'; expect linux 'killed:0'
xl shutdown -w linux; poweroff
";

pub(super) fn a_guest_at_work_follows_its_memory_target_down_and_up(lab: &Lab<'_>) -> Result<Verdict> {
    let machine = match machine(lab, MEMORY, "memory = 192\nmaxmem = 256\nvcpus = 2") {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    let report = content(lab.boot(&machine)?.succeeded()?)?;
    let mib = |id: &str| {
        report.lines_with(id).iter().filter_map(|line| line.split_whitespace().nth(2)).collect::<Vec<_>>().join(" ")
    };
    ensure!(mib("linux                                        1") == "128 256", "xl list shows {}", mib("linux   "));
    let totals = totals(&report);
    let &[first, low, high] = totals.as_slice() else { return report.fail(&format!("the guest showed {totals:?}")) };
    // What the kernel keeps to itself stays the same; pages come and go by the MiB.
    ensure!(first - low == 64 << 10 && high - low == 128 << 10, "the guest's totals are {totals:?}");
    report.says("  there")?;
    Ok(Verdict::Passed)
}

/// A guest at work whose writes are logged: processes come and go, files are written, both vcpus change page tables.
const LOG: &str = "
xl create linux.cfg; expect linux 'linux:/# '
send linux 'for i in 1 2; do while :; do md5sum /bin/busybox >/tmp/$i; done & done; echo at:$?'
expect linux 'at:0'
xl log-dirty linux 4
send linux 'echo between:$?'; expect linux 'between:0'
xl log-dirty linux 2
send linux 'kill $(jobs -p); echo killed:$?'; expect linux 'killed:0'
xl shutdown -w linux; poweroff
";

pub(super) fn what_a_guest_at_work_writes_to_is_logged(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = match machine(lab, LOG, "memory = 96\nvcpus = 2") {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    machine.smp = 2;
    let report = content(lab.boot(&machine)?.succeeded()?)?;
    let rounds: Vec<Vec<u64>> = report
        .lines_with("pages,")
        .iter()
        .filter(|line| line.contains(" in the log, "))
        .map(|line| line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect())
        .collect();
    ensure!(rounds.len() == 6, "there were {} rounds", rounds.len());
    for round in rounds {
        let &[_, pages, changed, noted, lost, faults] = round.as_slice() else { return report.fail("a strange round") };
        // All that changed is in the log, and it is worth something: most pages are not.
        ensure!(lost == 0 && changed > 20 && noted >= changed, "{changed} pages changed, {noted} are in the log");
        ensure!(noted < pages / 2 && faults > 0, "{noted} of {pages} pages are in the log, by {faults} faults");
    }
    Ok(Verdict::Passed)
}

/// A guest that is paused stands for all whose balloon is dead.
pub(super) fn a_guest_whose_balloon_is_dead_is_named(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create -p hog.cfg; xl mem-set -w hog 24; balloon; xl destroy hog; poweroff";
    let report = lab.boot(&lab.machine(script)?)?;
    let named = "error: the balloon of `hog` does not react: it has";
    let report = report.says_in_order(&[named, "does not react"])?.says("balloon: guest `hog` does not react")?;
    report.ended(oxen_tools::session::Exit::Failure)?;
    Ok(Verdict::Passed)
}

/// A vcpu goes and comes back; the guest waits while it is paused; shares and usage are shown.
const VCPUS: &str = "
xl create linux.cfg; expect linux 'linux:/# '
send linux 'echo $(nproc) vcpus at first'; expect linux '2 vcpus at first'
xl vcpu-set linux 1
send linux 'until [ $(nproc) = 1 ]; do usleep 100000; done; echo one:$?'; expect linux 'one:0'; sleep 1; xl list linux
xl vcpu-set linux 2
send linux 'until [ $(nproc) = 2 ]; do usleep 100000; done; echo two:$?'; expect linux 'two:0'; sleep 1; xl list linux
xl sched-credit -d linux -w 512; xl sched-credit -d linux; xl top
xl pause linux; xl list linux; xl unpause linux
xl sysrq linux h; expect linux 'sysrq: HELP'
xl shutdown -w linux; poweroff
";

pub(super) fn a_guests_vcpus_go_off_and_on_line(lab: &Lab<'_>) -> Result<Verdict> {
    let machine = match machine(lab, VCPUS, "memory = 256\nvcpus = 2") {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    let report = content(lab.boot(&machine)?.succeeded()?)?;
    let lines = report.lines_with("linux                                        1");
    let vcpus: Vec<_> = lines.iter().filter_map(|line| line.split_whitespace().nth(3)).collect();
    ensure!(vcpus == ["1", "2", "2"], "xl list shows {vcpus:?} vcpus");
    ensure!(lines.last().is_some_and(|line| line.contains("p---")), "it does not show as paused: {lines:?}");
    report.says("linux                                1    512     0")?.says("VBD_WSECT")?;
    Ok(Verdict::Passed)
}

/// More vcpus than `shared_info` has room for: all come up, the last goes and comes back.
const CROWD: &str = "
xl create linux.cfg; expect linux 'linux:/# '
send linux 'echo $(nproc) vcpus at first'; expect linux '40 vcpus at first'
send linux '[ $(grep -c ^cpu[0-9] /proc/stat) = 40 ]; echo seen:$?'; expect linux 'seen:0'
xl vcpu-set linux 39
send linux 'until [ $(nproc) = 39 ]; do usleep 100000; done; echo fewer:$?'; expect linux 'fewer:0'
xl vcpu-set linux 40
send linux 'until [ $(nproc) = 40 ]; do usleep 100000; done; echo all:$?'; expect linux 'all:0'
xl vcpu-list linux; xl shutdown -w linux; poweroff
";

pub(super) fn a_guest_has_forty_vcpus(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = match machine(lab, CROWD, "memory = 384\nvcpus = 40") {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    machine.smp = 2;
    // A machine with two CPUs that are emulated themselves takes its time.
    let report = content(lab.boot_within(&machine, Duration::from_secs(600))?.succeeded()?)?;
    report.says("linux                                1    39")?;
    Ok(Verdict::Passed)
}

/// Time as Linux tells it and as dom0 does, while every reading of the counter traps.
const EMULATED: &str = "
xl create linux.cfg; expect linux 'linux:/# '
send linux 'cat /sys/devices/system/clocksource/clocksource0/current_clocksource; a=$(date +%s); usleep 3000000'
send linux 'b=$(date +%s); [ $((b - a)) -ge 3 ] && [ $((b - a)) -le 5 ]; echo kept:$?'; expect linux 'kept:0'
xl shutdown -w linux; poweroff
";

pub(super) fn a_guest_keeps_time_by_an_emulated_counter(lab: &Lab<'_>) -> Result<Verdict> {
    let machine = match machine(lab, EMULATED, "memory = 256\nvcpus = 2\ntsc_mode = \"always_emulate\"") {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    content(lab.boot_within(&machine, Duration::from_secs(400))?.succeeded()?)?;
    Ok(Verdict::Passed)
}

/// A restart asked for by the toolstack, and a panic.
const ENDS: &str = "
xl create linux.cfg; expect linux 'linux:/# '
xl reboot linux; expect linux 'reboot: Restarting system'; expect linux 'linux:/# '; xl list
xl sysrq linux c; xl wait linux
";

pub(super) fn a_guest_starts_again_and_its_crash_is_explained(lab: &Lab<'_>) -> Result<Verdict> {
    let script = format!("{ENDS}\nxl list; xl console linux; xl info; poweroff");
    let machine = match machine(lab, &script, "memory = 128\non_crash = \"preserve\"") {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    let report = lab.boot(&machine)?;
    report
        .says_in_order(&[
            "guest `linux` (domain 1) has ended: reboot",
            "guest `linux` starts again as domain 2",
            "sysrq: Trigger a crash",
            "guest `linux` (domain 2) has ended: crash",
            "the last lines of its console",
            "| ",
            "Kernel panic - not syncing",
            "rip ffffffff8",
            "guest `linux` is preserved; `xl destroy linux` ends it",
        ])?
        .ended(oxen_tools::session::Exit::Failure)?;
    Ok(Verdict::Passed)
}

/// An interface and a disk for a guest at work, which are taken away again.
const DEVICES: &str = "
xl create linux.cfg; expect linux 'linux:/# '
xl network-attach linux mac=00:16:3e:11:22:33 rate=10Mb/s
send linux 'until [ -e /sys/class/net/eth0 ]; do usleep 100000; done; echo $(cat /sys/class/net/eth0/address) came'
expect linux ':33 came'
xl block-attach linux guests/linux,raw,xvdb,ro
send linux 'until [ -e /dev/xvdb ]; do usleep 100000; done; \
    dd if=/dev/xvdb bs=512 count=2000 2>/dev/null | sha256sum; echo read:$?'
expect linux 'read:0'
xl network-list linux; xl block-list linux
xl network-detach linux 00:16:3e:11:22:33; xl block-detach linux xvdb
send linux 'until [ ! -e /dev/xvdb ] && [ ! -e /sys/class/net/eth0 ]; do usleep 100000; done; echo gone:$?'
expect linux 'gone:0'
xenstore-ls /local/domain/0/backend
xl shutdown -w linux; poweroff
";

pub(super) fn a_guest_at_work_gets_devices_and_lets_them_go(lab: &Lab<'_>) -> Result<Verdict> {
    let ramdisk = Ramdisk::new(lab.workspace, "linux").disks().network();
    let machine = match machine_with(lab, &ramdisk, DEVICES, "memory = 128") {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    let kernel = std::fs::read(debian::vmlinuz(lab.workspace)?)?;
    let sum = sha256(kernel.get(..2000 * 512).unwrap_or_default());
    let report = content(lab.boot(&machine)?.succeeded()?)?.lacks("does not let go")?;
    report.says_in_order(&[":33 came", &sum, "read:0", "0   0  00:16:3e:11:22:33      0     4", "gone:0"])?;
    Ok(Verdict::Passed)
}
