//! `cargo xtask test`: the host's tests, then those that boot QEMU; the last line counts both.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::build;
use crate::crates;
use crate::emulator::Kind;
use crate::process::{cargo, nightly, shown, step, succeeds};
use crate::reproducible;
use crate::setup::{self, Need, require};
use crate::workspace::Workspace;

/// The name under which the models are run alone.
pub(crate) const MODELS: &str = "loom";

/// What `cargo xtask test` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Run only tests whose name holds this text
    #[arg(default_value = "")]
    filter: String,
    /// Only the tests that run on this machine
    #[arg(long, conflicts_with = "qemu")]
    host: bool,
    /// Only the tests that boot QEMU
    #[arg(long)]
    qemu: bool,
    /// Boot the tests on this Xen binary instead of Oxen's hypervisor
    #[arg(long, value_name = "XEN", conflicts_with = "host")]
    xen: Option<std::path::PathBuf>,
    /// Run on another machine than the installed QEMU: what it judges of the tests that boot one
    #[arg(long, value_enum, default_value_t = Kind::Qemu, conflicts_with_all = ["host", "xen"])]
    machine: Kind,
    /// Keep every CPU of this machine busy while tests boot QEMU: what depends on timing shows
    #[arg(long, conflicts_with = "host")]
    burn: bool,
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    /// Adds what a line of a test program's output reports.
    fn read(&mut self, line: &str) {
        let Some(rest) = line.trim().strip_prefix("test result: ") else { return };
        for part in rest.split(['.', ';']) {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// Runs the tests, prints the counts, and makes an exit status of them.
///
/// # Errors
/// Fails when the tests could not be run at all.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let begun = Instant::now();
    let mut counts = Counts::default();
    // Missing headers skip a test; they do not stop the others.
    if let Err(error) = require(&[Need::XenHeaders]) {
        eprintln!("{error:#}");
    }
    if args.filter == MODELS {
        models(workspace, &mut counts)?;
        return Ok(report(counts, begun));
    }
    let is_elsewhere = args.machine != Kind::Qemu;
    let is_whole = args.filter.is_empty() && !is_elsewhere && args.xen.is_none() && !args.burn;
    if !args.qemu && !is_elsewhere {
        step("tests on this machine");
        let mut tests = cargo();
        tests.args(["test", "--quiet", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast", "--"]);
        tests.arg(&args.filter);
        run_counted(workspace, &mut tests, &mut counts)?;
        // The examples in the documentation of the crates for guests' authors.
        let mut examples = cargo();
        examples.args(["test", "--quiet", "--doc", "--no-fail-fast"]);
        crates::PACKAGES.iter().for_each(|package| _ = examples.args(["--package", package]));
        examples.args(["--features", "oxen-domu-lib/ip-segmentation"]);
        run_counted(workspace, examples.arg("--").arg(&args.filter), &mut counts)?;
        if args.filter.is_empty() {
            miri(workspace, &mut counts)?;
        }
    }
    if !args.host {
        require(&[Need::Qemu, Need::FileSystemTools])?;
        setup::target()?;
        // What cannot be built fails as one test, so that the counts of the others are still printed.
        match build::all(workspace).and_then(|()| build::probe(workspace)) {
            Ok(()) => {
                if is_whole {
                    elsewhere(workspace, &mut counts);
                }
                step(&format!("tests on the machine {}", args.machine.name()));
                let mut tests = scenarios(args.machine, &args.filter);
                if let Some(xen) = &args.xen {
                    tests.arg("--xen").arg(std::fs::canonicalize(xen).context("no such Xen binary")?);
                }
                if args.burn {
                    tests.arg("--burn");
                }
                run_counted(workspace, &mut tests, &mut counts)?;
                // All tests are also a short look on every other machine that can be had.
                if is_whole {
                    for machine in Kind::OTHERS {
                        step(&format!("a short look on the machine {}", machine.name()));
                        run_counted(workspace, scenarios(machine, "").arg("--smoke"), &mut counts)?;
                    }
                }
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                counts.failed += 1;
            }
        }
    }
    Ok(report(counts, begun))
}

/// Prints the counts, and makes an exit status of them.
fn report(counts: Counts, begun: Instant) -> ExitCode {
    eprintln!("    all tests: {:.0} s", begun.elapsed().as_secs_f32());
    let skipped = if counts.skipped > 0 { format!(", {} skipped", counts.skipped) } else { String::new() };
    println!("{} passed, {} failed{skipped}", counts.passed, counts.failed);
    if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tries every interleaving of what CPUs do at once, as far as there are models of it. They have a folder of their own:
/// everything is built for loom there.
fn models(workspace: &Workspace, counts: &mut Counts) -> Result<()> {
    step("models under loom");
    let mut tests = cargo();
    tests.args(["test", "--quiet", "--profile", "models", "-p", "oxen-ring", "-p", "oxen-hv", "--test", "models"]);
    // What another test makes its world of meanwhile would be taken for a part of the model.
    tests.args(["--", "--test-threads=1"]);
    tests.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", workspace.out.join("loom"));
    run_counted(workspace, &mut tests, counts)
}

/// Builds the hypervisor once more in another folder: the same bytes come of it.
fn elsewhere(workspace: &Workspace, counts: &mut Counts) {
    step("the hypervisor from another folder");
    match reproducible::hypervisor(workspace) {
        Ok(()) => {
            println!("test the_hypervisor_is_the_same_from_another_folder ... ok");
            counts.passed += 1;
        }
        Err(error) => {
            println!("test the_hypervisor_is_the_same_from_another_folder ... FAILED\n{error:#}");
            counts.failed += 1;
        }
    }
}

/// The command that runs the scenarios that a machine judges.
fn scenarios(machine: Kind, filter: &str) -> Command {
    let mut tests = cargo();
    tests.args(["run", "--quiet", "--package", "oxen-qemu-tests", "--", "--machine", machine.name()]).arg(filter);
    tests
}

/// The rooms of the hypervisor's lib that share words between CPUs, or read what strangers wrote. The others are pure,
/// and their tests go through more cases than Miri has time for.
const SHARED_ROOMS: [&str; 7] = ["addr::", "console::", "event::", "firmware::", "grant::", "mem::guest_ptr", "pci::"];

/// Runs the tests of the crates that share memory with strangers under Miri, where a nightly toolchain has it.
fn miri(workspace: &Workspace, counts: &mut Counts) -> Result<()> {
    if !succeeds(&mut nightly(&["cargo", "miri", "--version"])) {
        println!("test abi, ring and hv under Miri ... skipped: no nightly toolchain with Miri");
        counts.skipped += 1;
        return Ok(());
    }
    step("abi, ring and hv under Miri");
    // The hypervisor's tests leave what lives as long as a machine does to the end of the program.
    let ignored = "-Zmiri-ignore-leaks";
    for (packages, rooms, more) in
        [(&["oxen-abi", "oxen-ring"][..], &[][..], ""), (&["oxen-hv"], &SHARED_ROOMS, ignored)]
    {
        let mut tests = nightly(&["cargo", "miri", "test", "--quiet", "--lib"]);
        packages.iter().for_each(|package| _ = tests.args(["-p", package]));
        // Miri is some hundred times slower than the machine; proptest asks where it is.
        tests.env("PROPTEST_CASES", "4").env("MIRIFLAGS", format!("-Zmiri-disable-isolation {more}"));
        tests.arg("--").args(rooms);
        run_counted(workspace, &mut tests, counts)?;
    }
    Ok(())
}

/// Runs a test program, repeats its output, and counts. A program that ends badly without saying so is one failure.
fn run_counted(workspace: &Workspace, command: &mut Command, counts: &mut Counts) -> Result<()> {
    command.current_dir(&workspace.root).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
    let failed_before = counts.failed;
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        counts.read(&line);
        println!("{line}");
    }
    if !child.wait()?.success() && counts.failed == failed_before {
        eprintln!("error: `{}` failed without naming a test", shown(command));
        counts.failed += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn results_are_added_up() {
        let mut counts = Counts::default();
        counts.read("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.04s");
        counts.read("test a ... ok");
        counts.read("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(counts, Counts { passed: 13, failed: 2, skipped: 1 });
    }
}
