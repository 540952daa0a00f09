//! Many guests at once, and guests that ring each other: events reach whoever waits for
//! them, whatever their port's number.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxen_tools::disk::{noise, sha256};
use oxen_tools::qemu::Machine;

use crate::lab::{Lab, Report, Verdict};

/// Bytes of the disk that each guest of a crowd reads.
const DISK: usize = 64 << 10;

/// A machine whose dom0 runs a script that is too long for a command line.
fn machine(lab: &Lab<'_>, script: &str, files: &[(&str, &[u8])]) -> Result<Machine> {
    let mut machine = lab.machine("")?;
    machine.modules.first_mut().context("no dom0")?.args = "script=@script.xl debug-exit".to_owned();
    lab.add(&mut machine, &[&[("script.xl", script.as_bytes())], files].concat())?;
    Ok(machine)
}

/// One line for each of `count` guests.
fn each(count: u32, line: impl Fn(u32) -> String) -> String {
    (1..=count).map(|i| line(i) + "\n").collect()
}

/// More guests than there are ports in a word of event channels: dom0 has two ports for each.
pub(super) fn forty_guests_say_hello_at_once(lab: &Lab<'_>) -> Result<Verdict> {
    const GUESTS: u32 = 40;
    let script = [
        each(GUESTS, |i| format!("xl create hello.cfg name=g{i} memory=4 cmdline=stay\nexpect g{i} 'slept '")),
        "xl list\nxl shutdown -a -w\npoweroff\n".to_owned(),
    ];
    let mut machine = machine(lab, &script.concat(), &[])?;
    machine.memory = 512;
    let report = lab.boot(&machine)?.succeeded()?;
    said_by_each(&report, GUESTS, |i| format!("(g{i}) the store calls this domain g{i}, number {i}"))?;
    ended(&report, GUESTS)?;
    Ok(Verdict::Passed)
}

/// Demands that each of `count` guests said a line.
fn said_by_each(report: &Report, count: u32, line: impl Fn(u32) -> String) -> Result<()> {
    (1..=count).try_for_each(|i| {
        let line = line(i);
        ensure!(!report.lines_with(&line).is_empty(), "nobody said `{line}`");
        Ok(())
    })
}

/// Demands that so many guests powered off.
fn ended(report: &Report, count: u32) -> Result<()> {
    let ended = report.lines_with("has ended: poweroff").len();
    ensure!(ended == count as usize, "{ended} guests powered off");
    Ok(())
}

/// One binds to the port that the other left open, and has its first event from being bound; nothing else wakes it.
pub(super) fn two_guests_ring_each_other_in_turns(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create bell.cfg name=first cmdline=peer=2; xl create bell.cfg name=second cmdline='peer=1 bind'; \
        xl console first; xl console second; poweroff";
    let report = lab.script(script)?;
    // Either may have ended before its console is looked at.
    match report.lines_with("bell: rang 1000 times").len() {
        2 => Ok(Verdict::Passed),
        others => report.fail(&format!("{others} of the two guests rang to the end")),
    }
}

/// The same with one guest whose events come in queues, as do those of its console and its store; then with both.
pub(super) fn guests_ring_each_other_by_queues(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create bell.cfg name=first cmdline='peer=2 events=fifo'; \
        xl create bell.cfg name=second cmdline='peer=1 bind'; xl console first; xl console second; \
        xl create bell.cfg name=third cmdline='peer=4 events=fifo'; \
        xl create bell.cfg name=fourth cmdline='peer=3 bind events=fifo'; \
        xl console third; xl console fourth; poweroff";
    let report = lab.script(script)?;
    let count = |line| report.lines_with(line).len();
    let counts = (count("bell: rang 1000 times"), count("bell: its events come in queues"));
    if counts == (4, 3) { Ok(Verdict::Passed) } else { report.fail(&format!("{counts:?} of the four rang by queues")) }
}

/// So many guests of 4 MiB are there at once: each speaks over its console, reads its disk and pings the one before it.
pub(super) fn speak_read_and_ping(lab: &Lab<'_>, count: u32, limit: Duration) -> Result<Verdict> {
    let disk = noise(41, DISK);
    let sum = sha256(&disk);
    let config = "name = \"g\"\nkernel = \"guests/net\"\nmemory = 4\nvif = [\"\"]\ndisk = [\"phy:/dev/vda,xvda,r\"]\n";
    let address = |i: u32| format!("10.9.{}.{}", i / 250, i % 250 + 1);
    let create = |i: u32| {
        let ping = if i > 1 { format!(" ping={}", address(i - 1)) } else { String::new() };
        format!(
            "xl create crowd.cfg name=g{i} cmdline='disk clients=1 ip={}/16{ping}'\nexpect g{i} 'net: serving' 300",
            address(i)
        )
    };
    let script = [
        each(count, create),
        (2..=count).map(|i| format!("expect g{i} 'net: ping {} 3:' 300\n", address(i - 1))).collect(),
        "xl list\nxl info\nbrctl show\nxl shutdown -a -w\nxl list\nxl info\npoweroff\n".to_owned(),
    ];
    let mut machine = machine(lab, &script.concat(), &[("crowd.cfg", config.as_bytes())])?;
    // Of dom0's memory, each guest is promised a share, and its interface a part of the network's.
    let dom0 = 32 + 3 * count;
    machine.append = machine.append.replace("dom0_mem=128M", &format!("dom0_mem={dom0}M"));
    machine.memory = 128 + dom0 + 4 * count + count / 8;
    machine.disks.push(lab.file("disk.img", &disk)?);
    let report = lab.boot_within(&machine, limit)?.succeeded()?.lacks("FAILED")?;
    said_by_each(&report, count, |i| format!("(g{i}) net: disk of {DISK} bytes, sha256 {sum}"))?;
    ended(&report, count)?;
    Ok(Verdict::Passed)
}
