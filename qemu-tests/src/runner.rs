//! Running scenarios side by side and reporting them as cargo's own tests are reported.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use oxen_tools::emulator::{Emulator, Kind};
use oxen_tools::workspace::Workspace;

use crate::lab::{Lab, Verdict};
use crate::scenarios::Scenario;

/// How many scenarios ended how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// The guarantee holds.
    pub passed: usize,
    /// It does not, or the scenario could not be run.
    pub failed: usize,
    /// It cannot be tried here.
    pub skipped: usize,
}

/// What scenarios run on.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The workspace, whose images stand built.
    pub workspace: &'a Workspace,
    /// The Xen binary that stands in the hypervisor's place, where one does.
    pub xen: Option<&'a Path>,
    /// What runs the machines.
    pub emulator: &'a Emulator,
}

/// Runs the scenarios, `jobs` at a time; each is reported when it ends.
#[must_use]
pub fn run(place: Place<'_>, scenarios: &[Scenario], jobs: usize) -> Counts {
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(Counts::default());
    let worker = || {
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            let begun = Instant::now();
            let result = one(place, scenario);
            let seconds = begun.elapsed().as_secs_f32();
            let Ok(mut counts) = counts.lock() else { return };
            match result {
                Ok(Verdict::Passed) => {
                    counts.passed += 1;
                    println!("test {} ... ok ({seconds:.1} s)", scenario.name);
                }
                Ok(Verdict::Skipped(why)) => {
                    counts.skipped += 1;
                    println!("test {} ... skipped: {why}", scenario.name);
                }
                Err(error) => {
                    counts.failed += 1;
                    println!("test {} ... FAILED ({seconds:.1} s): {error:#}", scenario.name);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(worker);
        }
    });
    counts.into_inner().unwrap_or_default()
}

fn one(place: Place<'_>, scenario: &Scenario) -> Result<Verdict> {
    let Place { workspace, xen, emulator } = place;
    let folder = workspace.out.join("tests");
    let folder = if emulator.kind == Kind::Qemu { folder } else { folder.join("on").join(emulator.kind.name()) };
    let lab = Lab::new(workspace, folder.join(scenario.name.replace("::", "/")), xen, emulator)?;
    (scenario.run)(&lab)
}
