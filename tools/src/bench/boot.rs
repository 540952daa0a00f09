//! `cargo xtask bench boot`: how long Debian's kernel takes as a guest, and what it asks of the hypervisor meanwhile.
//!
//! Xen counts by its trace buffers, which Debian's `xentrace` and `xenalyze` read in a Linux dom0; Oxen by the build
//! with counters. Times come from builds that count nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::linux::{self, Ramdisk};
use crate::process::step;
use crate::qemu::{self, Machine};
use crate::run::dom0_args;
use crate::session::Session;
use crate::workspace::Workspace;
use crate::{build, debian, linux_dom0};

/// How often seconds are measured; the least count, as whatever else the machine does makes them more.
const RUNS: usize = 3;

/// What the guest's first program writes into the kernel's log, which notes the time.
const SHELL: &str = "the shell is there";

/// Names of hypercalls, by number (`xen.h`).
const HYPERCALLS: [(u32, &str); 23] = [
    (0, "set_trap_table"),
    (1, "mmu_update"),
    (2, "set_gdt"),
    (3, "stack_switch"),
    (5, "fpu_taskswitch"),
    (8, "set_debugreg"),
    (10, "update_descriptor"),
    (12, "memory_op"),
    (13, "multicall"),
    (14, "update_va_mapping"),
    (17, "xen_version"),
    (18, "console_io"),
    (20, "grant_table_op"),
    (21, "vm_assist"),
    (23, "iret"),
    (24, "vcpu_op"),
    (25, "set_segment_base"),
    (26, "mmuext_op"),
    (29, "sched_op"),
    (30, "callback_op"),
    (32, "event_channel_op"),
    (33, "physdev_op"),
    (40, "xenpmu_op"),
];

/// What is counted besides hypercalls: as the table has it, in Oxen's words, in xenalyze's.
const OTHERS: [(&str, &str, &str); 6] = [
    ("instructions emulated: privileged", "privileged instructions", "emulate privop"),
    ("instructions emulated: writes to page tables", "page table writes", "ptwr"),
    ("instructions emulated: `cpuid` by prefix", "forced cpuid", "forced_invalid_op"),
    ("page faults handed to the guest", "page faults", "page_fault"),
    ("other exceptions handed to the guest", "other exceptions", "trap"),
    ("hypercalls in multicalls", "of them in multicalls", "hypercall (subcall)"),
];

/// The boots on one hypervisor, with one number of vcpus.
#[derive(Clone, Debug, Default)]
struct Boots {
    /// The guest's own clock at its shell, in instructions of the machine (virtual nanoseconds).
    instructions: f64,
    /// From `xl create` to the guest's shell, in seconds of the host's CPU.
    seconds: f64,
    /// What was asked how often: hypercalls by number, the others by their name in the table.
    counts: BTreeMap<String, u64>,
}

/// Measures one and two vcpus, on `ours` and on real Xen where they are asked for, and prints the table.
///
/// # Errors
/// Fails when something cannot be built or fetched, or a guest does not come to its shell.
pub(super) fn run(workspace: &Workspace, ours: bool, xen: Option<&Path>, limit: Duration) -> Result<()> {
    build::all(workspace)?;
    build::counting_hypervisor(workspace)?;
    let mut columns = Vec::new();
    for vcpus in [1, 2] {
        let bench = Bench { workspace, files: files(workspace, vcpus)?, limit };
        let hypervisors = [("Oxen", None)].into_iter().filter(|_| ours).chain(xen.map(|xen| ("Xen", Some(xen))));
        for (name, xen) in hypervisors {
            let name = format!("{name}, {vcpus} {}", if vcpus == 1 { "vcpu" } else { "vcpus" });
            step(&format!("boot on {name}"));
            columns.push((name, bench.boots(xen)?));
        }
    }
    print!("{}", table(&columns));
    Ok(())
}

/// Kernel, ramdisk and configuration of the guest.
fn files(workspace: &Workspace, vcpus: u32) -> Result<Vec<(String, Vec<u8>)>> {
    let kernel = debian::vmlinuz(workspace)?;
    let kernel = std::fs::read(&kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let ramdisk = Ramdisk::new(workspace, "linux").script(&format!("echo {SHELL} > /dev/kmsg")).build()?;
    let config = format!(
        "name = \"linux\"\nkernel = \"guests/linux\"\nramdisk = \"guests/linux.initrd\"\nmemory = 256\n\
         vcpus = {vcpus}\ncmdline = \"{}\"\n",
        linux::CMDLINE
    );
    Ok(vec![
        ("guests/linux".to_owned(), kernel),
        ("guests/linux.initrd".to_owned(), ramdisk),
        ("linux.cfg".to_owned(), config.into_bytes()),
    ])
}

/// What all boots of one guest have in common.
struct Bench<'a> {
    workspace: &'a Workspace,
    files: Vec<(String, Vec<u8>)>,
    limit: Duration,
}

impl Bench<'_> {
    /// One boot by instructions, some by the clock, one that is counted.
    fn boots(&self, xen: Option<&Path>) -> Result<Boots> {
        let mut machine = self.machine(xen, false)?;
        let mut boots = Boots { seconds: f64::INFINITY, ..Boots::default() };
        for _ in 0..RUNS {
            boots.seconds = boots.seconds.min(self.boot(&machine)?.0);
        }
        machine.icount = true;
        boots.instructions = shell_at(&self.boot(&machine)?.1)? * 1e9;
        let mut machine = self.machine(xen, true)?;
        machine.icount = true;
        let (_, transcript) = self.boot(&machine)?;
        boots.counts = if xen.is_some() { counts_of_xen(&transcript) } else { counts_of_oxen(&transcript) };
        Ok(boots)
    }

    /// A machine whose dom0 creates the guest, says when, and shows what it said.
    fn machine(&self, xen: Option<&Path>, counting: bool) -> Result<Machine> {
        let folder = self.workspace.out.join(if xen.is_some() { "bench-boot-xen" } else { "bench-boot" });
        let mut machine = match xen {
            Some(xen) => {
                let script = if counting { XEN_COUNTING } else { XEN_SCRIPT };
                linux_dom0::machine(self.workspace, Some(xen), folder, script, &self.files)?
            }
            None => {
                let mut machine = Machine::oxen(self.workspace, &dom0_args(Some(OXEN_SCRIPT))?);
                machine.folder = folder;
                machine.append = machine.append.replace("dom0_mem=128M", "dom0_mem=512M");
                machine.memory = 1024;
                qemu::add_to_ramdisk(self.workspace, &mut machine, &self.files)?;
                if counting {
                    machine.hypervisor = self.workspace.out.join("hv-perfc");
                }
                machine
            }
        };
        machine.for_measurements();
        Ok(machine)
    }

    /// Boots; returns the seconds from the guest's creation to its shell, and all that was said.
    fn boot(&self, machine: &Machine) -> Result<(f64, String)> {
        let deadline = Instant::now() + self.limit;
        let mut session = Session::start(machine, false)?;
        session.wait_for(CREATES, deadline)?;
        let begun = session.cpu_seconds()?;
        session.wait_for(SHELL, deadline)?;
        let seconds = session.cpu_seconds()? - begun;
        Ok((seconds, session.finish(deadline)?.transcript))
    }
}

/// What dom0 says before it creates the guest: the command at Oxen's prompt.
const CREATES: &str = "xl create linux.cfg";
const OXEN_SCRIPT: &str = "xl create linux.cfg; xl wait linux; poweroff";
const XEN_SCRIPT: &str = "echo xl create linux.cfg; follow linux; create linux.cfg; finish linux 300\n";
/// The trace's events: the scheduler's changes, and all of paravirtual guests (`TRC_SCHED_MIN | TRC_PV`, `trace.h`).
const XEN_COUNTING: &str = "xentrace -D -S 8192 -e 0x22f000 /trace 2>/dev/null & usleep 500000\n\
    echo xl create linux.cfg; follow linux; create linux.cfg; finish linux 300\n\
    usleep 500000; kill %1; usleep 500000; xenalyze --summary /trace 2>/dev/null\n";

/// The kernel's time, in seconds since the guest's start, at which the shell was there.
fn shell_at(transcript: &str) -> Result<f64> {
    let line = transcript.lines().find(|line| line.ends_with(SHELL) && line.contains('['));
    let time = line.and_then(|line| line.split_once('[')?.1.split_once(']')?.0.trim().parse().ok());
    time.with_context(|| {
        let lines: Vec<&str> = transcript.lines().collect();
        format!(
            "the guest did not come to its shell:\n{}",
            lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
        )
    })
}

/// Reads what Oxen prints when domain 1 ends: `d1: hypercall 13: 42`, `d1: page faults: 7`.
fn counts_of_oxen(transcript: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in transcript.lines() {
        let Some((what, count)) = line.split_once("d1: ").and_then(|(_, rest)| rest.rsplit_once(": ")) else {
            continue;
        };
        let Ok(count) = count.trim().parse() else { continue };
        let number = what.strip_prefix("hypercall ").and_then(|number| number.parse().ok());
        let other = OTHERS.iter().find(|(_, oxens, _)| *oxens == what).map(|(name, ..)| (*name).to_owned());
        if let Some(name) = number.map(hypercall).or(other) {
            counts.insert(name, count);
        }
    }
    counts
}

/// Adds up xenalyze's summary of domain 1, which has a list for each vcpu: `  ptwr  812`, `    mmu_update   [ 1]:
/// 47321`. There, calls within multicalls are not among those by number.
fn counts_of_xen(transcript: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let domain = transcript.split("|-- Domain ").find(|part| part.starts_with("1 --|")).unwrap_or_default();
    for line in domain.lines() {
        if let Some((number, count)) = line.split_once('[').and_then(|(_, rest)| rest.split_once("]:")) {
            if let (Ok(number), Ok(count)) = (number.trim().parse(), count.trim().parse::<u64>()) {
                *counts.entry(hypercall(number)).or_default() += count;
            }
        } else if let Some((what, count)) = line.trim().rsplit_once("  ") {
            let other = OTHERS.iter().find(|(_, _, xens)| *xens == what.trim());
            if let (Some((name, ..)), Ok(count)) = (other, count.trim().parse::<u64>()) {
                *counts.entry((*name).to_owned()).or_default() += count;
            }
        }
    }
    counts
}

fn hypercall(number: u32) -> String {
    let name = HYPERCALLS.iter().find(|(known, _)| *known == number).map_or("another", |(_, name)| name);
    format!("hypercall {number:2} {name}")
}

/// The table, in the form that `docs/performance.md` holds.
fn table(columns: &[(String, Boots)]) -> String {
    let mut text = String::from("| Debian's kernel as a guest of 256 MiB |");
    columns.iter().for_each(|(name, _)| text.push_str(&format!(" {name} |")));
    text.push_str(&format!("\n|---|{}\n", "---:|".repeat(columns.len())));
    let mut row = |what: &str, cell: &dyn Fn(&Boots) -> String| {
        text.push_str(&format!("| {what} |"));
        columns.iter().for_each(|(_, boots)| text.push_str(&format!(" {} |", cell(boots))));
        text.push('\n');
    };
    row("start to shell, million instructions", &|boots| format!("{:.0}", boots.instructions / 1e6));
    row("`xl create` to shell, seconds", &|boots| format!("{:.2}", boots.seconds));
    let calls = |boots: &Boots| {
        boots.counts.iter().filter(|(name, _)| name.starts_with("hypercall ")).map(|(_, n)| n).sum::<u64>()
    };
    row("hypercalls", &|boots| calls(boots).to_string());
    let mut names: Vec<&String> = columns.iter().flat_map(|(_, boots)| boots.counts.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        row(name, &|boots| boots.counts.get(name).map_or_else(|| "0".to_owned(), u64::to_string));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Boots, counts_of_oxen, counts_of_xen, shell_at, table};

    #[test]
    fn both_hypervisors_counts_are_read() {
        let oxen = counts_of_oxen("(XEN) d1: hypercall 1: 47\nd0: hypercall 1: 9\nd1: page table writes: 8\n");
        assert_eq!(oxen.get("hypercall  1 mmu_update"), Some(&47));
        assert_eq!(oxen.get("instructions emulated: writes to page tables"), Some(&8));
        let xen = counts_of_xen(
            "|-- Domain 0 --|\n  ptwr  9\n|-- Domain 1 --|\n-- v0 --\n  ptwr  6\n  hypercall  40\n\
             \x20   mmu_update    [ 1]:  40\n-- v1 --\n  ptwr  2\n  hypercall  7\n    mmu_update    [ 1]:  7\n\
             Emulate eip list\n|-- Domain 32767 --|\n  ptwr  1\n",
        );
        assert_eq!(xen, oxen);
    }

    #[test]
    fn the_time_of_the_shell_is_the_kernels() {
        let said = "(linux) [    0.1] x\n(linux) [    3.471750] the shell is there\n";
        assert!(shell_at(said).is_ok_and(|time| (time - 3.471_75).abs() < 1e-9));
        assert!(shell_at("nothing").is_err());
    }

    #[test]
    fn a_row_for_each_count_and_a_column_for_each_boot() {
        let mut boots = Boots { instructions: 3.05e9, seconds: 1.5, ..Boots::default() };
        boots.counts.insert("hypercall  1 mmu_update".to_owned(), 3);
        let text = table(&[("Oxen".to_owned(), boots), ("Xen".to_owned(), Boots::default())]);
        assert!(text.contains("| start to shell, million instructions | 3050 | 0 |"), "{text}");
        assert!(text.contains("| hypercall  1 mmu_update | 3 | 0 |"), "{text}");
    }
}
