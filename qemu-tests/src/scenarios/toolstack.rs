//! What people type at dom0: guests created and ended, wrong configurations, states, the store.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use oxen_tools::session::Exit;

use super::hypercalls;
use crate::lab::{Lab, Prompt, Report, Verdict};

/// Runs a script in which a command must fail: dom0 says why, a guest created afterwards runs, the run is a failure.
fn fails(lab: &Lab<'_>, files: &[(&str, &[u8])], command: &str, reasons: &[&str]) -> Result<Verdict> {
    let mut machine = lab.machine(&format!("{command}; xl create hello.cfg; xl wait hello; xl list; poweroff"))?;
    lab.add(&mut machine, files)?;
    let report = lab.boot(&machine)?.ended(Exit::Failure)?;
    let report = reasons.iter().try_fold(report, |report, reason| report.says(reason))?;
    report.says("(hello) hello from a guest")?.lacks("Panic")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_key_that_is_not_known_is_refused_with_the_nearest(lab: &Lab<'_>) -> Result<Verdict> {
    let config = b"name = \"x\"\nkernel = \"guests/hello\"\nmemry = 16\n";
    fails(lab, &[("bad.cfg", config)], "xl create bad.cfg", &["bad.cfg: line 3", "did you mean `memory`"])
}

pub(super) fn a_configuration_that_is_not_there_is_named(lab: &Lab<'_>) -> Result<Verdict> {
    fails(lab, &[], "xl create helo.cfg", &["no file `helo.cfg`; did you mean `hello.cfg`?"])
}

pub(super) fn a_command_that_is_not_there_is_named(lab: &Lab<'_>) -> Result<Verdict> {
    fails(lab, &[], "xl creat hello.cfg", &["unknown command `creat`; did you mean `create`?"])
}

pub(super) fn a_kernel_that_is_no_elf_is_refused_by_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    let config = b"name = \"x\"\nkernel = \"noise\"\nmemory = 16\n";
    let files: [(&str, &[u8]); 2] = [("bad.cfg", config), ("noise", &[0x90; 4096])];
    fails(lab, &files, "xl create bad.cfg", &["error: bad.cfg: kernel `noise`:"])
}

pub(super) fn a_kernel_that_is_not_there_is_named(lab: &Lab<'_>) -> Result<Verdict> {
    let config = b"name = \"x\"\nkernel = \"nowhere\"\nmemory = 16\n";
    fails(lab, &[("bad.cfg", config)], "xl create bad.cfg", &["no file `nowhere`"])
}

pub(super) fn a_disk_that_is_not_there_is_named(lab: &Lab<'_>) -> Result<Verdict> {
    let config = b"name = \"x\"\nkernel = \"guests/hello\"\nmemory = 16\ndisk = [\"phy:vdq,xvda,r\"]\n";
    fails(lab, &[("bad.cfg", config)], "xl create bad.cfg", &["error: bad.cfg:", "vdq"])
}

pub(super) fn more_memory_than_there_is_is_refused(lab: &Lab<'_>) -> Result<Verdict> {
    fails(lab, &[], "xl create hello.cfg memory=100000", &["error: hello.cfg:", "MiB"])
}

pub(super) fn less_memory_than_the_kernel_needs_is_refused(lab: &Lab<'_>) -> Result<Verdict> {
    let mut kernel = std::fs::read(lab.workspace.out.join("guests/hello"))?;
    kernel.resize(3 << 20, 0);
    let config = b"name = \"x\"\nkernel = \"guests/hello\"\nramdisk = \"big\"\nmemory = 2\n";
    let files: [(&str, &[u8]); 2] = [("bad.cfg", config), ("big", &kernel)];
    fails(lab, &files, "xl create bad.cfg", &["error: bad.cfg:"])
}

pub(super) fn two_guests_of_one_name_are_refused(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create -p hello.cfg; xl create hello.cfg; xl destroy hello; xl list; poweroff";
    lab.boot(&lab.machine(script)?)?.ended(Exit::Failure)?.says("a guest named `hello` exists")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_script_that_succeeds_ends_in_success(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create hello.cfg; xl wait hello; xl list; xl info; poweroff";
    let report = lab.script(script)?;
    report.says_in_order(&["oxen dom0 ready", "(hello) hello from a guest", "Domain-0", "free_memory"])?;
    Ok(Verdict::Passed)
}

pub(super) fn an_unprivileged_guest_gets_xens_answers(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = lab.machine("xl create probe.cfg; xl wait probe; poweroff")?;
    let probe = std::fs::read(lab.workspace.out.join("probe"))?;
    let config = b"name = \"probe\"\nkernel = \"guests/probe\"\nmemory = 32\n";
    lab.add(&mut machine, &[("probe.cfg", config), ("guests/probe", &probe)])?;
    hypercalls::judge(&lab.boot(&machine)?.succeeded()?)
}

pub(super) fn a_paused_guest_waits_and_a_destroyed_one_is_gone(lab: &Lab<'_>) -> Result<Verdict> {
    let mut prompt = Prompt::open(&lab.machine("")?)?;
    prompt.command("xl create -p hello.cfg")?;
    let listed = prompt.command("xl list hello")?;
    ensure!(listed.contains("--p---"), "a guest created paused is not shown as paused:\n{listed}");
    let quiet = prompt.command("sleep 1; xl list")?;
    ensure!(quiet.contains("hello") && !quiet.contains("ended"), "a paused guest did not wait:\n{quiet}");
    prompt.command("xl unpause hello")?;
    let said = prompt.command("xl wait hello")?;
    ensure!(said.contains("hello from a guest"), "a guest that goes on says nothing:\n{said}");
    prompt.command("xl create -p hello.cfg; xl destroy hello")?;
    let listed = prompt.command("xl list")?;
    ensure!(listed.lines().all(|line| !line.starts_with("hello")), "a destroyed guest is listed:\n{listed}");
    let console = prompt.command("xl console hello")?;
    ensure!(console.contains("has ended: destroyed"), "what a destroyed guest's console shows:\n{console}");
    prompt.power_off()?;
    Ok(Verdict::Passed)
}

pub(super) fn the_store_can_be_read_written_and_listed(lab: &Lab<'_>) -> Result<Verdict> {
    let mut prompt = Prompt::open(&lab.machine("")?)?;
    prompt.command("xenstore-write /test/a 1 /test/b 'two words'")?;
    let read = prompt.command("xenstore-read /test/a /test/b")?;
    ensure!(read.contains("1\n") && read.contains("two words"), "what was written is not read:\n{read}");
    let listed = prompt.command("xenstore-ls /test")?;
    ensure!(listed.contains("a = \"1\"") && listed.contains("b = \"two words\""), "the list:\n{listed}");
    let gone = prompt.command("xenstore-rm /test; xenstore-read /test/a")?;
    ensure!(gone.contains("error:"), "what was removed can be read:\n{gone}");
    prompt.command("xl create -p hello.cfg")?;
    let guests = prompt.command("xenstore-ls -f /local/domain")?;
    for node in ["/name = \"hello\"", "/memory/target = ", "/console/ring-ref = ", "/store/port = "] {
        ensure!(guests.contains(node), "no {node} in the store:\n{guests}");
    }
    prompt.power_off()?;
    Ok(Verdict::Passed)
}

/// Destroys a thousand guests, some before their first instruction, some while they run, some that ended by
/// themselves: free memory is what it was.
pub(super) fn a_thousand_guests_come_and_go_without_losing_a_frame(lab: &Lab<'_>) -> Result<Verdict> {
    const GUESTS: usize = 1000;
    let mut machine = lab.machine("")?;
    machine.smp = 2;
    let mut prompt = Prompt::open(&machine)?;
    // The first guests let dom0's own heap grow to what it needs.
    let cycle = ["xl create -p hello.cfg; xl destroy hello", "xl create hello.cfg; xl destroy hello"];
    let to_the_end = "xl create hello.cfg; xl wait hello";
    for line in cycle.iter().chain(&[to_the_end]) {
        prompt.command(line)?;
    }
    let before = free_memory(&mut prompt)?;
    let begun = Instant::now();
    for index in 0..GUESTS {
        let line = if index % 20 == 0 { to_the_end } else { cycle.get(index % 2).copied().unwrap_or(to_the_end) };
        let said = prompt.command(line)?;
        ensure!(!said.contains("error:"), "guest {index}: {said}");
        ensure!(begun.elapsed() < Duration::from_secs(600), "only {index} guests in ten minutes");
    }
    let after = free_memory(&mut prompt)?;
    let list = prompt.command("xl list")?;
    prompt.power_off()?;
    ensure!(list.lines().all(|line| !line.starts_with("hello")), "a guest is left:\n{list}");
    ensure!(after == before, "free memory went from {before:?} to {after:?} (MiB free, MiB free in dom0)");
    Ok(Verdict::Passed)
}

/// What `xl info` says is free: of the machine, and in dom0.
fn free_memory(prompt: &mut Prompt) -> Result<(u64, u64)> {
    let info = prompt.command("sleep 1; xl info")?;
    let value = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}:\n{info}"))?;
        let (_, value) = line.split_once(": ").context("no value")?;
        value.trim().parse::<u64>().context("no number")
    };
    Ok((value("free_memory")?, value("dom0_free_memory")?))
}

/// Everything that a report shows of a guest that crashed.
pub(super) fn a_guest_that_crashes_shows_its_last_words_and_registers(lab: &Lab<'_>) -> Result<Verdict> {
    let report: Report = crash(lab, "panic")?;
    report
        .says("has ended: crash")?
        .says_in_order(&["probe: panics, as it was told to", "called from:", " probe::run+", "::boot::start+"])?
        .says("rip")?
        .says("Domain-0")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_guest_that_jumps_nowhere_harms_only_itself(lab: &Lab<'_>) -> Result<Verdict> {
    let report = crash(lab, "wild")?.says("has ended: crash")?;
    report.says_in_order(&["exception 14", "called from:", "::boot::start+"])?;
    Ok(Verdict::Passed)
}

fn crash(lab: &Lab<'_>, how: &str) -> Result<Report> {
    let mut machine =
        lab.machine("xl create probe.cfg; xl wait probe; xl create hello.cfg; xl wait hello; xl list; poweroff")?;
    let probe = std::fs::read(lab.workspace.out.join("probe"))?;
    let config = format!("name = \"probe\"\nkernel = \"guests/probe\"\nmemory = 32\ncmdline = \"end={how}\"\n");
    lab.add(&mut machine, &[("probe.cfg", config.as_bytes()), ("guests/probe", &probe)])?;
    lab.boot(&machine)?.ended(Exit::Failure)?.says("(hello) hello from a guest")?.lacks("Panic")
}

/// A guest that never blocks and never yields does not keep dom0 from its work.
pub(super) fn a_guest_that_spins_can_be_destroyed(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create probe.cfg; sleep 2; xl list; xl create hello.cfg; xl wait hello; xl destroy probe; \
        xl list; poweroff";
    let mut machine = lab.machine(script)?;
    let probe = std::fs::read(lab.workspace.out.join("probe"))?;
    let config = b"name = \"probe\"\nkernel = \"guests/probe\"\nmemory = 32\ncmdline = \"end=spin\"\n";
    lab.add(&mut machine, &[("probe.cfg", config), ("guests/probe", &probe)])?;
    lab.boot(&machine)?.succeeded()?.says("(hello) hello from a guest")?;
    Ok(Verdict::Passed)
}
