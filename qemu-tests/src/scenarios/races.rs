//! A guest whose vcpus issue whatever is drawn, all at once on the same frames, ports and grants, on as many CPUs.
//! The hypervisor is the one that checks itself; every second the guest is paused, and everything is counted again.

use std::time::Duration;

use anyhow::{Result, ensure};
use oxen_tools::{build, exit::Exit};

use super::hostile;
use crate::lab::{Lab, Report, Verdict};

/// How long a round of the guest's takes, and its way back, on a busy machine.
const SLACK: Duration = Duration::from_secs(300);

/// Races for some seconds, from a seed on; counts again after each `every` seconds, and when the guest was destroyed.
pub(super) fn race(lab: &Lab<'_>, seed: u64, seconds: u64, every: u64) -> Result<Verdict> {
    if lab.xen.is_some() {
        return Ok(Verdict::Skipped("it is Oxen's own hypervisor that checks itself".to_owned()));
    }
    build::checked_hypervisor(lab.workspace)?;
    let counts = seconds / every;
    let count = format!("sleep {every}; xl pause racer; xl debug-keys A; xl unpause racer; ");
    let script = format!(
        "xl create racer.cfg; {}xl expect racer exceptions; xl destroy racer; xl debug-keys A; xl list; poweroff",
        count.repeat(counts as usize)
    );
    // It ends when it is destroyed, in the middle of what it does.
    let cmdline = format!("fuzz={seed} race={}", u32::MAX);
    let mut machine = hostile::machine(lab, &script, &[("racer", &cmdline, "vcpus = 4\non_crash = \"restart\"")])?;
    machine.hypervisor = lab.workspace.out.join(build::CHECKED);
    machine.smp = 4;
    let report = lab.boot_within(&machine, Duration::from_secs(seconds * 4) + SLACK)?;
    let report = report.lacks("A LAW IS BROKEN")?.lacks("Panic")?;
    // The guest may take its own memory away. It begins anew then, and who would pause it meanwhile is told so.
    let report =
        if report.lines_with("(crash)").is_empty() { report.succeeded()? } else { report.ended(Exit::Failure)? };
    let report = report.says("race: 3 vcpus beside the first")?;
    let held = report.lines_with("the laws hold, 1 domains counted whole").len() as u64;
    ensure!(held > counts / 2, "the guest was counted {held} times of {counts}");
    told(&report.says("the laws hold, 0 domains counted whole")?)
}

/// What was done has to be much, and of every kind.
fn told(report: &Report) -> Result<Verdict> {
    let lines = report.lines_with("without a way back");
    let Some(line) = lines.last() else { return report.fail("the guest does not say what it did") };
    println!("{}", line.trim());
    let numbers: Vec<u64> = line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    let few = numbers.iter().rev().take(4).find(|&&number| number < 1000);
    ensure!(numbers.len() >= 6 && few.is_none(), "too little was done: {line}");
    Ok(Verdict::Passed)
}

pub(super) fn a_guest_whose_vcpus_race_breaks_no_law(lab: &Lab<'_>) -> Result<Verdict> {
    race(lab, 1, 20, 1)
}
