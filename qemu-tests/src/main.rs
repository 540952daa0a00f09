//! The program that runs the scenarios; `cargo xtask test` builds what they boot, then calls it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use oxen_qemu_tests::burn::Burning;
use oxen_qemu_tests::runner::{self, Place};
use oxen_qemu_tests::{core, scenarios};
use oxen_tools::emulator::{Emulator, Kind};
use oxen_tools::workspace::Workspace;

/// Boot QEMU and judge what comes out
#[derive(Debug, Parser)]
struct Args {
    /// Run only scenarios whose name holds this text
    #[arg(default_value = "")]
    filter: String,
    /// Put this Xen binary in the hypervisor's place
    #[arg(long, value_name = "XEN")]
    xen: Option<PathBuf>,
    /// Run what this machine judges, on it
    #[arg(long, value_enum, default_value_t = Kind::Qemu)]
    machine: Kind,
    /// Run only the few scenarios of a short look
    #[arg(long)]
    smoke: bool,
    /// Scenarios at a time [default: the number of CPUs]
    #[arg(long)]
    jobs: Option<usize>,
    /// Keep every CPU busy meanwhile
    #[arg(long)]
    burn: bool,
    /// Name the scenarios instead of running them
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let workspace = match Workspace::open() {
        Ok(workspace) => workspace,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let (chosen, others): (Vec<_>, Vec<_>) = scenarios::all().into_iter().partition(|scenario| {
        scenario.is_meant_by(&args.filter) && core::judges(args.machine, scenario.name, args.smoke)
    });
    if args.list {
        for scenario in &chosen {
            println!("{}", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (emulator, title) = match Emulator::get(&workspace, args.machine).and_then(|it| Ok((it.clone(), it.title()?))) {
        Ok(found) => found,
        Err(error) => {
            // A machine that was asked for by name must be there; one of many may be missing.
            println!(
                "test the machine {} ... {}: {error:#}",
                args.machine.name(),
                if args.smoke { "skipped" } else { "FAILED" }
            );
            let (word, failed) = if args.smoke { ("ok", 0) } else { ("FAILED", 1) };
            println!(
                "test result: {word}. 0 passed; {failed} failed; {} ignored; 0 measured; 0 filtered out",
                1 - failed
            );
            return if args.smoke { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    println!("running {} scenarios on {title}", chosen.len());
    let _burning = args.burn.then(|| Burning::start(cpus));
    let place = Place { workspace: &workspace, xen: args.xen.as_deref(), emulator: &emulator };
    let counts = runner::run(place, &chosen, args.jobs.unwrap_or(cpus));
    let word = if counts.failed == 0 { "ok" } else { "FAILED" };
    println!(
        "test result: {word}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out",
        counts.passed,
        counts.failed,
        counts.skipped,
        others.len()
    );
    if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
