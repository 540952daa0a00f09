//! Hypercalls, asked rightly and wrongly by the guest `probe` in dom0's place: the answers are those of Xen 4.17.

use anyhow::Result;
use oxen_tools::emulator::Kind;
use oxen_tools::qemu::Module;

use crate::lab::{Lab, Report, Verdict};

/// Boots the probe as dom0 for one family, and demands that every answer was as expected.
fn ask(lab: &Lab<'_>, family: &str) -> Result<Verdict> {
    let mut machine = lab.machine("")?;
    machine.modules = vec![probe(lab, family)];
    judge(&lab.boot(&machine)?)
}

/// The probe as a kernel in dom0's place.
pub(super) fn probe(lab: &Lab<'_>, family: &str) -> Module {
    Module { file: lab.workspace.out.join("probe"), args: format!("family={family}") }
}

/// Judges what a probe said.
pub(super) fn judge(report: &Report) -> Result<Verdict> {
    let wrong = report.lines_with("probe: FAILED");
    if !wrong.is_empty() {
        return report.fail(&format!("wrong answers:\n    {}", wrong.join("\n    ")));
    }
    match report.lines_with("probe: done, ").as_slice() {
        [done] if !done.contains(" 0 ok") => Ok(Verdict::Passed),
        _ => report.fail("the probe did not come to its end"),
    }
}

pub(super) fn version_and_console_answer_as_xen(lab: &Lab<'_>) -> Result<Verdict> {
    ask(lab, "version")
}

pub(super) fn memory_op_gives_and_takes_only_the_domains_frames(lab: &Lab<'_>) -> Result<Verdict> {
    ask(lab, "memory")
}

pub(super) fn page_tables_hold_only_what_is_allowed(lab: &Lab<'_>) -> Result<Verdict> {
    ask(lab, "mmu")
}

/// On one CPU, and where another may hold the translation.
pub(super) fn translations_that_a_cpu_still_knows_reach_no_table(lab: &Lab<'_>) -> Result<Verdict> {
    for cpus in [1, 2] {
        let mut machine = lab.machine("")?;
        machine.smp = cpus;
        machine.modules = vec![probe(lab, "stale")];
        judge(&lab.boot(&machine)?)?;
    }
    Ok(Verdict::Passed)
}

pub(super) fn event_channels_connect_only_what_belongs_together(lab: &Lab<'_>) -> Result<Verdict> {
    ask(lab, "events")
}

/// With one vcpu, and with queues of two.
pub(super) fn event_queues_hold_what_xens_hold(lab: &Lab<'_>) -> Result<Verdict> {
    for vcpus in [1, 2] {
        let mut machine = lab.machine("")?;
        machine.smp = vcpus;
        machine.modules = vec![probe(lab, "fifo")];
        judge(&lab.boot(&machine)?)?;
    }
    Ok(Verdict::Passed)
}

pub(super) fn grants_reach_only_what_was_granted(lab: &Lab<'_>) -> Result<Verdict> {
    ask(lab, "grants")
}

pub(super) fn a_vcpus_registers_take_only_safe_values(lab: &Lab<'_>) -> Result<Verdict> {
    for cpus in [1, 2] {
        let mut machine = lab.machine("")?;
        machine.smp = cpus;
        machine.modules = vec![probe(lab, "cpu")];
        judge(&lab.boot(&machine)?)?;
    }
    Ok(Verdict::Passed)
}

pub(super) fn polls_timers_and_vcpus_answer_as_xen(lab: &Lab<'_>) -> Result<Verdict> {
    ask(lab, "schedule")
}

/// With more vcpus than `shared_info` has room for.
pub(super) fn vcpus_without_a_place_in_shared_info_answer_as_xen(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = lab.machine("")?;
    machine.append.push_str(" dom0_max_vcpus=40");
    machine.modules = vec![probe(lab, "vcpus")];
    judge(&lab.boot(&machine)?)
}

pub(super) fn devices_interrupt_by_message_as_on_xen(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = lab.machine("")?;
    machine.modules = vec![probe(lab, "devices")];
    machine.disks = vec![lab.file("disk.img", &[0; 4096])?];
    judge(&lab.boot(&machine)?)
}

pub(super) fn batches_and_control_calls_answer_as_xen(lab: &Lab<'_>) -> Result<Verdict> {
    ask(lab, "control")
}

pub(super) fn what_tools_for_a_host_ask_is_answered_as_by_xen(lab: &Lab<'_>) -> Result<Verdict> {
    ask(lab, "host")
}

pub(super) fn what_is_asked_of_shadows_is_answered_as_by_xen(lab: &Lab<'_>) -> Result<Verdict> {
    ask(lab, "shadow")
}

pub(super) fn arguments_are_as_wide_as_in_xens_headers(lab: &Lab<'_>) -> Result<Verdict> {
    ask(lab, "widths")
}

/// On the CPUs of both vendors, since each has registers of its own.
pub(super) fn model_specific_registers_and_cpuid_answer_as_xen(lab: &Lab<'_>) -> Result<Verdict> {
    // Bochs has a model of its own.
    let models = if lab.emulator.kind == Kind::Bochs { 1 } else { 3 };
    for cpu in ["max", "Skylake-Client", "EPYC,-monitor"].into_iter().take(models) {
        let mut machine = lab.machine("")?;
        cpu.clone_into(&mut machine.cpu);
        machine.modules = vec![probe(lab, "registers")];
        judge(&lab.boot(&machine)?)?;
    }
    Ok(Verdict::Passed)
}

pub(super) fn privileged_instructions_and_written_tables_are_emulated(lab: &Lab<'_>) -> Result<Verdict> {
    ask(lab, "emulation")
}
