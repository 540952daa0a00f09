//! Guests of our own runtime saved, restored, checkpointed and copied while they work.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxen_tools::disk::sha256;
use oxen_tools::qemu::Machine;
use oxen_tools::xen;

use super::saving::{self, Machines};
use super::{LONG_LIMIT, net};
use crate::lab::{Lab, Report, Verdict};

/// How long a machine may take. It is met only by what hangs.
const LIMIT: Duration = Duration::from_secs(400);
/// Bytes of the disk that a guest is saved on.
const DISK: u64 = 24 << 20;
/// How far two clocks may be apart, in microseconds.
const APART: i64 = 10_000;

/// What a guest `steady` says at a step; times in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) number: i64,
    /// Its own clock, which stands while it is saved.
    pub(super) now: i64,
    /// The machine's.
    system: i64,
    wall: i64,
    /// Pieces of its disk that it has written and read back.
    disk: i64,
}

/// All steps of a guest, each of which is whole.
pub(super) fn steps(report: &Report, guest: &str) -> Result<Vec<Step>> {
    let before = format!("({guest}) now ");
    let lines = report.transcript().lines().filter(|line| line.starts_with(&before));
    let parse = |line: &str| {
        let (told, number) = line.trim().strip_suffix(" is whole")?.split_once(": step ")?;
        let words: Option<Vec<i64>> = told.split(", ").map(|part| part.rsplit_once(' ')?.1.parse().ok()).collect();
        let [now, system, wall, disk] = <[i64; 4]>::try_from(words?).ok()?;
        Some(Step { number: number.parse().ok()?, now, system, wall, disk })
    };
    lines.map(|line| parse(line).with_context(|| line.to_owned())).collect()
}

/// Runs of steps one after the other: a guest that is restored again begins where it was saved. Whether what it has is
/// that of the step before, the guest itself looks at each; what it says between dom0's last look at its console and
/// its stop goes with the old domain.
pub(super) fn runs(steps: &[Step]) -> Vec<&[Step]> {
    steps.chunk_by(|step, next| step.number < next.number).collect()
}

/// The clocks are right: the wall clock at each step by what a guest that was never stopped says of the
/// same machine, the own clock by how it goes on between two steps: it stands while the guest is saved, so
/// often as it was, and never else.
fn judge(report: &Report, guest: &str, restores: usize) -> Result<()> {
    let all = steps(report, guest)?;
    let witness = *steps(report, "witness")?.first().context("the witness is silent")?;
    for step in &all {
        let apart = (step.wall - step.system) - (witness.wall - witness.system);
        ensure!(apart.abs() <= APART, "{guest}: its wall clock is {apart} us off at {step:?}");
    }
    let mut stood = 0;
    for run in runs(&all) {
        for (step, next) in run.iter().zip(run.iter().skip(1)) {
            ensure!(next.now >= step.now && next.system >= step.system, "{guest}: back from {step:?} to {next:?}");
            let gained = (next.now - step.now) - (next.system - step.system);
            ensure!(gained <= APART, "{guest}: its clock gains {gained} us from {step:?} to {next:?}");
            stood += usize::from(gained < -APART);
        }
    }
    ensure!(stood == restores, "{guest}: its clock stood {stood} times, and it was restored {restores} times");
    Ok(())
}

/// A machine with a disk that a guest is saved on and, if it is wanted, one for a guest's data.
fn machine(lab: &Lab<'_>, script: &str, data: bool) -> Result<Machine> {
    let mut machine = lab.machine(script)?;
    let saved = lab.folder.join("saved.img");
    std::fs::File::create(&saved)?.set_len(DISK)?;
    machine.disks = vec![saved];
    if data {
        machine.disks.push(lab.file("data.img", &vec![0; 4 << 20])?);
    }
    Ok(machine)
}

/// Guests by both ABIs of events: saved and ended, saved and gone on with, restored paused.
pub(super) fn a_guest_of_ours_goes_on_where_it_was(lab: &Lab<'_>) -> Result<Verdict> {
    let life = |events: &str| {
        format!(
            "xl create steady.cfg cmdline='{events}'; xl expect steady 'step 4 is whole'\n\
             xl save steady vda; xl list; sleep 1; xl restore vda; xl expect steady 'restored 1 times'\n\
             xl expect steady 'step 10 is whole'; xl save -c steady vda; xl expect steady 'step 16 is whole'\n\
             xl destroy steady; xl restore -p vda; xl list; xl unpause steady; xl expect steady 'restored 2 times'\n\
             xl expect steady 'step 18 is whole'; xl shutdown -w steady\n"
        )
    };
    for events in ["events=2l", "events=fifo"] {
        let script = format!(
            "xl create steady.cfg name=witness; xl expect witness 'step 1 is whole'\n{}\
             xl expect witness 'step 20 is whole'; xl destroy witness; xl list; poweroff",
            life(events)
        );
        let report = lab.boot_within(&machine(lab, &script, false)?, LIMIT)?.succeeded()?;
        let told = ["saved: ", "until it stopped", "restored: `steady`", "saved: ", "restored: `steady`"];
        let report = report.says_in_order(&told)?.lacks("events: ")?;
        judge(&report, "steady", 1)?;
        let all = steps(&report, "steady")?;
        let ends: Vec<_> =
            runs(&all).iter().filter_map(|run| Some((run.first()?.number, run.last()?.number))).collect();
        ensure!(matches!(ends[..], [(1, 16..), (10..16, 18..)]), "{events}: the runs of steps are {ends:?}");
    }
    Ok(Verdict::Passed)
}

/// A guest that writes its disk all the time is saved and restored again and again, every other time gone on with
/// before: no step is lost, nothing of the disk, and no memory.
pub(super) fn rounds(lab: &Lab<'_>, count: usize) -> Result<Verdict> {
    let mut script = String::from(
        "xl create steady.cfg name=witness; xl expect witness 'step 1 is whole'; xl destroy witness\n\
         xl create steady.cfg disk=['phy:vdb,xvda,w']; xl expect steady 'step 3 is whole'\n",
    );
    for round in 1..=count {
        if round % 2 == 0 {
            script += "xl save -c steady vda; xl expect steady 'is whole'\n";
        }
        script += &format!("xl save steady vda; xl restore vda; xl expect steady 'restored {round} times'\n");
        script += "xl expect steady 'is whole'; xl expect steady 'is whole'\n";
        // The first rounds fill what is kept for the next guest.
        if round == count / 2 || round == count {
            script += "xl info\n";
        }
    }
    script += "poweroff\n";
    let report = lab.boot_within(&machine(lab, &script, true)?, LONG_LIMIT)?.succeeded()?.lacks("DAMAGED")?;
    let restored = report.lines_with("restored: `steady`").len();
    ensure!(restored == count, "restored {restored} times of {count}");
    judge(&report, "steady", count)?;
    let all = steps(&report, "steady")?;
    ensure!(
        runs(&all).len() == 1,
        "its steps are no run: {:?}",
        runs(&all).iter().map(|run| run.len()).collect::<Vec<_>>()
    );
    let disk = |step: Option<&Step>| step.map_or(0, |step| step.disk);
    ensure!(disk(all.last()) > disk(all.first()) + count as i64, "it has hardly used its disk: {:?}", all.last());
    for what in ["free_memory", "dom0_free_memory"] {
        let told: Vec<&str> = report.lines_with(what).into_iter().filter(|line| line.starts_with(what)).collect();
        ensure!(told.len() == 2 && told.first() == told.last(), "memory is lost: {told:?}");
    }
    Ok(Verdict::Passed)
}

/// A few rounds; `soak` has a hundred.
pub(super) fn a_guest_of_ours_at_work_on_its_disk_loses_nothing(lab: &Lab<'_>) -> Result<Verdict> {
    rounds(lab, 6)
}

/// A guest fetches from another one while both are saved and restored, one after the other: the connection
/// stays, and all of the bytes come.
pub(super) fn a_connection_of_ours_outlives_both_its_ends_domains(lab: &Lab<'_>) -> Result<Verdict> {
    const BYTES: usize = 96 << 20;
    let sum = sha256(&net::pattern(BYTES));
    let script = format!(
        "xl create net.cfg name=server cmdline='ip=10.9.0.1/24'; xl expect server 'net: serving'\n\
         xl create net.cfg name=client cmdline='ip=10.9.0.2/24 ping=10.9.0.1 fetch=http://10.9.0.1/bytes/{BYTES}'\n\
         xl expect client 'net: ping 10.9.0.1 3'; sleep 1\n\
         xl save server vda; xl restore vda; xl expect server 'net: connected again'; sleep 1\n\
         xl save client vda; xl restore vda; xl expect client 'net: connected again'; sleep 1\n\
         xl save -c server vda; xl expect client '{sum}' 300; brctl show; poweroff"
    );
    let mut machine = machine(lab, &script, false)?;
    std::fs::File::create(lab.folder.join("saved.img"))?.set_len(2 * DISK)?;
    machine.memory = 768;
    let report = lab.boot_within(&machine, LIMIT)?.succeeded()?.lacks("FAILED")?;
    let told = ["restored: `server`", "restored: `client`", "saved: ", "(client) net: fetched"];
    report.says_in_order(&told)?;
    Ok(Verdict::Passed)
}

/// The same guest is saved on real Xen by Debian's `xl`, restored and saved by our dom0's on Oxen, and restored on Xen.
pub(super) fn a_guest_of_ours_goes_from_xen_to_oxen_and_back(lab: &Lab<'_>) -> Result<Verdict> {
    let xen = match xen::find(lab.workspace, "xen".as_ref()) {
        Ok(xen) => xen,
        Err(error) => return Ok(Verdict::Skipped(format!("no Xen of Debian's: {error:#}"))),
    };
    let kernel = std::fs::read(lab.workspace.out.join("guests/steady"))?;
    let config = b"name = \"saved\"\nkernel = \"guests/kernel\"\nmemory = 32\n".to_vec();
    let machines = Machines { xen, files: vec![("guests/kernel".into(), kernel), ("saved.cfg".into(), config)] };
    let disks = ["none", "from-xen", "from-oxen"].map(|name| lab.folder.join(format!("{name}.img")));
    for disk in &disks {
        std::fs::create_dir_all(&lab.folder)?;
        std::fs::File::create(disk)?.set_len(saving::DISK)?;
    }
    let [none, from_xen, from_oxen] = &disks;
    let script = format!("create saved.cfg; until_said saved 'step 4 ' 300; {}; show saved", saving::SAVE);
    let on_xen = machines.boot(lab, "xen-first", &script, [none, from_xen])?;
    let mut all = steps(&on_xen, "saved")?;
    let first = all.last().context("it did nothing on Xen")?.number + 4;
    let script =
        format!("xl restore vda; xl expect saved 'step {first} is whole' 300; xl save saved vdb; xl list; poweroff");
    let mut machine = lab.machine(&script)?;
    machine.disks = vec![from_xen.clone(), from_oxen.clone()];
    let on_oxen = lab.boot_within(&machine, LIMIT)?.succeeded()?.says_in_order(&["restored: `saved`", "saved: "])?;
    all.extend(steps(&on_oxen, "saved")?);
    let last = all.last().context("it did nothing on Oxen")?.number + 4;
    let script = format!("xl restore /dev/vda; until_said saved 'step {last} ' 300; xl destroy saved; show saved");
    let back = machines.boot(lab, "xen-again", &script, [from_oxen, none])?;
    all.extend(steps(&back, "saved")?);
    ensure!(all.last().is_some_and(|step| step.number >= last), "it came to {:?} on Xen again", all.last());
    ensure!(runs(&all).len() == 1, "its steps are no run: {all:?}");
    for (step, next) in all.iter().zip(all.iter().skip(1)) {
        ensure!(next.now >= step.now && next.wall + APART >= step.wall, "{step:?} comes before {next:?}");
    }
    Ok(Verdict::Passed)
}

/// Two copies of a running guest go on from the same step as it does.
pub(super) fn a_guest_of_ours_is_copied_while_it_runs(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create steady.cfg; xl expect steady 'step 4 is whole'; xl clone steady 2; xl list\n\
                  xl expect steady-1 'step 9 is whole'; xl expect steady-2 'step 9 is whole'\n\
                  xl expect steady 'step 9 is whole'; poweroff";
    let report = lab.boot_within(&lab.machine(script)?, LIMIT)?.succeeded()?;
    for name in ["steady", "steady-1", "steady-2"] {
        let all = steps(&report, name)?;
        let first = if name == "steady" { 1 } else { 5 };
        let (Some(begun), Some(ended)) = (all.first(), all.last()) else { return report.fail("a copy is silent") };
        ensure!(
            runs(&all).len() == 1 && begun.number >= first && ended.number >= 9,
            "`{name}` goes {begun:?}, {ended:?}"
        );
    }
    Ok(Verdict::Passed)
}

/// Who does not look whether it is asked, and who cannot follow, is named, and goes on. No time of this machine's
/// passes while they are waited for.
pub(super) fn a_guest_that_does_not_suspend_itself_is_named_and_goes_on(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create bell.cfg name=deaf cmdline='peer=9 bind'; sleep 1; xl save deaf vda; xl list deaf\n\
                  xl create steady.cfg name=busy cmdline='period=1000 maps'; xl expect busy 'step 2 is whole'\n\
                  xl save busy vda; xl list busy; xl expect busy 'step 70 is whole'; poweroff";
    let mut machine = machine(lab, script, false)?;
    machine.icount = true;
    let report = lab.boot_within(&machine, LIMIT)?;
    let report = report.says_in_order(&[
        "error: `deaf` does not look whether it should suspend itself (in 60 s)",
        "deaf  ",
        "error: `busy` has read that it should suspend itself, and has not in 60 s",
        "busy  ",
        "this guest cannot be saved now: it maps what other domains or devices have (mappings: 1)",
    ])?;
    let all = steps(&report, "busy")?;
    ensure!(runs(&all).len() == 1 && all.len() >= 70, "{} steps of the guest that could not follow", all.len());
    Ok(Verdict::Passed)
}
