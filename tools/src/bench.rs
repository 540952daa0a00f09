//! `cargo xtask bench`: what the primitives cost, in instructions, beside Xen's cost and the figure to reach; and
//! whether that is more than they may cost.

mod boot;
mod budget;
mod io;
mod life;
mod moves;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::figures::FIGURES;
use crate::process::step;
use crate::qemu::{Machine, Module};
use crate::session::Session;
use crate::setup::{Need, require};
use crate::workspace::Workspace;
use crate::{build, xen};
use budget::Budget;

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
    let mut ours = Medians::new();
    if !args.only_against {
        build::hypervisor(workspace)?;
        step("measure Oxen");
        let folder = workspace.out.join("bench");
        if let Some(words) = &args.words {
            let mut machine = bench_machine(workspace, &folder);
            machine.append = machine.append.replace("spec-ctrl=no", words);
            machine.cpu = args.cpu.clone().unwrap_or(machine.cpu);
            print!("{}", table(&measure(&machine, limit)?, None));
            return Ok(());
        }
        ours = measure(&bench_machine(workspace, &folder), limit)?;
    }
    let mut theirs = None;
    if let Some(xen) = xen {
        step("measure Xen");
        let mut machine = bench_machine(workspace, &workspace.out.join("bench-xen"));
        machine.on_xen(xen);
        theirs = Some(measure(&machine, limit)?);
    }
    print!("{}", table(&ours, theirs.as_ref()));
    if args.set_budget {
        return build::write(&workspace.root.join(budget::FILE), Budget::text(&ours).as_bytes());
    }
    if args.only_against { Ok(()) } else { kept_budget(workspace)?.hold(&ours) }
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
    let mut session = Session::start(machine, false)?;
    let ended = session.wait_for("bench: done", Instant::now() + limit).map(drop);
    let medians = read(session.transcript());
    if let Err(error) = ended {
        eprint!("{}", table(&medians, None));
        return Err(error.context(format!("transcript: {}", machine.folder.join("run.log").display())));
    }
    Ok(medians)
}

/// Reads lines of the form `bench: NAME MEDIAN`.
fn read(transcript: &str) -> Medians {
    let parse = |line: &str| {
        let (name, median) = line.split_once("bench: ")?.1.trim().split_once(' ')?;
        Some((name.to_owned(), median.trim().split(' ').next()?.parse().ok()?))
    };
    transcript.lines().filter_map(parse).collect()
}

/// The table, in the form that `docs/performance.md` holds.
fn table(ours: &Medians, theirs: Option<&Medians>) -> String {
    let measured = if theirs.is_some() { "Xen 4.17, measured" } else { "Xen 4.17" };
    let mut text = format!("| primitive (instructions, median) | Oxen | {measured} | to reach | Xen ÷ Oxen |\n");
    text.push_str("|---|---:|---:|---:|---:|\n");
    let cell = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    let row = |what: &str, own: Option<f64>, xen: Option<f64>, goal: Option<f64>| {
        let ratio = own.zip(xen).filter(|(own, _)| *own > 0.0).map(|(own, xen)| format!("{:.1}", xen / own));
        let goal = goal.map_or_else(|| "–".to_owned(), |goal| format!("≤ {}", number(goal)));
        format!("| {what} | {} | {} | {goal} | {} |\n", cell(own), cell(xen), ratio.unwrap_or_else(|| "–".to_owned()))
    };
    for figure in &FIGURES {
        let xen = theirs.map_or(Some(figure.xen), |theirs| theirs.get(figure.name).copied());
        text.push_str(&row(figure.what, ours.get(figure.name).copied(), xen, Some(figure.goal)));
    }
    let mut others: Vec<&String> = ours.keys().chain(theirs.into_iter().flat_map(|t| t.keys())).collect();
    others.retain(|name| FIGURES.iter().all(|figure| figure.name != name.as_str()));
    others.sort();
    others.dedup();
    for name in others {
        text.push_str(&row(name, ours.get(name).copied(), theirs.and_then(|t| t.get(name)).copied(), None));
    }
    text
}

fn number(value: f64) -> String {
    if value < 100.0 && value.fract() != 0.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::{Medians, read, table};

    #[test]
    fn the_guests_lines_are_read() {
        let medians = read("x\n(d0) bench: null_hypercall 84\nbench: multicall 45.5 min 44\nbench: done\n");
        assert_eq!(medians.get("null_hypercall"), Some(&84.0));
        assert_eq!(medians.get("multicall"), Some(&45.5));
        assert_eq!(medians.len(), 2);
    }

    #[test]
    fn the_table_sets_each_figure_beside_its_goal() {
        let ours = Medians::from([("null_hypercall".to_owned(), 84.0), ("extra".to_owned(), 7.0)]);
        let text = table(&ours, None);
        assert!(text.contains("| null hypercall (xen_version) | 84 | 252 | ≤ 84 | 3.0 |"));
        assert!(text.contains("| extra | 7 | – | – | – |"));
    }
}
