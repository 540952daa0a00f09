//! `cargo xtask doctor`: what is here, what is missing, and which faults this QEMU has.

use std::process::Command;

use anyhow::Result;

use crate::book;
use crate::emulator::{Emulator, Kind};
use crate::faults::FAULTS;
use crate::process::output;
use crate::qemu::CPU;
use crate::setup::{self, Need};
use crate::workspace::{BARE_METAL, Workspace};

/// Prints the findings.
///
/// # Errors
/// Fails when something that running needs is missing.
pub fn run(workspace: &Workspace) -> Result<()> {
    let rustc = output(Command::new("rustc").arg("--version"), "").unwrap_or_default();
    say(!rustc.is_empty(), &format!("Rust: {}", rustc.trim()));
    say(setup::has_target(), &format!("target {BARE_METAL}"));
    for need in Need::ALL {
        say(need.is_met(), &format!("{need:?} ({})", need.packages().join(" ")));
    }
    let installed = Emulator::default();
    match installed.qemu_version() {
        Some(version @ (major, minor)) => {
            println!("      QEMU {major}.{minor}, known faults of its emulation:");
            for fault in FAULTS.iter().filter(|fault| fault.is_in(version)) {
                let spared = fault.spared.map_or_else(String::new, |feature| format!(" (we use -{feature})"));
                println!("        - {}{spared}", fault.what);
            }
            println!("      CPU model of runs: {}", installed.sound_model(CPU, 1));
        }
        None => println!("      QEMU's version cannot be told"),
    }
    for kind in Kind::OTHERS {
        let here = Emulator::is_here(workspace, kind).then(|| Emulator::get(workspace, kind)?.title()).transpose();
        let name = kind.name();
        match here {
            Ok(Some(title)) => println!("ok    machine {name}: {title}"),
            Ok(None) => println!("      machine {name}: `cargo xtask test --machine {name}` fetches it with apt"),
            Err(error) => println!("MISSING machine {name}: {error:#}"),
        }
    }
    match book::title(workspace) {
        Some(title) => println!("ok    the book's HTML: {title}"),
        None => println!("      the book's HTML: `cargo xtask book` fetches mdBook with apt"),
    }
    println!("      KVM: {}", kvm());
    setup::target()?;
    if !Need::Qemu.is_met() {
        anyhow::bail!("QEMU is missing: `cargo xtask setup` installs it");
    }
    Ok(())
}

fn say(is_here: bool, what: &str) {
    println!("{} {what}", if is_here { "ok   " } else { "MISSING" });
}

/// Whether KVM truly runs a guest here: a present `/dev/kvm` may belong to a host that does not nest well.
fn kvm() -> &'static str {
    if !std::path::Path::new("/dev/kvm").exists() {
        return "absent; TCG is used";
    }
    // A machine without disk or kernel: its firmware runs until QEMU is told to leave.
    let mut probe = Command::new("timeout");
    probe.args(["10", "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-nodefaults", "-display", "none"]);
    probe.args(["-device", "isa-debug-exit", "-monitor", "stdio"]).stdin(std::process::Stdio::piped());
    let Ok(mut child) = probe.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn() else {
        return "cannot be tried; TCG is used";
    };
    if let Some(mut input) = child.stdin.take() {
        use std::io::Write as _;
        std::thread::sleep(std::time::Duration::from_secs(2));
        // Where QEMU has died already, its status says so.
        let _ = input.write_all(b"quit\n");
    }
    match child.wait() {
        Ok(status) if status.success() => "starts here; `--accel kvm --cpu host` uses it (TCG is the default)",
        _ => "present but does not work here; TCG is used",
    }
}
