//! Registers that guests see of the machine: model-specific ones, and what CPUID tells their kernels.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_hv::domain::{control_registers::CR4_OSXSAVE, cpuid};
use oxen_hv::trap::{msr, ports};
use support::guest::Guest;

const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const FIRST_BANK: u32 = 0x400;
const TSC_AUX: u32 = 0xc000_0103;
const HARDWARE_CONFIGURATION: u32 = 0xc001_0015;
const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;

fn guest() -> Guest {
    Guest::new(support::boot(64), 1, false, 16)
}

fn vendor(guest: &Guest, name: [u8; 4]) {
    guest.hv.machine.peripherals.lock().unwrap().cpuid.insert(0, [0xd, u32::from_le_bytes(name), 0, 0]);
}

#[test]
fn two_banks_in_which_nothing_ever_happened() {
    let mut guest = guest();
    let mut caller = guest.caller();
    assert_eq!(msr::read(&caller, MCG_CAP), Some(2));
    assert_eq!(msr::read(&caller, MCG_STATUS), Some(0));
    for bank in [FIRST_BANK, FIRST_BANK + 4] {
        assert_eq!(msr::read(&caller, bank), Some(u64::MAX), "every error is looked for");
        assert!((1..4).all(|more| msr::read(&caller, bank + more) == Some(0)));
        assert!(msr::write(&mut caller, bank, 0x1234) && msr::write(&mut caller, bank + 1, 0));
        assert!(!msr::write(&mut caller, bank + 1, 1), "an error cannot be made up");
        assert_eq!(msr::read(&caller, bank), Some(u64::MAX));
    }
    assert_eq!(msr::read(&caller, FIRST_BANK + 8), None);
    assert!(!msr::write(&mut caller, FIRST_BANK + 8, 0));
}

#[test]
fn ports_of_others_read_all_ones_but_the_timers_counter_stands() {
    let mut guest = guest();
    let mut caller = guest.caller();
    assert_eq!(ports::read(&caller, 0x60, 1), None, "without privilege for I/O");
    caller.state.iopl = 1;
    assert_eq!(ports::read(&caller, 0x60, 1), Some(u32::MAX));
    assert_eq!(ports::read(&caller, 0x61, 1), Some(u32::MAX));
    assert_eq!(ports::read(&caller, 0x42, 1), Some(0));
    assert!(ports::write(&mut caller, 0x42, 1, 0xff));
    assert_eq!(ports::read(&caller, 0x42, 1), Some(0));
}

#[test]
fn the_number_behind_rdtscp_is_the_vcpus_own() {
    let mut guest = guest();
    let mut caller = guest.caller();
    assert_eq!(msr::read(&caller, TSC_AUX), Some(0));
    assert!(msr::write(&mut caller, TSC_AUX, 0x1001));
    assert_eq!(msr::read(&caller, TSC_AUX), Some(0x1001));
    assert!(!msr::write(&mut caller, TSC_AUX, 1 << 32), "it has 32 bits");
    assert_eq!(caller.state.tsc_aux, 0x1001);
    assert_eq!(guest.hv.machine.peripherals.lock().unwrap().processor_calls.get("set_tsc_aux"), Some(&1));
}

#[test]
fn a_vendors_registers_are_there_on_its_cpus_only() {
    let mut guest = guest();
    vendor(&guest, *b"Genu");
    assert_eq!(msr::read(&guest.caller(), HARDWARE_CONFIGURATION), None);
    assert!(!msr::write(&mut guest.caller(), HARDWARE_CONFIGURATION, 0x40));
    assert_eq!(msr::read(&guest.caller(), 0x3a), Some(1), "locked");
    vendor(&guest, *b"Auth");
    assert_eq!(msr::read(&guest.caller(), HARDWARE_CONFIGURATION), Some(0));
    assert!(msr::write(&mut guest.caller(), HARDWARE_CONFIGURATION, 0x40));
    assert_eq!(msr::read(&guest.caller(), HARDWARE_CONFIGURATION), Some(0));
    assert_eq!(msr::read(&guest.caller(), 0x3a), None);
}

#[test]
fn the_prefix_tells_kernels_alone_that_the_hypervisor_saves_extended_state() {
    let mut guest = guest();
    guest.hv.machine.peripherals.lock().unwrap().cpuid.insert(1, [0, 0, XSAVE | OSXSAVE, 0]);
    guest.state.cr4 &= !CR4_OSXSAVE;
    let seen = |answer: [u32; 4]| answer[2] & (XSAVE | OSXSAVE);
    assert_eq!(seen(cpuid::leaf(&guest.caller(), 1, 0)), XSAVE);
    assert_eq!(seen(cpuid::by_prefix(&guest.caller(), 1, 0)), XSAVE | OSXSAVE);
    guest.state.in_kernel = false;
    assert_eq!(seen(cpuid::by_prefix(&guest.caller(), 1, 0)), XSAVE);
    guest.state.cr4 |= CR4_OSXSAVE;
    assert_eq!(seen(cpuid::by_prefix(&guest.caller(), 1, 0)), XSAVE | OSXSAVE);
}
