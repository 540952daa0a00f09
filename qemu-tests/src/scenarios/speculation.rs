//! Defences against speculative execution: on CPU models that announce the controls, all of it switched on, guests run
//! as ever, and what is done is said. That a CPU then guesses less, no emulator shows.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use oxen_tools::linux::Ramdisk;
use oxen_tools::qemu::{CPU, Machine, Module};
use oxen_tools::session::{Exit, Session};

use super::complaints::content;
use super::hypercalls::{judge, probe};
use super::linux::{linux, with_guests};
use crate::lab::{LIMIT, Lab, Verdict};
use crate::qmp::{self, Control};

/// What QEMU's models have and TCG does not emulate is taken away again where a model is taken at its word: then it
/// announces the controls, and drops what is written to their registers.
const AT_ITS_WORD: &str = "-smap,-tsc-deadline,-x2apic,-pcid,-invpcid,-xsavec,-xsaves,-rtm,-hle,x-force-features=on";
/// Every defence that has a word of its own.
const ALL: &str = "spec-ctrl=pv,ibrs,stibp,ssbd,ibpb,div-scrub,bhb-seq=long xpti pv-l1tf";

/// Such a machine of Intel's, or of AMD's.
fn defended(lab: &Lab<'_>, mut machine: Machine, model: &str, words: &str) -> Result<Machine, Verdict> {
    if lab.xen.is_some() || lab.emulator.qemu_version().is_none() {
        return Err(Verdict::Skipped("the models and the words are those of Oxen on QEMU".to_owned()));
    }
    machine.cpu = format!("{model},{AT_ITS_WORD}");
    machine.append = format!("{} {words}", machine.append);
    Ok(machine)
}

const SKYLAKE: &str = "Skylake-Client-IBRS,+stibp,+ssbd,+md-clear";
const ROME: &str = "EPYC-Rome,+amd-ssbd";

const GUESTS: &str = "xl dmesg; xl create hello.cfg; xl create mmu.cfg; xl wait hello; xl wait mmu; poweroff";

/// By default what the CPU needs, of Intel's and AMD's; with everything refused, nothing.
pub(super) fn what_the_cpu_needs_is_done_and_said(lab: &Lab<'_>) -> Result<Verdict> {
    let skylake = [
        "Speculative mitigation facilities:",
        "Hardware features: IBPB IBRS STIBP SSBD MD_CLEAR",
        "SPEC_CTRL: IBRS+ STIBP- SSBD-",
        "Other: IBPB-ctxt VERW BHB-short",
        "L1TF: believed vulnerable, maxphysaddr L1D 46, CPUID 40, Safe address 10000000000",
        "Support for PV VMs: MSR_SPEC_CTRL EAGER_FPU VERW BHB-entry",
        "XPTI (64-bit PV only): Dom0 enabled, DomU enabled (without PCID)",
        "PV L1TF checks: Dom0 disabled, DomU enabled",
        "(mmu) mmu: done",
    ];
    let rome = [
        "Hardware features: IBPB STIBP SSBD",
        "SPEC_CTRL: IBRS- STIBP+ SSBD-",
        "Other: IBPB-ctxt",
        "Support for PV VMs: RSB EAGER_FPU IBPB-entry",
        "XPTI (64-bit PV only): Dom0 disabled, DomU disabled (without PCID)",
        "PV L1TF checks: Dom0 disabled, DomU disabled",
        "(mmu) mmu: done",
    ];
    let refused = ["Other: None", "Support for PV VMs: EAGER_FPU", "(mmu) mmu: done"];
    let cases: [(&str, &str, &[&str]); 3] =
        [(SKYLAKE, "", &skylake), (ROME, "", &rome), (SKYLAKE, "spec-ctrl=no", &refused)];
    for (model, words, said) in cases {
        let machine = match defended(lab, lab.machine(GUESTS)?, model, words) {
            Ok(machine) => machine,
            Err(verdict) => return Ok(verdict),
        };
        lab.boot(&machine)?.succeeded()?.says_in_order(said)?.says("hello from a guest")?.lacks("Panic")?;
    }
    Ok(Verdict::Passed)
}

/// A guest that is never idle is stopped at any moment: while it runs, what its CPU could reach of the hypervisor are
/// the ways in, and neither others' memory nor what the hypervisor keeps; without `xpti` all is there.
pub(super) fn a_guest_that_runs_has_nothing_of_the_hypervisors_mapped(lab: &Lab<'_>) -> Result<Verdict> {
    /// The direct map's second page and first GiB's end, the frame table's first page in it; the ways in.
    const HIDDEN: [&str; 3] = ["0xffff830000001000", "0xffff83001f000000", "0xffff830000200000"];
    const SHOWN: &str = "0xffff800000000000";
    const BETWEEN_LOOKS: Duration = Duration::from_millis(3);
    for (words, is_hidden) in [("xpti=on", true), ("xpti=off", false)] {
        let mut machine = match defended(lab, lab.machine("")?, "max", words) {
            Ok(machine) => machine,
            Err(verdict) => return Ok(verdict),
        };
        CPU.clone_into(&mut machine.cpu);
        machine.modules = vec![Module { file: lab.workspace.out.join("guests/bench"), args: String::new() }];
        machine.icount = true;
        qmp::add(&mut machine);
        let _session = Session::start(&machine, false)?;
        let mut control = Control::open(&machine.folder)?;
        let mut seen = 0;
        let end = Instant::now() + LIMIT;
        while seen < 10 {
            ensure!(Instant::now() < end, "the guest does not run");
            control.command("stop", "")?;
            if control.monitor("info registers")?.contains("CPL=3") {
                seen += 1;
                for address in HIDDEN {
                    let said = control.monitor(&format!("x/1gx {address}"))?;
                    ensure!(said.contains("Cannot access memory") == is_hidden, "{words}: {address}: {said}");
                }
                let said = control.monitor(&format!("x/1gx {SHOWN}"))?;
                ensure!(!said.contains("Cannot access memory"), "{words}: the table that guests read: {said}");
            }
            control.command("cont", "")?;
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }
    Ok(Verdict::Passed)
}

/// Our guests on two CPUs, between which they go to and fro.
pub(super) fn guests_run_with_every_defence_on(lab: &Lab<'_>) -> Result<Verdict> {
    for model in [SKYLAKE, ROME] {
        let mut machine = match defended(lab, lab.machine(GUESTS)?, model, ALL) {
            Ok(machine) => machine,
            Err(verdict) => return Ok(verdict),
        };
        machine.smp = 2;
        let report = lab.boot(&machine)?.succeeded()?.says("hello from a guest")?.says("(mmu) mmu: done")?;
        report.says("PV L1TF checks: Dom0 enabled, DomU enabled")?.lacks("is not understood")?.lacks("Panic")?;
    }
    Ok(Verdict::Passed)
}

/// Hypercalls and exceptions of every kind come in and go out by other ways then.
pub(super) fn calls_are_answered_alike_with_every_defence_on(lab: &Lab<'_>) -> Result<Verdict> {
    for family in ["mmu", "memory", "schedule", "emulation", "stale"] {
        let mut machine = match defended(lab, lab.machine("")?, SKYLAKE, ALL) {
            Ok(machine) => machine,
            Err(verdict) => return Ok(verdict),
        };
        machine.append = machine.append.replace("pv-l1tf", "");
        machine.modules = vec![probe(lab, family)];
        judge(&lab.boot(&machine)?)?;
    }
    Ok(Verdict::Passed)
}

/// Debian's kernel writes entries that are not present when it swaps and protects; it inverts them, and lives. It takes
/// the controls that it is shown.
pub(super) fn debians_kernel_runs_with_every_defence_on(lab: &Lab<'_>) -> Result<Verdict> {
    const WORK: &str = r#"cat /sys/devices/system/cpu/vulnerabilities/spectre_v2
i=0; while [ $i -lt 40 ]; do busybox true; i=$((i+1)); done; echo "init: $i processes"
dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null; gzip -c /tmp/a > /tmp/b
[ "$(gunzip -c /tmp/b | md5sum)" = "$(md5sum < /tmp/a)" ] && echo "init: the sums agree"
"#;
    let linux = match linux(lab, &Ramdisk::new(lab.workspace, "linux").script(WORK)) {
        Ok(linux) => linux,
        Err(verdict) => return Ok(verdict),
    };
    let machine = with_guests(
        lab,
        &linux,
        "xl create linux.cfg; xl wait linux; poweroff",
        &[("linux", "memory = 256\nvcpus = 2")],
    )?;
    let mut machine = match defended(lab, machine, SKYLAKE, ALL) {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    machine.smp = 2;
    let report = content(lab.boot(&machine)?.ended(Exit::Success)?)?;
    report.says_in_order(&["IBRS", "init: 40 processes", "init: the sums agree", "ended"])?.lacks("L1TF):")?;
    Ok(Verdict::Passed)
}
