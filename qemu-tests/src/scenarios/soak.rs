//! What takes long: many boots of stock Linux one after the other, many guests at once, a minute of traffic. Run when
//! they are named: `cargo xtask test soak`.

use anyhow::{Result, ensure};
use oxen_tools::debian;
use oxen_tools::linux::Ramdisk;
use oxen_tools::qemu::Machine;

use super::LONG_LIMIT as LIMIT;
use super::complaints::content;
use super::linux::guest;
use super::{backends, crowd, migration, network, own_guests_saved, power, races, restart, rootfs, saving, shares};
use crate::lab::{Lab, Verdict};

/// What a guest says when its first process runs.
const REACHED: &str = "the first process runs";

/// A machine with Debian's kernel, unpacked, for guests of so many MiB, and with dom0 as
/// small as it can be beside them.
fn machine(lab: &Lab<'_>, ramdisk: &Ramdisk<'_>, memory: u32, script: &str) -> Result<Machine, Verdict> {
    let mut machine = guest(lab, debian::kernel, ramdisk, &format!("memory = {memory}"), &[], script)?;
    machine.append = machine.append.replace("dom0_mem=128M", "dom0_mem=192M");
    Ok(machine)
}

/// Boots the kernel so many times in one dom0, each time to its first process and to power-off; no page may be lost.
pub(super) fn boots(lab: &Lab<'_>, count: u32) -> Result<Verdict> {
    let ramdisk = Ramdisk::new(lab.workspace, "linux").script(&format!("echo '{REACHED}'"));
    let script = format!("soak {count} linux.cfg '{REACHED}'; poweroff");
    let mut machine = match machine(lab, &ramdisk, 128, &script) {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    machine.memory = 512;
    let report = lab.boot_within(&machine, LIMIT)?.succeeded()?;
    let rounds = report.lines_with("round ").len();
    ensure!(rounds == count as usize, "{rounds} rounds of {count} are reported");
    report.says(&format!("{count} rounds: "))?;
    Ok(Verdict::Passed)
}

pub(super) fn a_guest_whose_vcpus_race_for_an_hour_breaks_no_law(lab: &Lab<'_>) -> Result<Verdict> {
    races::race(lab, 1_000_000, 3600, 5)
}

pub(super) fn a_hundred_boots_of_debians_kernel_lose_nothing(lab: &Lab<'_>) -> Result<Verdict> {
    boots(lab, 100)
}

pub(super) fn a_debian_at_work_is_saved_and_restored_a_hundred_times(lab: &Lab<'_>) -> Result<Verdict> {
    saving::rounds(lab, 100)
}

pub(super) fn a_guest_of_ours_at_work_is_saved_and_restored_a_hundred_times(lab: &Lab<'_>) -> Result<Verdict> {
    own_guests_saved::rounds(lab, 100)
}

pub(super) fn a_debian_at_work_moves_to_another_machine_and_back_twenty_times(lab: &Lab<'_>) -> Result<Verdict> {
    migration::a_debian_moves(lab, 20)
}

pub(super) fn memory_goes_to_who_consumes_it_and_comes_back(lab: &Lab<'_>) -> Result<Verdict> {
    shares::coordinator(lab)
}

pub(super) fn damaged_streams_are_refused_and_leave_nothing(lab: &Lab<'_>) -> Result<Verdict> {
    saving::damaged_streams(lab, 12)
}

/// Eight guests of 208 MiB beside dom0: each boots, and they work at the same time.
pub(super) fn eight_linux_guests_run_at_once_in_two_gib(lab: &Lab<'_>) -> Result<Verdict> {
    const GUESTS: u32 = 8;
    const WORK: &str = "i=0; while [ $i -lt 200 ]; do busybox true; i=$((i+1)); done; \
        dd if=/dev/urandom of=/tmp/a bs=64k count=64 2>/dev/null; gzip -c /tmp/a >/tmp/b; \
        [ \"$(gunzip -c /tmp/b | md5sum)\" = \"$(md5sum </tmp/a)\" ] && echo \"worked:$i\"";
    let each = |line: &dyn Fn(u32) -> String| (1..=GUESTS).map(|i| line(i) + "\n").collect::<String>();
    let script = [
        each(&|i| format!("xl create linux.cfg name=g{i}")),
        each(&|i| format!("expect g{i} 'linux:/# ' 3600")),
        "xl list\nxl info\n".to_owned(),
        each(&|i| format!("send g{i} '{WORK}'")),
        each(&|i| format!("expect g{i} 'worked:200' 3600")),
        "xl list\n".to_owned(),
        each(&|i| format!("xl shutdown g{i}")),
        each(&|i| format!("xl wait g{i}")),
        "xl list\npoweroff\n".to_owned(),
    ];
    let mut machine = match machine(lab, &Ramdisk::new(lab.workspace, "linux"), 208, &script.concat()) {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    machine.memory = 2048;
    let report = content(lab.boot_within(&machine, LIMIT)?.succeeded()?)?;
    let ended = report.lines_with("has ended: poweroff").len();
    ensure!(ended == GUESTS as usize, "{ended} guests powered off");
    Ok(Verdict::Passed)
}

/// As many as there may be domains, less a quarter for what else dom0 might start.
pub(super) fn two_hundred_guests_speak_read_and_ping_at_once(lab: &Lab<'_>) -> Result<Verdict> {
    crowd::speak_read_and_ping(lab, 200, LIMIT)
}

pub(super) fn two_linux_guests_of_two_vcpus_exchange_for_a_minute(lab: &Lab<'_>) -> Result<Verdict> {
    network::exchange(lab, 60, 2)
}

/// systemd finds everything in order, before and after a restart; what dpkg installs in between stays.
pub(super) fn a_whole_debian_with_systemd_runs_installs_and_restarts(lab: &Lab<'_>) -> Result<Verdict> {
    rootfs::works(lab)
}

pub(super) fn a_disks_backend_is_begun_anew_a_thousand_times(lab: &Lab<'_>) -> Result<Verdict> {
    restart::journals(lab, 1000)
}

pub(super) fn debians_kernel_loses_nothing_while_its_backends_are_begun_anew_for_long(
    lab: &Lab<'_>,
) -> Result<Verdict> {
    restart::debian(lab, 60)
}

pub(super) fn a_disk_lies_for_minutes(lab: &Lab<'_>) -> Result<Verdict> {
    backends::lies(lab, 300)
}

pub(super) fn what_is_flushed_is_there_though_the_machine_is_stopped_two_hundred_times(
    lab: &Lab<'_>,
) -> Result<Verdict> {
    power::stop(lab, 200)
}

#[cfg(test)]
mod tests {
    use crate::scenarios::all;

    #[test]
    fn long_scenarios_run_only_when_they_are_named() {
        let chosen = |filter: &str| all().iter().filter(|scenario| scenario.is_meant_by(filter)).count();
        assert!(chosen("soak") >= 2 && chosen("gallery") >= 2);
        assert_eq!(chosen("") + chosen("soak") + chosen("gallery"), all().len());
    }
}
