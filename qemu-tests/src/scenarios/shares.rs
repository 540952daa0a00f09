//! Memory that is shared out by a policy: who uses it has more of it.

use anyhow::{Context, Result, ensure};

use crate::lab::{Lab, Prompt, Verdict};

/// Seconds between two decisions of the policy.
const PERIOD: u32 = 1;

/// Two guests of equal shares, one of which uses nothing of what it holds. By shares alone both have as much; with a
/// tax on idle memory, the busy one has most of it; without the tax both are equal again.
pub(super) fn a_tax_on_idle_memory_moves_it_to_who_uses_it(lab: &Lab<'_>) -> Result<Verdict> {
    let mut prompt = Prompt::open(&lab.machine("")?)?;
    for (name, used) in [("idle", 0), ("busy", 100)] {
        prompt.command(&format!("xl create hog.cfg name={name} memory=64 maxmem=340 extra=use={used}"))?;
    }
    prompt.command("sleep 6")?;
    let (idle, busy) = columns(&prompt.command("xl mem-stats 2")?, 5)?;
    ensure!(idle < 30 && busy > 70, "the idle guest uses {idle} %, the busy one {busy} %");

    let equal = settle(&mut prompt, "shares", 6)?;
    ensure!(equal.0.abs_diff(equal.1) <= 8, "by shares the idle guest has {} MiB, the busy one {}", equal.0, equal.1);
    let taxed = settle(&mut prompt, "idle-tax=75", 20)?;
    ensure!(taxed.1 >= 5 * taxed.0 / 2, "with the tax the idle guest has {} MiB, the busy one {}", taxed.0, taxed.1);
    let untaxed = settle(&mut prompt, "idle-tax=0", 10)?;
    ensure!(untaxed.0.abs_diff(untaxed.1) <= 8, "without it {} and {} MiB", untaxed.0, untaxed.1);

    let said = prompt.command("xl balloon explain busy; xl destroy idle; xl destroy busy; xl console busy")?;
    ensure!(said.contains("idle-tax=0, every 1 s") && said.contains("shares         1000"), "what decides:\n{said}");
    ensure!(said.contains(" 0 pages spoilt") && !said.contains(" 1 pages spoilt"), "what the busy guest says:\n{said}");
    prompt.power_off()?.lacks("panicked")?;
    Ok(Verdict::Passed)
}

/// Has a policy decide for some seconds. Returns what the idle and the busy guest have then, in MiB.
fn settle(prompt: &mut Prompt, policy: &str, seconds: u32) -> Result<(u64, u64)> {
    prompt.command(&format!("xl balloon policy {policy} {PERIOD}; sleep {seconds}"))?;
    columns(&prompt.command("xl balloon")?, 2)
}

/// A column of numbers, of the idle and of the busy guest.
fn columns(table: &str, column: usize) -> Result<(u64, u64)> {
    let of = |name: &str| {
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(name));
        let field = line.and_then(|line| line.split_whitespace().nth(column)?.parse().ok());
        field.with_context(|| format!("no number for {name}:\n{table}"))
    };
    Ok((of("idle")?, of("busy")?))
}
