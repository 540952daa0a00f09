//! What the sample guests show, and guests that a user makes.

use anyhow::{Context, Result, ensure};
use oxen_tools::{new_guest, process};

use crate::lab::{Lab, Prompt, Report, Verdict};

pub(super) fn mmu_shows_two_address_spaces_and_every_refusal(lab: &Lab<'_>) -> Result<Verdict> {
    shows_two_address_spaces(&lab.script("xl create mmu.cfg; xl wait mmu; poweroff")?)?;
    Ok(Verdict::Passed)
}

/// Demands what the guest `mmu` shows.
pub(super) fn shows_two_address_spaces(report: &Report) -> Result<()> {
    for text in ["holds 0xaaaa", "holds 0xbbbb", "mmu: done"] {
        if !report.transcript().contains(text) {
            return report.fail(&format!("mmu did not say `{text}`"));
        }
    }
    if report.lines_with("mmu: refused with").len() < 10 {
        return report.fail("fewer than ten refusals");
    }
    Ok(())
}

/// `xl mem-set` moves a guest's memory down and up again, and what it holds stays as it was.
pub(super) fn a_guest_follows_its_memory_target(lab: &Lab<'_>) -> Result<Verdict> {
    let mut prompt = Prompt::open(&lab.machine("")?)?;
    prompt.command("xl create hog.cfg memory=64 maxmem=64; sleep 3")?;
    let full = memory(&mut prompt)?;
    prompt.command("xl mem-set hog 32; sleep 6")?;
    let small = memory(&mut prompt)?;
    prompt.command("xl mem-set hog 64; sleep 6")?;
    let again = memory(&mut prompt)?;
    let said = prompt.command("xl balloon explain hog; xl destroy hog; xl console hog")?;
    prompt.power_off()?;
    ensure!(
        (60..=66).contains(&full) && (28..=35).contains(&small) && (60..=66).contains(&again),
        "the guest had {full}, then {small}, then {again} MiB:\n{said}"
    );
    ensure!(said.contains("hog:") && !said.contains("spoilt: 1"), "what the guest says:\n{said}");
    Ok(Verdict::Passed)
}

/// What `xl list` says the guest has, in MiB.
fn memory(prompt: &mut Prompt) -> Result<u64> {
    let list = prompt.command("xl list hog")?;
    let line = list.lines().find(|line| line.starts_with("hog ")).with_context(|| format!("no hog:\n{list}"))?;
    memory_of(line)
}

/// The memory that a line of `xl list` shows, in MiB.
pub(super) fn memory_of(line: &str) -> Result<u64> {
    line.split_whitespace().nth(2).and_then(|mib| mib.parse().ok()).with_context(|| format!("no memory: {line}"))
}

pub(super) fn a_guest_cannot_shrink_below_what_it_needs(lab: &Lab<'_>) -> Result<Verdict> {
    let mut prompt = Prompt::open(&lab.machine("")?)?;
    prompt.command("xl create hog.cfg; sleep 1")?;
    let refused = prompt.command("xl mem-set hog 1")?;
    let above = prompt.command("xl mem-set hog 9999")?;
    prompt.power_off()?;
    ensure!(refused.contains("error:") && above.contains("error:"), "what was said:\n{refused}\n{above}");
    Ok(Verdict::Passed)
}

pub(super) fn a_new_guest_builds_and_boots(lab: &Lab<'_>) -> Result<Verdict> {
    let folder = new_guest::lay_out(lab.workspace, &lab.folder, "fresh")?;
    let mut cargo = process::cargo();
    cargo.current_dir(&folder).args(["build", "--release", "--quiet"]);
    cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    process::run(&mut cargo, "the crate that new-guest lays out does not build")?;
    let kernel = std::fs::read(new_guest::kernel(&folder, "fresh"))?;
    let config = std::fs::read(folder.join("fresh.cfg"))?;
    let mut machine = lab.machine("xl create fresh.cfg; xl wait fresh; poweroff")?;
    lab.add(&mut machine, &[("fresh.cfg", &config), ("guests/fresh", &kernel)])?;
    lab.boot(&machine)?.succeeded()?.says("(fresh) fresh runs on xen-3.0-x86_64")?.says("fresh is done")?;
    Ok(Verdict::Passed)
}

/// The benchmark runs unprivileged to its end.
pub(super) fn bench_measures_as_a_guest(lab: &Lab<'_>) -> Result<Verdict> {
    lab.script("xl create bench.cfg; xl wait bench; poweroff")?.says("bench: null_hypercall ")?.says("bench: done")?;
    Ok(Verdict::Passed)
}
