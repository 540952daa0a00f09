//! `cargo xtask hostile`: as many random operations on the hypervisor's lib as one asks for,
//! everything counted again as they go.

use anyhow::Result;

use crate::process::{cargo, run, step};
use crate::workspace::Workspace;

/// What `cargo xtask hostile` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Operations of each suite
    #[arg(long, default_value_t = 1_000_000)]
    operations: u64,
    /// Where the draw begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is played with; may be said several times
    #[arg(long = "suite", value_enum, default_values_t = [Suite::Memory, Suite::Grants, Suite::Events, Suite::Fifo])]
    suites: Vec<Suite>,
}

/// What operations are drawn on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    /// Page tables and reservations
    Memory,
    /// Grant tables, beside a model
    Grants,
    /// Event channels of two levels, beside a model
    Events,
    /// Event channels in queues, beside a model
    Fifo,
}

impl Suite {
    /// The test program of the hypervisor that has it.
    const fn program(self) -> &'static str {
        match self {
            Self::Memory => "memory_ops",
            Self::Grants => "grant_ops",
            Self::Events => "event_ops",
            Self::Fifo => "fifo_ops",
        }
    }
}

/// Runs the suites, one after the other.
///
/// # Errors
/// Fails when a law is broken: the message before says which, and the seed repeats it.
pub fn hostile(workspace: &Workspace, args: &Args) -> Result<()> {
    for suite in &args.suites {
        let program = suite.program();
        step(&format!("{program}: {} operations from seed {} on", args.operations, args.seed));
        let mut tests = cargo();
        tests.args(["test", "--quiet", "--profile", "hostile", "--package", "oxen-hv", "--test", program, "--"]);
        tests.args(["--ignored", "--exact", "--nocapture", "hostile_operations"]);
        tests.env("OXEN_HOSTILE_OPERATIONS", args.operations.to_string());
        tests.env("OXEN_HOSTILE_SEED", args.seed.to_string());
        tests.current_dir(&workspace.root);
        run(&mut tests, "the same seed repeats it; a number of operations just beyond the last progress is enough")?;
    }
    Ok(())
}
