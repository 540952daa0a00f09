//! `cargo xtask check`: formatting, clippy for the host and for bare metal, links of the documentation, the book,
//! unused dependencies, the house rules.

use anyhow::{Result, bail};

use crate::process::{cargo, run, step};
use crate::workspace::{BARE_METAL, Workspace};
use crate::{book, citations, dependencies, rules, setup};

/// Links that lead nowhere are errors, in what is private too.
const BROKEN_LINKS: &str = "-D rustdoc::broken_intra_doc_links";

/// Checks all, and reports everything before it fails; `xtask` is the command that the book tells of.
///
/// # Errors
/// Fails when one check does.
pub fn all(workspace: &Workspace, xtask: &clap::Command) -> Result<()> {
    setup::target()?;
    let mut failed = Vec::new();
    let mut check = |name: &'static str, args: &[&str], hint: &str| {
        step(name);
        let mut command = cargo();
        command.current_dir(&workspace.root).args(args).env("RUSTDOCFLAGS", BROKEN_LINKS);
        if let Err(error) = run(&mut command, hint) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    };
    check("formatting", &["fmt", "--all", "--check"], "`cargo fmt --all` mends it");
    let strict = ["--", "-D", "warnings"];
    let host = ["clippy", "--quiet", "--workspace", "--lib", "--bins", "--tests"];
    check("clippy, host", &[&host[..], &strict].concat(), "see the warnings above");
    let bare = ["clippy", "--quiet", "--target", BARE_METAL, "-p", "oxen-hv", "-p", "oxen-domu-lib", "-p", "oxen-dom0"];
    let programs = ["--features", "oxen-domu-lib/ip-segmentation", "--lib", "--bins", "--examples"];
    check("clippy, bare metal", &[&bare[..], &programs, &strict].concat(), "see the warnings above");
    let counting =
        ["clippy", "--quiet", "--target", BARE_METAL, "-p", "oxen-hv", "--features", "perfc", "--lib", "--bins"];
    check("clippy, counting", &[&counting[..], &strict].concat(), "see the warnings above");
    let links = "name what the link should lead to";
    let private = ["doc", "--quiet", "--no-deps", "--document-private-items"];
    check("links, host", &[&private[..], &["--workspace", "--lib"]].concat(), links);
    let machine = ["--target", BARE_METAL, "-p", "oxen-hv", "-p", "oxen-domu-lib", "-p", "oxen-dom0"];
    check("links, bare metal", &[&private[..], &machine, &["--lib", "--bins"]].concat(), links);
    step("dependencies");
    let unused = dependencies::judge(workspace)?;
    for dependency in &unused {
        eprintln!("{dependency}");
    }
    if !unused.is_empty() {
        failed.push("dependencies");
    }
    step("the book");
    let wrong = book::judge(workspace, xtask)?;
    for finding in &wrong {
        eprintln!("{finding}");
    }
    if !wrong.is_empty() {
        failed.push("the book");
    }
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
