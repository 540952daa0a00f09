//! `cargo xtask`: build, run, test and measure Oxen.

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser as _};
use oxen_tools::cli::{Cli, Verb};
use oxen_tools::emulator::Emulator;
use oxen_tools::workspace::Workspace;
use oxen_tools::{
    bench, book, build, check, crates, doctor, fuzz, gallery, gdb, hostile, image, loc, memory, new_guest, process,
    qemu, reproducible, run, setup, test, trace,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match perform(cli.verb) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(verb: Verb) -> Result<ExitCode> {
    let workspace = Workspace::open()?;
    match verb {
        Verb::Setup => setup::all(),
        Verb::Build => build::all(&workspace),
        Verb::Run(args) => run::run(&workspace, &args),
        Verb::Trace(args) => trace::run(&workspace, &args),
        Verb::Test(args) => return test::run(&workspace, &args),
        Verb::Check => check::all(&workspace, &Cli::command()),
        Verb::Book(args) => book::run(&workspace, &Cli::command(), &args),
        Verb::Reproducible => reproducible::run(&workspace),
        Verb::Loc => loc::run(&workspace),
        Verb::Doctor => doctor::run(&workspace),
        Verb::Bench(args) => bench::run(&workspace, &args),
        Verb::Memory(args) => memory::run(&workspace, &args),
        Verb::Fuzz(args) => fuzz::run(&workspace, &args),
        Verb::Hostile(args) => hostile::hostile(&workspace, &args),
        Verb::Gallery(args) => gallery::run(&workspace, &args),
        Verb::Gdb(args) => gdb::run(&workspace, &args),
        Verb::NewGuest { name, r#in: parent } => new_guest::run(&workspace, &parent, &name),
        Verb::Package => crates::run(&workspace),
        Verb::Image { script } => build::all(&workspace).and_then(|()| {
            let image = workspace.out.join("oxen.iso");
            image::make(&workspace, script.as_deref(), &image)?;
            let cpu = Emulator::default().sound_model(qemu::CPU, 1);
            process::step(&format!("boot it: qemu-system-x86_64 -cpu {cpu} -nographic -cdrom {}", image.display()));
            Ok(())
        }),
    }?;
    Ok(ExitCode::SUCCESS)
}
