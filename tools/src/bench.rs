//! `cargo xtask bench`: what the primitives cost, in instructions, beside Xen's cost and the figure to reach; and
//! whether that is more than they may cost.

mod boot;
mod budget;
mod events;
mod io;
mod life;
mod moves;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::step;
use crate::qemu::{Machine, Module};
use crate::session::Session;
use crate::setup::{Need, require};
use crate::workspace::Workspace;
use crate::{build, xen};
use budget::Budget;
use events::Rows;

/// What `cargo xtask bench` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What to measure
    #[arg(value_enum, default_value = "primitives")]
    what: What,
    /// Measure real Xen as well: `xen` for Debian's package, or the path of a binary
    #[arg(long, value_name = "XEN")]
    against: Option<PathBuf>,
    /// Measure real Xen only
    #[arg(long, requires = "against")]
    only_against: bool,
    /// Let the primitives cost from now on what they cost now, instead of failing where that is more
    #[arg(long, conflicts_with = "only_against")]
    set_budget: bool,
    /// Measure Oxen's primitives with these words on its command line, and hold them against no budget
    #[arg(long, conflicts_with_all = ["set_budget", "against"])]
    words: Option<String>,
    /// Measure Oxen's primitives on this model of QEMU's, with such words
    #[arg(long, requires = "words")]
    cpu: Option<String>,
    /// Seconds after which a measurement is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// Write the primitives' figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the primitives' part of Xen's cost as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Hypercalls, traps and emulation, in instructions
    Primitives,
    /// A boot of Debian's kernel as a guest: its time, and what it asks
    Boot,
    /// Disks and networks, in instructions of all who take part
    Io,
    /// Saving and restoring a small guest, in virtual milliseconds
    Life,
}

/// Medians by the primitive's name.
type Medians = BTreeMap<String, f64>;

/// Builds, measures, and prints the table.
///
/// # Errors
/// Fails when something cannot be built, or the guest does not come to its end, or a primitive costs more than it may.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    require(&[Need::Qemu])?;
    let limit = Duration::from_secs(args.timeout);
    let xen = args.against.as_ref().map(|wanted| xen::find(workspace, wanted)).transpose()?;
    match args.what {
        What::Primitives => primitives(workspace, args, xen.as_deref(), limit),
        What::Boot => boot::run(workspace, !args.only_against, xen.as_deref(), limit),
        What::Life => life::run(workspace, limit),
        What::Io => io::run(workspace, !args.only_against, xen.as_deref(), limit),
    }
}

fn primitives(workspace: &Workspace, args: &Args, xen: Option<&Path>, limit: Duration) -> Result<()> {
    build::guests(workspace)?;
    let mut ours = Rows::new();
    if !args.only_against {
        build::hypervisor(workspace)?;
        step("measure Oxen");
        let mut machine = bench_machine(workspace, &workspace.out.join("bench"));
        if let Some(words) = &args.words {
            machine.append = machine.append.replace("spec-ctrl=no", words);
            machine.cpu = args.cpu.clone().unwrap_or(machine.cpu);
        }
        ours = measure_events(workspace, machine, limit)?;
    }
    let mut theirs = None;
    if let Some(xen) = xen {
        step("measure Xen");
        let mut machine = bench_machine(workspace, &workspace.out.join("bench-xen"));
        machine.on_xen(xen);
        theirs = Some(measure_events(workspace, machine, limit)?);
    }
    let theirs = theirs.as_ref();
    print!("{}\n{}", report::table(&ours, theirs), report::events(&ours, theirs));
    if let Some(file) = &args.json {
        build::write(file, report::json(&ours, theirs).as_bytes())?;
    }
    if let Some(file) = &args.plot {
        build::write(file, report::plot(&ours, theirs)?.as_bytes())?;
    }
    let medians = ours.into_iter().map(|(name, row)| (name, row.instructions)).collect();
    if args.set_budget {
        return build::write(&workspace.root.join(budget::FILE), Budget::text(&medians).as_bytes());
    }
    if args.only_against || args.words.is_some() { Ok(()) } else { kept_budget(workspace)?.hold(&medians) }
}

/// Boots it with the plug-in that counts events, and reads what both say.
fn measure_events(workspace: &Workspace, mut machine: Machine, limit: Duration) -> Result<Rows> {
    events::attach(workspace, &mut machine)?;
    events::read(&measured(&machine, limit)?, &machine.folder)
}

/// Measures the hypervisor and the guest that are built, in a folder, and holds it against the budget.
///
/// # Errors
/// Fails when a primitive costs more than it may, or cannot be measured.
pub fn hold_budget(workspace: &Workspace, folder: &Path, limit: Duration) -> Result<()> {
    kept_budget(workspace)?.hold(&measure(&bench_machine(workspace, folder), limit)?)
}

/// Saves and restores a small guest with what is built, in a folder, and holds the times against what they may be.
///
/// # Errors
/// Fails when one is longer, or cannot be measured.
pub fn hold_life(workspace: &Workspace, folder: &Path, limit: Duration) -> Result<()> {
    life::judge(&life::measure(workspace, folder, limit)?)
}

fn kept_budget(workspace: &Workspace) -> Result<Budget> {
    let file = workspace.root.join(budget::FILE);
    Budget::read(&std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?)
}

/// The guest `bench` in dom0's place.
fn bench_machine(workspace: &Workspace, folder: &Path) -> Machine {
    let mut machine = Machine::oxen(workspace, "");
    machine.modules = vec![Module { file: workspace.out.join("guests/bench"), args: String::new() }];
    machine.for_measurements();
    machine.icount = true;
    folder.clone_into(&mut machine.folder);
    machine
}

/// Boots it and reads its lines.
fn measure(machine: &Machine, limit: Duration) -> Result<Medians> {
    Ok(read(&measured(machine, limit)?))
}

/// Boots it; returns what it said, to the end of the measurement.
fn measured(machine: &Machine, limit: Duration) -> Result<String> {
    let mut session = Session::start(machine, false)?;
    let ended = session.wait_for("bench: done", Instant::now() + limit).map(drop);
    ended.with_context(|| format!("transcript: {}", machine.folder.join("run.log").display()))?;
    Ok(session.transcript().to_owned())
}

/// Reads lines of the form `bench: NAME MEDIAN`.
fn read(transcript: &str) -> Medians {
    let parse = |line: &str| {
        let (name, median) = line.split_once("bench: ")?.1.trim().split_once(' ')?;
        Some((name.to_owned(), median.trim().split(' ').next()?.parse().ok()?))
    };
    transcript.lines().filter_map(parse).collect()
}

fn number(value: f64) -> String {
    if value < 100.0 && value.fract() != 0.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn the_guests_lines_are_read() {
        let medians = read("x\n(d0) bench: null_hypercall 84\nbench: multicall 45.5 min 44\nbench: done\n");
        assert_eq!(medians.get("null_hypercall"), Some(&84.0));
        assert_eq!(medians.get("multicall"), Some(&45.5));
        assert_eq!(medians.len(), 2);
    }
}
