//! Which scenarios each machine judges. The installed QEMU judges all; the others judge what they can and what they may
//! see otherwise: another emulation of the CPU, another loader and firmware, a TLB that forgets nothing by itself.

use oxen_tools::emulator::Kind;

/// Beginnings of the names of what a machine judges, and of what it does not among these.
struct Core {
    judges: &'static [&'static str],
    but: &'static [&'static str],
    /// What a short look has to see.
    smoke: &'static [&'static str],
}

/// Everything that boots a machine of ours, but what is about the installed QEMU's command line or takes very long.
const QEMU_NEXT: Core = Core {
    judges: &[
        "blkfront::",
        "boot::",
        "crowd::",
        "demo::",
        "disks::",
        "greed::",
        "guests::",
        "hostile::",
        "hypercalls::",
        "life::",
        "linux::",
        "load::",
        "net::",
        "network::",
        "prompt::",
        "toolstack::",
    ],
    but: &[
        "boot::the_plain_qemu_line",
        "guests::a_new_guest_builds",
        "guests::a_guest_of_the_packaged",
        "guests::configurations_kernels_and_files",
        "toolstack::a_thousand_guests",
    ],
    smoke: &[
        "boot::two_cpus_run_guests_at_once",
        "disks::what_a_guest_writes",
        "guests::mmu_",
        "hypercalls::model_specific_registers",
        "hypercalls::page_tables",
        "hypercalls::privileged_instructions",
        "hypercalls::translations_",
    ],
};

/// What a loader and a firmware can change: memory, CPUs, interrupts, devices; Linux in dom0's place finds
/// its way by the firmware's tables.
const OVMF: Core = Core {
    judges: &[
        "boot::a_dom0_",
        "boot::a_module_that",
        "boot::arguments_that",
        "boot::two_cpus",
        "boot::the_power_goes_off",
        "disks::",
        "guests::mmu_",
        "hypercalls::",
        "linux::debians_kernel_works_as_dom0",
        "linux::debians_kernel_works_as_a_guest",
        "net::net_fetches",
        "toolstack::a_script_that_succeeds",
        "toolstack::an_unprivileged_guest",
    ],
    but: &[],
    smoke: &["boot::two_cpus", "disks::what_a_guest_writes", "boot::the_power_goes_off"],
};

/// What needs neither disk nor network.
const BOCHS: Core = Core {
    judges: &[
        "boot::a_dom0_that_dies",
        "boot::a_kernel_",
        "boot::a_module_that",
        "boot::arguments_that",
        "boot::two_cpus",
        "boot::the_power_goes_off",
        "guests::bench_",
        "guests::mmu_",
        "hostile::fresh_frames",
        "hypercalls::",
        "toolstack::a_guest_that_crashes",
        "toolstack::a_guest_that_jumps",
        "toolstack::a_guest_that_spins",
        "toolstack::a_paused_guest",
        "toolstack::a_script_that_succeeds",
        "toolstack::an_unprivileged_guest",
    ],
    but: &[],
    smoke: &["boot::two_cpus", "guests::mmu_", "hypercalls::page_tables", "hypercalls::translations_"],
};

/// Whether a machine judges a scenario; with `smoke`, whether a short look on it does.
#[must_use]
pub fn judges(kind: Kind, scenario: &str, smoke: bool) -> bool {
    let core = match kind {
        Kind::Qemu => return true,
        Kind::QemuNext => QEMU_NEXT,
        Kind::Ovmf => OVMF,
        Kind::Bochs => BOCHS,
    };
    let is_among = |names: &[&str]| names.iter().any(|name| scenario.starts_with(name));
    is_among(core.judges) && !is_among(core.but) && (!smoke || is_among(core.smoke))
}

#[cfg(test)]
mod tests {
    use super::{BOCHS, OVMF, QEMU_NEXT, judges};
    use crate::scenarios;
    use oxen_tools::emulator::Kind;

    #[test]
    fn every_name_means_a_scenario() {
        let scenarios = scenarios::all();
        for core in [QEMU_NEXT, OVMF, BOCHS] {
            for name in core.judges.iter().chain(core.but).chain(core.smoke) {
                assert!(scenarios.iter().any(|scenario| scenario.name.starts_with(name)), "{name} means nothing");
            }
        }
        for kind in Kind::OTHERS {
            assert!(scenarios.iter().any(|scenario| judges(kind, scenario.name, true)), "{kind:?} has no smoke");
        }
    }
}
