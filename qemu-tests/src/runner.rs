//! Running scenarios side by side and reporting them as cargo's own tests are reported.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
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

/// Runs the scenarios, `jobs` at a time; each is reported when it ends.
pub fn run(workspace: &Workspace, scenarios: &[Scenario], xen: Option<&Path>, jobs: usize) -> Counts {
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(Counts::default());
    let worker = || {
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            let begun = Instant::now();
            let result = one(workspace, scenario, xen);
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

fn one(workspace: &Workspace, scenario: &Scenario, xen: Option<&Path>) -> Result<Verdict> {
    let folder = workspace.out.join("tests").join(scenario.name.replace("::", "/"));
    let lab = Lab::new(workspace, folder, xen)?;
    (scenario.run)(&lab)
}
