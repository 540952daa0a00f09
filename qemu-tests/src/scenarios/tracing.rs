//! The hypervisor's trace, read by tools that are not ours.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use oxen_tools::session::Exit;
use oxen_tools::{disk, packages, trace};

use crate::browser::Browser;
use crate::lab::{Lab, Verdict};

/// Bytes of the disk that takes the trace.
const DISK: u64 = 64 << 20;

/// Runs a guest while dom0 takes the trace down, of which nothing may be lost; returns the disk with it.
fn traced(lab: &Lab<'_>, guest: &str) -> Result<PathBuf> {
    let script = format!("xl trace begin vdb; xl create {guest}.cfg; wait {guest}; xl trace end; poweroff");
    let mut machine = lab.machine(&script)?;
    machine.disks.push(disk::make(&lab.folder)?.0);
    let disk = lab.folder.join("trace.img");
    std::fs::File::create(&disk).and_then(|file| file.set_len(DISK)).context("no disk for the trace")?;
    machine.disks.push(disk.clone());
    machine.smp = 2;
    // On a busy host dom0 may come late to the rings.
    machine.append.push_str(" tbuf_size=1024 tevt_mask=0");
    lab.boot(&machine)?.ended(Exit::Success)?.says(" 0 lost, ")?;
    Ok(disk)
}

/// dom0 takes the trace of a guest's life down; Debian's `xenalyze` knows the domains and the hypercalls in it.
pub(super) fn xenalyze_reads_what_dom0_takes_down(lab: &Lab<'_>) -> Result<Verdict> {
    let xenalyze = match packages::unpack(lab.workspace, "xen-utils-common") {
        Ok(root) => root.join("usr/bin/xenalyze"),
        Err(error) => return Ok(Verdict::Skipped(format!("no xenalyze of Debian's: {error:#}"))),
    };
    let disk = traced(lab, "fs")?;
    let stream = lab.folder.join("trace.bin");
    std::fs::write(&stream, trace::stream_of(&disk)?)?;
    let told = Command::new(xenalyze).arg("--summary").arg(&stream).output().context("xenalyze does not run")?;
    let text = String::from_utf8_lossy(&told.stdout);
    for expected in ["|-- Domain 0 --|", "|-- Domain 1 --|", "update_va_mapping", "sched_op", "running:"] {
        ensure!(text.contains(expected), "xenalyze says nothing of `{expected}`:\n{text}");
    }
    ensure!(told.status.success(), "xenalyze fails: {}", String::from_utf8_lossy(&told.stderr));
    Ok(Verdict::Passed)
}

/// What is done in the page: the whole is seen, a part of it is zoomed into, a hypercall is found by its name, and its
/// arguments are read. What came of it stands in the page in the end.
const VISIT: &str = include_str!("tracing.js");

/// A browser opens the page of a guest's life and finds a hypercall with its arguments in it.
pub(super) fn a_browser_zooms_into_the_page_and_reads_a_hypercall(lab: &Lab<'_>) -> Result<Verdict> {
    let browser = match Browser::get(lab.workspace) {
        Ok(browser) => browser,
        Err(error) => return Ok(Verdict::Skipped(format!("no browser: {error:#}"))),
    };
    let page = trace::page_of(&traced(lab, "fs")?)?;
    let file = lab.folder.join("trace.html");
    let visited = page.replacen("<script>", &format!("<script>{ERRORS}</script><script>"), 1);
    std::fs::write(&file, format!("{visited}<script>{VISIT}</script>")).context("no page")?;
    let seen = browser.visit(&file, &lab.folder)?;
    let (_, told) =
        seen.split_once("<pre id=\"visit\">").with_context(|| format!("the visit came to no end:\n{seen}"))?;
    let told = told.split_once("</pre>").unwrap_or_default().0;
    println!("{told}");
    for expected in ["errors: none", "zoomed: true", "found: true", "arguments: true", "requests: true", "hidden: true"]
    {
        ensure!(told.contains(expected), "the page does not say `{expected}`:\n{told}");
    }
    Ok(Verdict::Passed)
}

/// What goes wrong in the page's own script is kept for the visit.
const ERRORS: &str = "window.wrong = []; window.onerror = (what) => { window.wrong.push(what); };";
