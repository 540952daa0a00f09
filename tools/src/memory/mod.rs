//! `cargo xtask memory`: guests that want memory, a policy that shares it out, and what came of it, as table, CSV and
//! picture.
//!
//! The machine counts instructions as time, so a run is the same to the last figure each time.

mod plot;
mod scenario;
mod series;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build;
use crate::process::step;
use crate::qemu::Machine;
use crate::session;
use crate::workspace::Workspace;
pub use scenario::Scenario;
pub use series::Series;

/// What `cargo xtask memory` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What the guests do
    #[arg(value_enum)]
    scenario: Scenario,
    /// Who shares memory out, instead of the scenario's own policy: fixed, shares, working-set, idle-tax
    #[arg(long)]
    policy: Option<String>,
    /// The tax on idle memory in percent, of the policy idle-tax
    #[arg(long, value_name = "PERCENT")]
    tax: Option<u8>,
    /// Draw what each guest has, and its target, into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Write the figures of each second into this file
    #[arg(long, value_name = "FILE.csv")]
    csv: Option<PathBuf>,
    /// Seconds after which the run is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,
}

/// Builds, runs the scenario, and tells what came of it.
///
/// # Errors
/// Fails when something cannot be built or written, or the run does not come to its end.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    build::all(workspace)?;
    let policy = match (&args.policy, args.tax) {
        (None, Some(tax)) => Some(format!("idle-tax={tax}")),
        (Some(policy), Some(tax)) if policy == "idle-tax" => Some(format!("idle-tax={tax}")),
        (Some(policy), Some(_)) => anyhow::bail!("`{policy}` has no tax"),
        (policy, None) => policy.clone(),
    };
    step(&format!("{} for {} virtual seconds", args.scenario.name(), args.scenario.seconds()));
    let folder = workspace.out.join("memory").join(args.scenario.name());
    let series = measure(workspace, args.scenario, policy.as_deref(), folder, Duration::from_secs(args.timeout))?;
    print!("{}", series.table());
    if let Some(file) = &args.csv {
        build::write(file, series.csv().as_bytes())?;
    }
    if let Some(file) = &args.plot {
        build::write(file, plot::draw(&series, args.scenario.name())?.as_bytes())?;
    }
    Ok(())
}

/// Runs a scenario with what is built, in a folder.
///
/// # Errors
/// Fails when the run does not come to its end.
pub fn measure(
    workspace: &Workspace,
    scenario: Scenario,
    policy: Option<&str>,
    folder: PathBuf,
    limit: Duration,
) -> Result<Series> {
    let script = scenario.script(policy);
    let mut machine = Machine::oxen(workspace, "script=@memory.xl debug-exit");
    machine.folder = folder;
    let log = machine.folder.join("run.log");
    let files = [("memory.xl".to_owned(), script.into_bytes())];
    Series::read(&session::run_counted(workspace, machine, &files, limit)?)
        .with_context(|| format!("transcript: {}", log.display()))
}
