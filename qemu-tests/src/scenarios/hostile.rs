//! Guests that mean harm: what they say steers no terminal, and what they take is not their neighbours'.

use anyhow::{Result, ensure};
use oxen_tools::disk;
use oxen_tools::qemu::Machine;

use crate::lab::{Lab, Report, Verdict};

const MIB: usize = 1 << 20;

/// A machine whose dom0 runs a script about guests that run the probe: name, command line, further lines of the
/// configuration.
pub(super) fn machine(lab: &Lab<'_>, script: &str, guests: &[(&str, &str, &str)]) -> Result<Machine> {
    let mut machine = lab.machine(script)?;
    let probe = std::fs::read(lab.workspace.out.join("probe"))?;
    let configs: Vec<_> = guests
        .iter()
        .map(|(name, cmdline, more)| {
            let config =
                format!("name = \"{name}\"\nkernel = \"guests/probe\"\nmemory = 32\ncmdline = \"{cmdline}\"\n{more}\n");
            (format!("{name}.cfg"), config.into_bytes())
        })
        .collect();
    let mut files: Vec<(&str, &[u8])> = configs.iter().map(|(name, config)| (&**name, &**config)).collect();
    files.push(("guests/probe", &probe));
    lab.add(&mut machine, &files)?;
    Ok(machine)
}

/// The greatest transcript of a run whose script itself asks for little.
const MAX_TRANSCRIPT: usize = 64 << 10;

pub(super) fn a_guests_words_steer_no_terminal_and_are_few(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create loud.cfg; sleep 4; xl network-list loud; xl list
        xenstore-read /local/domain/1/device/vif/0/event-channel; sleep 4; xl list; xl dmesg; poweroff";
    let guests = [("loud", "do=strings seconds=6 end=panic", "vif = [\"\"]")];
    let report = lab.boot(&machine(lab, script, &guests)?)?;
    let (_, said) = report.transcript().split_once("oxen dom0 ready").unwrap_or_default();
    let steers = |c: &char| c.is_control() && !matches!(c, '\r' | '\n' | '\t');
    if let Some(found) = said.chars().find(steers) {
        return report.fail(&format!("{found:?} came through"));
    }
    ensure!(said.len() < MAX_TRANSCRIPT, "{} bytes were said", said.len());
    // A line of the log, what is asked for at the prompt, and what is said of the dead.
    report
        .says_in_order(&[
            "event-channel is `\\x1b]0;owned\\007\\x1b[2K\\rowned# \\xc2\\x9b2J\\x08\\x0bAAA",
            "bytes more]`, which is no number; the device is closed",
            "\\x1b]0;owned",
            "has ended: crash",
            "  | \\x1b]0;owned",
            "panicked at",
        ])?
        .says("lines about it were left out")?;
    Ok(Verdict::Passed)
}

pub(super) fn fresh_frames_hold_nothing_of_domains_that_ended(lab: &Lab<'_>) -> Result<Verdict> {
    // Domains come and go while the frames are the hypervisor's to use: so many that single ones join their neighbours.
    let script = "xl create residue.cfg memory=96; sleep 5; xl create hello.cfg; xl wait hello
        xl create hello.cfg; xl wait hello; xl create hello.cfg; xl wait hello; xl create hello.cfg; xl wait hello
        xl wait residue; poweroff";
    let report = lab.boot(&machine(lab, script, &[("residue", "do=residue", "")])?)?.succeeded()?;
    let looked = report.lines_with("probe: looked at ");
    let [line] = looked.as_slice() else { return report.fail("the guest did not look at its frames") };
    ensure!(!line.contains("looked at 0 "), "{line}");
    ensure!(line.contains(" 0 were not empty"), "{line}");
    Ok(Verdict::Passed)
}

pub(super) fn the_hypervisor_reads_nothing_behind_a_linear_entry(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create linear.cfg; xl wait linear; poweroff";
    let report = lab.boot(&machine(lab, script, &[("linear", "do=linear", "")])?)?.succeeded()?;
    report.says_in_order(&[
        "probe: linear entry 0, reads itself: true",
        "probe: linear reads refused: 5 of 5",
        "probe: linear beside: true, gone 0",
    ])?;
    Ok(Verdict::Passed)
}

pub(super) fn disks_flooded_by_others_do_not_fail(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create one.cfg; xl create two.cfg; sleep 3; xl create fs-write.cfg; xl wait fs
        xl block-list one; xl wait one; xl wait two; poweroff";
    let disks = "disk = [\"phy:/dev/vdb,xvda,r\", \"phy:/dev/vdc,xvdb,r\"]";
    let flood = "do=disks seconds=15";
    let mut machine = machine(lab, script, &[("one", flood, disks), ("two", flood, disks)])?;
    for name in ["own.img", "a.img", "b.img"] {
        machine.disks.push(lab.file(name, &disk::noise(1, 16 * MIB))?);
    }
    let report = lab.boot(&machine)?.says("read back: equal")?.lacks("input/output error")?;
    // Nobody is refused for what others or it itself take: all requests can be carried out.
    let told = report.lines_with("reads of 1 MiB done, 0 refused");
    let good = |line: &&str| line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).is_some_and(|n| n > 100);
    if told.iter().filter(|line| good(line)).count() != 2 {
        return report.fail(&format!("the others' own reads: {told:?}"));
    }
    report.succeeded()?;
    Ok(Verdict::Passed)
}

/// What two guests that storm the store leave to a third that uses it: its share of the time, which is a third, but for
/// a tenth of that. Time is counted in instructions, as below.
pub(super) fn a_guest_with_the_store_has_its_share_beside_two_that_storm_it(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create count.cfg; xl create user.cfg; xl wait user; xl create one.cfg; xl create two.cfg; sleep 1
        xl create user.cfg; xl wait user; xl purse; xl list; poweroff";
    let guests = [
        ("user", "do=nodes seconds=2", ""),
        ("one", "do=store", ""),
        ("two", "do=store", ""),
        ("count", "do=count", "cpu_weight = 1"),
    ];
    let mut machine = machine(lab, script, &guests)?;
    machine.icount = true;
    let report = lab.boot(&machine)?.lacks("FAILED")?;
    let told = worked(&report);
    let &[alone, beside] = told.as_slice() else { return report.fail(&format!("the guest worked {told:?} rounds")) };
    println!("rounds with the store: {alone} alone, {beside} beside two guests that storm it");
    if beside * 10 < alone / 3 * 9 {
        return report.fail(&format!("{alone} rounds with the store alone, {beside} beside the others"));
    }
    report.succeeded()?;
    Ok(Verdict::Passed)
}

/// How many rounds a guest has worked, each time.
fn worked(report: &Report) -> Vec<u64> {
    let rounds = |line: &str| line.split_once("worked ")?.1.split_whitespace().next()?.parse().ok();
    report.lines_with("all of them right").into_iter().filter_map(rounds).collect()
}

/// Time is counted in instructions here, so that a busy host counts for nothing; a guest that counts takes what nobody
/// else does, since with nothing to do that time would leap ahead while the host's disk works.
pub(super) fn a_guest_at_work_keeps_half_its_speed_beside_two_that_flood_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    let script =
        "xl create count.cfg; xl create victim.cfg; xl wait victim; xl create one.cfg; xl create two.cfg; sleep 1
        xl create victim.cfg; xl wait victim; xl list; poweroff";
    let shared = "disk = [\"phy:/dev/vdb,xvda,r\", \"phy:/dev/vdc,xvdb,r\"]\nvif = [\"\"]";
    let own = "disk = [\"phy:/dev/vda,xvda,w\"]\nvif = [\"\", \"\"]\ncpu_weight = 1024";
    let guests = [
        ("victim", "do=work seconds=2", own),
        ("one", "do=all", shared),
        ("two", "do=all", shared),
        ("count", "do=count", "cpu_weight = 1"),
    ];
    let mut machine = machine(lab, script, &guests)?;
    machine.icount = true;
    for name in ["own.img", "a.img", "b.img"] {
        machine.disks.push(lab.file(name, &disk::noise(2, 16 * MIB))?);
    }
    let report = lab.boot(&machine)?.lacks("FAILED")?;
    let told = worked(&report);
    let &[alone, beside] = told.as_slice() else { return report.fail(&format!("the guest worked {told:?} rounds")) };
    println!("rounds of work: {alone} alone, {beside} beside two guests that flood dom0");
    if beside * 2 < alone {
        return report.fail(&format!("{alone} rounds of work alone, {beside} beside the others"));
    }
    report.succeeded()?;
    Ok(Verdict::Passed)
}
