//! `cargo xtask doctor`: what is here, what is missing, and which faults this QEMU has.

use std::process::Command;

use anyhow::Result;

use crate::process::{find, output};
use crate::setup::{self, Need};
use crate::workspace::BARE_METAL;

/// A fault of QEMU's instruction emulation that guests can notice.
struct Fault {
    /// The first version without it; `None` where none is known.
    mended: Option<(u32, u32)>,
    what: &'static str,
}

const FAULTS: [Fault; 4] = [
    Fault { mended: Some((8, 0)), what: "`int n` in long mode gives a wrong #GP error code" },
    Fault {
        mended: Some((8, 0)),
        what: "where the CPU model shows SMAP, iretq and lretq to ring 3 take a bogus page fault (we use -smap)",
    },
    Fault { mended: Some((11, 0)), what: "#DB after MOV SS is not deferred; #GP is raised where #SS is due" },
    Fault { mended: Some((11, 0)), what: "WRFSBASE takes a non-canonical value" },
];

/// Prints the findings.
///
/// # Errors
/// Fails when something that running needs is missing.
pub fn run() -> Result<()> {
    let rustc = output(Command::new("rustc").arg("--version"), "").unwrap_or_default();
    say(!rustc.is_empty(), &format!("Rust: {}", rustc.trim()));
    say(setup::has_target(), &format!("target {BARE_METAL}"));
    for need in Need::ALL {
        say(need.is_met(), &format!("{need:?} ({})", need.packages().join(" ")));
    }
    match qemu_version() {
        Some((major, minor)) => {
            println!("      QEMU {major}.{minor}, known faults of its emulation:");
            for fault in FAULTS.iter().filter(|f| f.mended.is_none_or(|mended| (major, minor) < mended)) {
                println!("        - {}", fault.what);
            }
        }
        None => println!("      QEMU's version cannot be told"),
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

/// QEMU's version as major and minor number.
#[must_use]
pub fn qemu_version() -> Option<(u32, u32)> {
    find("qemu-system-x86_64")?;
    let text = output(Command::new("qemu-system-x86_64").arg("--version"), "").ok()?;
    let mut numbers = text.split_once("version ")?.1.split(['.', ' ', '(']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.trim().parse().ok()?))
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
