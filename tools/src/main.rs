//! `cargo xtask`: build, run, test and measure Oxen.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use oxen_tools::emulator::Emulator;
use oxen_tools::workspace::Workspace;
use oxen_tools::{
    bench, build, check, crates, doctor, fuzz, gallery, gdb, image, loc, new_guest, process, qemu, reproducible, run,
    setup, test,
};

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
    /// Test on this machine and in QEMU; the last line counts
    Test(test::Args),
    /// Check formatting, clippy, links of the documentation, dependencies and the house rules
    Check,
    /// Build everything here and in another folder, and compare the bytes: long
    Reproducible,
    /// Count lines, unsafe lines and the largest files
    Loc,
    /// Say what is here, what is missing, and which faults this QEMU has
    Doctor,
    /// Measure the primitives in instructions, beside Xen's figures
    Bench(bench::Args),
    /// Look for inputs that break a part; or ask real Xen and Oxen the same things, drawn from seeds, and compare the answers
    Fuzz(fuzz::Args),
    /// Boot the kernels of distributions as guests, and compare their logs with those on real Xen
    Gallery(gallery::Args),
    /// Boot a machine that waits for gdb
    Gdb(gdb::Args),
    /// Lay out a guest crate that builds and boots
    NewGuest {
        /// The crate's name, or a path that ends in it: any folder will do
        name: std::path::PathBuf,
        /// The folder in which its folder is made
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        r#in: std::path::PathBuf,
    },
    /// Package the crates for guests' authors as for a registry, and build each from its package: nothing is published
    Package,
    /// Make an ISO image that GRUB boots
    Image {
        /// Commands for dom0, parted by semicolons
        #[arg(long, value_name = "COMMANDS")]
        script: Option<String>,
    },
}

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
        Verb::Test(args) => return test::run(&workspace, &args),
        Verb::Check => check::all(&workspace),
        Verb::Reproducible => reproducible::run(&workspace),
        Verb::Loc => loc::run(&workspace),
        Verb::Doctor => doctor::run(&workspace),
        Verb::Bench(args) => bench::run(&workspace, &args),
        Verb::Fuzz(args) => fuzz::run(&workspace, &args),
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
