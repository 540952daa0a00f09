//! `cargo xtask`: build, run, test and measure Oxen.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use oxen_tools::workspace::Workspace;
use oxen_tools::{build, run, setup};

/// Build, run, test and measure Oxen
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install what is missing: the bare-metal target, QEMU
    Setup,
    /// Build hypervisor, dom0, guests and ramdisk into target/oxen
    Build,
    /// Boot Oxen in QEMU: at a terminal to dom0's prompt, otherwise the demo or --script
    Run(Box<run::Args>),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match perform(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(verb: Verb) -> Result<()> {
    let workspace = Workspace::open()?;
    match verb {
        Verb::Setup => setup::all(),
        Verb::Build => build::all(&workspace),
        Verb::Run(args) => run::run(&workspace, &args),
    }
}
