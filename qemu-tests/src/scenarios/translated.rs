//! Guests whose frames are translated for them (`translated = 1`): the same kernels, and what they do is the same.

use std::time::Duration;

use anyhow::Result;
use oxen_tools::{demo, disk};

use super::guests;
use crate::lab::{Lab, Verdict};

/// hello, mmu, net and fs as in the demo, each translated; all their memory comes back.
pub(super) fn the_samples_run_either_way_from_one_binary(lab: &Lab<'_>) -> Result<Verdict> {
    let script = demo::SCRIPT.replace(".cfg", ".cfg translated=1");
    let mut machine = lab.machine(&format!("xl info; {}", script.replace("poweroff", "xl info; poweroff")))?;
    let sums = demo::furnish(&mut machine)?;
    let report = lab.boot_within(&machine, Duration::from_secs(300))?.succeeded()?;
    let report = report.says("10.0.2.15")?.says("net: done")?.says("mmu: done")?.lacks("FAILED")?;
    for text in [
        "auto_translated_physmap",
        "A, 0x400000 holds 0xaaaa",
        "B, 0x400000 holds 0xbbbb",
        "translated: a store to it is carried out",
        "translated: then 0x400000 is a fault",
        "translated: where no frame is, there is a fault",
    ] {
        if !report.transcript().contains(text) {
            return report.fail(&format!("no guest said `{text}`"));
        }
    }
    let missing = disk::missing(&sums, report.transcript());
    if !missing.is_empty() {
        return report.fail(&format!("these files did not show the host's sum: {}", missing.join(", ")));
    }
    let mut free = report.lines_with("free_memory");
    free.retain(|line| !line.contains("dom0"));
    match (free.first(), free.last()) {
        (Some(before), Some(after)) if free.len() > 1 && before == after => Ok(Verdict::Passed),
        _ => report.fail(&format!("memory did not come back: {free:?}")),
    }
}

/// Its balloon gives numbers, not frames.
pub(super) fn a_translated_guest_follows_its_memory_target(lab: &Lab<'_>) -> Result<Verdict> {
    guests::follows_its_memory_target(lab, "translated=1")
}

/// A kernel that does not say that it can be translated is refused, and so is saving.
pub(super) fn what_cannot_be_is_refused_with_the_reason(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create hog.cfg memory=16 maxmem=16 translated=1; xl save hog /dev/vda; xl log-dirty hog 1; \
        xl destroy hog; xl create hello.cfg translated=2; poweroff";
    let mut machine = lab.machine(script)?;
    machine.disks.push(lab.file("room.img", &disk::noise(3, 32 << 20))?);
    let report = lab.boot(&machine)?;
    report.says("cannot be saved: its frames are translated")?.says("EINVAL")?.says("translated")?.lacks("Panic")?;
    Ok(Verdict::Passed)
}
