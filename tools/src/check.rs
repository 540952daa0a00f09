//! `cargo xtask check`: formatting, clippy for the host and for bare metal, the house rules.

use anyhow::{Result, bail};

use crate::process::{cargo, run, step};
use crate::workspace::{BARE_METAL, Workspace};
use crate::{citations, rules, setup};

/// Checks all, and reports everything before it fails.
///
/// # Errors
/// Fails when one check does.
pub fn all(workspace: &Workspace) -> Result<()> {
    setup::target()?;
    let mut failed = Vec::new();
    let mut check = |name: &'static str, args: &[&str], hint: &str| {
        step(name);
        if let Err(error) = run(cargo().current_dir(&workspace.root).args(args), hint) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    };
    check("formatting", &["fmt", "--all", "--check"], "`cargo fmt --all` mends it");
    let strict = ["--", "-D", "warnings"];
    let host = ["clippy", "--quiet", "--workspace", "--lib", "--bins", "--tests"];
    check("clippy, host", &[&host[..], &strict].concat(), "see the warnings above");
    let bare = ["clippy", "--quiet", "--target", BARE_METAL, "-p", "oxen-hv", "-p", "oxen-domu-lib", "-p", "oxen-dom0"];
    let programs = ["--lib", "--bins", "--examples"];
    check("clippy, bare metal", &[&bare[..], &programs, &strict].concat(), "see the warnings above");
    let counting =
        ["clippy", "--quiet", "--target", BARE_METAL, "-p", "oxen-hv", "--features", "perfc", "--lib", "--bins"];
    check("clippy, counting", &[&counting[..], &strict].concat(), "see the warnings above");
    step("house rules");
    let mut findings = rules::judge(workspace)?;
    findings.broken.extend(citations::judge(workspace)?);
    for note in &findings.notes {
        eprintln!("note: {note}");
    }
    for broken in &findings.broken {
        eprintln!("{broken}");
    }
    if !findings.broken.is_empty() {
        failed.push("house rules");
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
