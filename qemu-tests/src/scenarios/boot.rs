//! How the machine starts: kernels in dom0's place, kernels that are refused, loaders.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use oxen_tools::grub::Grub;
use oxen_tools::linux::Ramdisk;
use oxen_tools::qemu::{CPU, HYPERVISOR_ARGS, Machine, Module};
use oxen_tools::session::{Exit, Session};
use oxen_tools::{build, disk, image};

use super::linux::linux;
use crate::lab::{LIMIT, Lab, Report, Verdict};

fn as_dom0(lab: &Lab<'_>, file: PathBuf, args: &str) -> Result<Machine> {
    let mut machine = lab.machine("")?;
    machine.modules = vec![Module { file, args: args.to_owned() }];
    Ok(machine)
}

/// Boots a spoilt copy of the guest hello as dom0, and demands that it is refused with a reason.
fn refused(lab: &Lab<'_>, spoil: impl FnOnce(&mut Vec<u8>) -> Result<()>, reason: &str) -> Result<Verdict> {
    let mut image = std::fs::read(lab.workspace.out.join("guests/hello"))?;
    spoil(&mut image)?;
    let report = lab.boot(&as_dom0(lab, lab.file("kernel", &image)?, "")?)?;
    if matches!(report.0.exit, Exit::Deadline | Exit::Success) {
        return report.fail("a kernel that cannot run did not end the machine with a failure");
    }
    report.says(reason)?.lacks("hello from a guest")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_guest_runs_in_dom0s_place_and_powers_off(lab: &Lab<'_>) -> Result<Verdict> {
    let report = lab.boot(&as_dom0(lab, lab.workspace.out.join("guests/hello"), "some  words, and \"more\"")?)?;
    report.ended(Exit::PoweredOff)?.says("hello from a guest")?.says("some  words, and")?.lacks("Panic")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_module_that_is_no_elf_is_refused_by_name(lab: &Lab<'_>) -> Result<Verdict> {
    let spoil = |image: &mut Vec<u8>| {
        image.fill(0x90);
        Ok(())
    };
    refused(lab, spoil, "neither an ELF file nor a bzImage")
}

pub(super) fn a_kernel_without_notes_is_refused_by_name(lab: &Lab<'_>) -> Result<Verdict> {
    let spoil = |image: &mut Vec<u8>| {
        while let Some(at) = image.windows(4).position(|bytes| bytes == b"Xen\0") {
            image.get_mut(at..at + 3).context("found")?.copy_from_slice(b"Nix");
        }
        Ok(())
    };
    refused(lab, spoil, "no Xen notes")
}

pub(super) fn a_kernel_with_an_entry_outside_itself_is_refused_by_name(lab: &Lab<'_>) -> Result<Verdict> {
    let spoil = |image: &mut Vec<u8>| {
        // Sizes of name and value, the number of the note ENTRY, and its owner.
        let entry = b"\x04\0\0\0\x08\0\0\0\x01\0\0\0Xen\0";
        let at = image.windows(entry.len()).position(|bytes| bytes == entry).context("no note ENTRY")?;
        let value = image.get_mut(at + entry.len()..at + entry.len() + 8).context("no value")?;
        value.copy_from_slice(&0xffff_ffff_a000_0000_u64.to_le_bytes());
        Ok(())
    };
    refused(lab, spoil, "note ENTRY is 0xffffffffa0000000, which lies outside the image")
}

/// The guest hello, begun at its hypercall page: from there it returns to address 0.
pub(super) fn a_dom0_that_dies_at_once_is_explained(lab: &Lab<'_>) -> Result<Verdict> {
    let mut image = std::fs::read(lab.workspace.out.join("guests/hello"))?;
    let note = |kind: u8| [&[4, 0, 0, 0, 8, 0, 0, 0, kind, 0, 0, 0][..], b"Xen\0"].concat();
    let place = |kind: u8| {
        let at = image.windows(16).position(|bytes| *bytes == *note(kind)).context("a note is missing")? + 16;
        anyhow::Ok(at..at + 8)
    };
    let (entry, page) = (place(1)?, place(2)?);
    image.copy_within(page, entry.start);
    let report = lab.boot(&as_dom0(lab, lab.file("kernel", &image)?, "")?)?.ended(Exit::Crashed)?;
    let turns = ["d0v0 crashed: exception 14 without a handler", "rip 0xe033:0x0000000000000000", "(reason 3: crash)"];
    report.says_in_order(&turns)?;
    Ok(Verdict::Passed)
}

pub(super) fn a_kernel_that_is_cut_short_is_refused_by_name(lab: &Lab<'_>) -> Result<Verdict> {
    let spoil = |image: &mut Vec<u8>| {
        image.truncate(image.len() / 2);
        Ok(())
    };
    refused(lab, spoil, "the file is cut short")
}

pub(super) fn too_little_memory_is_said_so(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = as_dom0(lab, lab.workspace.out.join("guests/hello"), "")?;
    machine.memory = 16;
    machine.append = machine.append.replace("dom0_mem=128M", "dom0_mem=512M");
    let report = lab.boot(&machine)?;
    if matches!(report.0.exit, Exit::Deadline | Exit::Success) {
        return report.fail("a machine without memory did not end with a failure");
    }
    report.says("memory")?;
    Ok(Verdict::Passed)
}

/// The line that the README shows, without our tools, and a person's `poweroff`.
pub(super) fn the_plain_qemu_line_leads_to_a_prompt(lab: &Lab<'_>) -> Result<Verdict> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.current_dir(&lab.workspace.out).args([
        "-accel",
        "tcg",
        "-cpu",
        &lab.emulator.sound_model(CPU, 1),
        "-m",
        "512",
    ]);
    qemu.args(["-nographic", "-no-reboot", "-net", "none", "-kernel", "hv", "-append", "console=com1 dom0_mem=128M"]);
    qemu.args(["-initrd", "dom0,ramdisk.cpio"]);
    prompt(Session::spawn(qemu, false)?)
}

pub(super) fn grub_boots_the_iso_image(lab: &Lab<'_>) -> Result<Verdict> {
    if let Err(error) = Grub::get(lab.workspace) {
        return Ok(Verdict::Skipped(format!("no GRUB: {error:#}")));
    }
    if lab.xen.is_some() {
        return Ok(Verdict::Skipped("the image holds Oxen's hypervisor".to_owned()));
    }
    let iso = lab.folder.join("oxen.iso");
    image::make(lab.workspace, Some("xl list; poweroff"), &iso)?;
    let mut machine = lab.machine("")?;
    machine.cdrom = Some(iso);
    lab.boot(&machine)?.succeeded()?.says("oxen dom0 ready")?.says("Domain-0")?;
    Ok(Verdict::Passed)
}

/// Both CPUs switch address spaces, and take each other's translations away.
pub(super) fn two_cpus_run_guests_at_once(lab: &Lab<'_>) -> Result<Verdict> {
    let script =
        "xl info; xl create mmu.cfg name=one; xl create mmu.cfg name=two; xl wait one; xl wait two; xl list; poweroff";
    let mut machine = lab.machine(script)?;
    machine.smp = 2;
    let report = lab.boot(&machine)?.succeeded()?.lacks("is left out")?;
    let cpus = report.lines_with("nr_cpus ");
    if !matches!(cpus.as_slice(), [line] if line.trim_end().ends_with(": 2")) {
        return report.fail(&format!("CPUs: {cpus:?}"));
    }
    report.says("(one) mmu: done")?.says("(two) mmu: done")?;
    Ok(Verdict::Passed)
}

/// The hypervisor with its debug assertions and overflow checks, on two CPUs: guests switch address spaces, use a disk,
/// are paused, shut down and destroyed, and not one lock is taken out of its order.
pub(super) fn a_hypervisor_that_checks_itself_finds_nothing(lab: &Lab<'_>) -> Result<Verdict> {
    if lab.xen.is_some() {
        return Ok(Verdict::Skipped("it is Oxen's own hypervisor that checks itself".to_owned()));
    }
    build::checked_hypervisor(lab.workspace)?;
    let script = "xl create mmu.cfg name=one; xl create mmu.cfg name=two; xl create fs.cfg; xl create -p hog.cfg; \
                  xl unpause hog; xl mem-set -w hog 24; xl pause hog; xl unpause hog; xl vcpu-list; xl wait one; \
                  xl wait two; xl wait fs; xl destroy hog; xl list; poweroff";
    let mut machine = lab.machine(script)?;
    machine.hypervisor = lab.workspace.out.join(build::CHECKED);
    machine.smp = 2;
    let (image, sums) = disk::make(&lab.folder)?;
    machine.disks.push(image);
    let report = lab.boot_within(&machine, LIMIT * 2)?.succeeded()?.lacks("is left out")?.lacks("Panic")?;
    let report = report.says("(one) mmu: done")?.says("(two) mmu: done")?;
    let missing = disk::missing(&sums, report.transcript());
    if !missing.is_empty() {
        return report.fail(&format!("these files did not show the host's sum: {}", missing.join(", ")));
    }
    Ok(Verdict::Passed)
}

/// A guest has its disk where grant tables may have two frames, and of others' grants fewer are mapped than the
/// toolstack lets a guest map else.
pub(super) fn grant_tables_are_as_small_as_the_command_line_says(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = lab.machine("xl create fs.cfg; xl wait fs; poweroff")?;
    machine.append.push_str(" gnttab_max_frames=2 gnttab_max_maptrack_frames=16");
    let (image, sums) = disk::make(&lab.folder)?;
    machine.disks.push(image);
    let report = lab.boot(&machine)?.succeeded()?.lacks("is not understood")?;
    let missing = disk::missing(&sums, report.transcript());
    if !missing.is_empty() {
        return report.fail(&format!("these files did not show the host's sum: {}", missing.join(", ")));
    }
    Ok(Verdict::Passed)
}

/// Linux in dom0's place finds ACPI's tables, by UEFI's where there is no BIOS, and works with what they say.
pub(super) fn a_dom0_finds_the_firmwares_tables(lab: &Lab<'_>) -> Result<Verdict> {
    let linux =
        match linux(lab, &Ramdisk::new(lab.workspace, "tables").script("dmesg | grep -c 'ACPI: IRQ'\npoweroff -f")) {
            Ok(linux) => linux,
            Err(verdict) => return Ok(verdict),
        };
    let mut machine = as_dom0(lab, linux.kernel, "console=hvc0 earlyprintk=xen rdinit=/init")?;
    machine.memory = 1024;
    machine.append = machine.append.replace("dom0_mem=128M", "dom0_mem=384M");
    machine.modules.push(Module { file: lab.file("linux.cpio", &linux.ramdisk)?, args: String::new() });
    let report = lab.boot(&machine)?.ended(Exit::PoweredOff)?;
    report.says("ACPI: RSDP 0x")?.says("ACPI: Interpreter enabled")?.lacks("ACPI BIOS Error")?;
    Ok(Verdict::Passed)
}

/// Without the exit device's help: by the firmware's tables, and with the last words on the line.
pub(super) fn the_power_goes_off_when_dom0_says_so(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = lab.machine("xl list; poweroff")?;
    let dom0 = machine.modules.first_mut().context("no dom0")?;
    dom0.args = dom0.args.replace(" debug-exit", "");
    let report = lab.boot(&machine)?.ended(Exit::PoweredOff)?;
    if lab.xen.is_none() {
        report.says("(reason 0: poweroff)\n")?;
    }
    Ok(Verdict::Passed)
}

pub(super) fn arguments_that_mean_nothing_are_named(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = as_dom0(lab, lab.workspace.out.join("guests/hello"), "")?;
    machine.append = format!("{HYPERVISOR_ARGS} frobnicate=7 loglvl=all");
    lab.boot(&machine)?.ended(Exit::PoweredOff)?.says("frobnicate=7")?.says("hello from a guest")?;
    Ok(Verdict::Passed)
}

/// Waits for dom0's prompt, types `poweroff`, and demands that the machine ends.
fn prompt(mut session: Session) -> Result<Verdict> {
    let deadline = Instant::now() + LIMIT;
    if let Err(error) = session.wait_for("oxen dom0 ready", deadline).map(drop) {
        return Report(session.finish(Instant::now())?).fail(&error.to_string());
    }
    session.send("xl list\rpoweroff\r")?;
    Report(session.finish(deadline)?).ended(Exit::PoweredOff)?.says("Domain-0")?;
    Ok(Verdict::Passed)
}
