//! The program that runs the scenarios; `cargo xtask test` builds what they boot, then calls it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use oxen_qemu_tests::burn::Burning;
use oxen_qemu_tests::{runner, scenarios};
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
    let (chosen, others): (Vec<_>, Vec<_>) =
        scenarios::all().into_iter().partition(|scenario| scenario.is_meant_by(&args.filter));
    if args.list {
        for scenario in &chosen {
            println!("{}", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    println!("running {} scenarios", chosen.len());
    let _burning = args.burn.then(|| Burning::start(cpus));
    let counts = runner::run(&workspace, &chosen, args.xen.as_deref(), args.jobs.unwrap_or(cpus));
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
