//! `cargo xtask bench io`: what disks and networks cost, with all who take part: guest, backends, hypervisor.
//!
//! The guest `io` has a disk in dom0's memory and two interfaces on one bridge, so no device of the host has a say. The
//! same guest runs on Oxen with its own dom0, on Oxen with a Linux dom0 and, where it is given, on real Xen with that.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Medians, number, read};
use crate::process::step;
use crate::qemu::{self, Machine};
use crate::run::dom0_args;
use crate::session::Session;
use crate::workspace::Workspace;
use crate::{build, disk, linux_dom0};

/// Bytes of the guest's disk.
const DISK: usize = 8 << 20;

/// What the guest measures: names in its lines, and what they are.
const ROWS: [(&str, &str); 7] = [
    ("block_read_kib", "disk: read 1 MiB, per KiB"),
    ("block_write_kib", "disk: write 1 MiB, per KiB"),
    ("block_read_4k", "disk: read 4 KiB alone"),
    ("net_frame_1514", "network: frame of 1,514 bytes, guest to bridge to guest, 64 at a time"),
    ("net_frame_60", "network: frame of 60 bytes, 64 at a time"),
    ("net_alone_60", "network: frame of 60 bytes alone"),
    ("net_large_kib", "network: TCP packets of 32 KiB that nobody cuts, per KiB"),
];

/// Who is dom0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dom0 {
    Own,
    Linux,
}

/// Measures, and prints the table.
///
/// # Errors
/// Fails when something cannot be built or fetched, or the guest does not come to its end.
pub(super) fn run(workspace: &Workspace, ours: bool, xen: Option<&Path>, limit: Duration) -> Result<()> {
    build::all(workspace)?;
    let mut columns = Vec::new();
    let mut measure = |name: &'static str, xen, dom0| {
        step(&format!("measure {name}"));
        columns.push((name, medians(&machine(workspace, xen, dom0)?, limit)?));
        Ok::<_, anyhow::Error>(())
    };
    if ours {
        measure("Oxen", None, Dom0::Own)?;
    }
    if ours && xen.is_some() {
        measure("Oxen, Linux as dom0", None, Dom0::Linux)?;
    }
    if xen.is_some() {
        measure("Xen, Linux as dom0", xen, Dom0::Linux)?;
    }
    print!("{}", table(&columns));
    Ok(())
}

/// A machine that creates the guest, waits for its end and powers off.
fn machine(workspace: &Workspace, xen: Option<&Path>, dom0: Dom0) -> Result<Machine> {
    let disk = if dom0 == Dom0::Own { "disk.img" } else { "/dev/loop0" };
    let config = format!(
        "name = \"io\"\nkernel = \"guests/io\"\nmemory = 32\ndisk = [\"phy:{disk},xvda,w\"]\n\
         vif = [\"bridge=xenbr0\", \"bridge=xenbr0\"]\n"
    );
    let files = vec![("disk.img".to_owned(), disk::noise(1, DISK)), ("bench-io.cfg".to_owned(), config.into_bytes())];
    let mut machine = match dom0 {
        Dom0::Own => {
            let mut machine =
                Machine::oxen(workspace, &dom0_args(Some("xl create bench-io.cfg; xl wait io; poweroff"))?);
            machine.folder = workspace.out.join("bench-io");
            qemu::add_to_ramdisk(workspace, &mut machine, &files)?;
            machine
        }
        Dom0::Linux => {
            let script = "losetup /dev/loop0 /disk.img; brctl addbr xenbr0; ip link set xenbr0 up\n\
                create bench-io.cfg; finish io 600";
            let folder = workspace.out.join(if xen.is_some() { "bench-io-xen" } else { "bench-io-linux" });
            linux_dom0::machine(workspace, xen, folder, script, &files)?
        }
    };
    machine.for_measurements();
    machine.icount = true;
    Ok(machine)
}

fn medians(machine: &Machine, limit: Duration) -> Result<Medians> {
    let mut session = Session::start(machine, false)?;
    let ended = session.wait_for("bench: done", Instant::now() + limit).map(drop);
    let medians = read(session.transcript());
    match ended {
        Ok(()) => Ok(medians),
        Err(error) => Err(error.context(format!("transcript: {}", machine.folder.join("run.log").display()))),
    }
}

/// The table, in the form that `docs/performance.md` holds.
fn table(columns: &[(&str, Medians)]) -> String {
    let mut text = "| instructions, median |".to_owned();
    for (name, _) in columns {
        text.push_str(&format!(" {name} |"));
    }
    text.push_str(&format!("\n|---|{}\n", "---:|".repeat(columns.len())));
    for (name, what) in ROWS {
        text.push_str(&format!("| {what} |"));
        for (_, medians) in columns {
            text.push_str(
                &medians.get(name).map_or_else(|| " – |".to_owned(), |value| format!(" {} |", number(*value))),
            );
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Medians, table};

    #[test]
    fn each_machine_has_a_column() {
        let one = Medians::from([("net_frame_60".to_owned(), 4476.0)]);
        let text = table(&[("Oxen", one), ("Xen", Medians::new())]);
        assert!(text.starts_with("| instructions, median | Oxen | Xen |\n|---|---:|---:|\n"));
        assert!(text.contains("| network: frame of 60 bytes, 64 at a time | 4476 | – |\n"));
    }
}
