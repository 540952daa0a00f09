//! Memory that is shared out by a policy, in virtual time: who uses memory has it, and it settles.

use anyhow::{Context, Result, ensure};
use oxen_tools::memory::{self, Scenario, Series};

use crate::lab::{LIMIT, Lab, Verdict};

/// Seconds, which are decisions, in which memory comes to rest after the last change.
const PATIENCE: usize = 20;
/// MiB that a guest moves by at rest: a hundred samples know what is used to within a tenth.
const SLACK: u32 = 32;

fn measure(lab: &Lab<'_>, scenario: Scenario) -> Result<Series> {
    let series = memory::measure(lab.workspace, scenario, None, lab.folder.join(scenario.name()), LIMIT)?;
    let settled = series.settles(SLACK).with_context(|| format!("{} never settles", scenario.name()))?;
    let last = scenario.last_change() as usize;
    ensure!(
        settled <= last + PATIENCE,
        "{} settles in second {settled}, the last change is in {last}",
        scenario.name()
    );
    Ok(series)
}

/// What a guest has in the end.
fn end(series: &Series, guest: &str) -> Result<u32> {
    series.has(guest, series.seconds.len() - 1)
}

/// Two guests of equal shares, one of which uses nothing of what it holds. By shares alone both have as much; with a
/// tax of 75 % on idle memory the busy one has nearly what the price says: four fifths.
pub(super) fn a_tax_on_idle_memory_moves_it_to_who_uses_it(lab: &Lab<'_>) -> Result<Verdict> {
    let series = measure(lab, Scenario::EsxTax)?;
    let before = Scenario::EsxTax.last_change() as usize - 1;
    let (idle, busy) = (series.has("idle", before)?, series.has("busy", before)?);
    ensure!(idle.abs_diff(busy) <= 8 && idle > 150, "without a tax the idle one has {idle} MiB, the busy one {busy}");
    let (idle, busy) = (end(&series, "idle")?, end(&series, "busy")?);
    ensure!(2 * busy >= 5 * idle && busy > 250, "with the tax the idle one has {idle} MiB, the busy one {busy}");
    Ok(Verdict::Passed)
}

/// The three scenarios of a memory coordinator (Georgia Tech's CS6210), by working sets.
pub(super) fn coordinator(lab: &Lab<'_>) -> Result<Verdict> {
    let one = measure(lab, Scenario::OneConsumes)?;
    let (a, b) = (end(&one, "a")?, end(&one, "b")?);
    ensure!(a > 250 && b < 40, "who consumes has {a} MiB, who does not {b}");
    let all = measure(lab, Scenario::AllConsume)?;
    let ends: Vec<u32> = all.guests.iter().map(|guest| end(&all, guest)).collect::<Result<_>>()?;
    let (least, most) = (ends.iter().min().unwrap_or(&0), ends.iter().max().unwrap_or(&0));
    ensure!(most - least <= most / 4 && *least > 60, "four that consume alike have {ends:?} MiB");
    let stops = measure(lab, Scenario::OneStops)?;
    let (a, b) = (end(&stops, "a")?, end(&stops, "b")?);
    ensure!(a > 250 && b < 40, "who goes on has {a} MiB, who has stopped {b}");
    Ok(Verdict::Passed)
}
