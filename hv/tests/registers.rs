//! Registers that guests see of the machine: model-specific ones, and what CPUID tells their kernels.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domctl::{XEN_DOMCTL_CREATEDOMAIN, XEN_X86_MSR_RELAXED},
    domid::DomId,
};
use oxen_hv::{cpu_model::Vendor, domain::traps::TrapHandler, processor::cpuid::leaves_x87_pointers, stubs, trap::msr};
use std::sync::atomic::Ordering::SeqCst;
use support::guest::Guest;
use x86_64::registers::control::Cr4Flags;

const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
const FIRST_BANK: u32 = 0x400;
const TSC_AUX: u32 = 0xc000_0103;
const HARDWARE_CONFIGURATION: u32 = 0xc001_0015;
const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;

fn guest() -> Guest {
    Guest::new(support::boot(64), 1, false, 16)
}

fn vendor(guest: &Guest, name: [u8; 4]) {
    guest.hv.machine().peripherals.lock().unwrap().cpuid.insert(0, [0xd, u32::from_le_bytes(name), 0, 0]);
}

#[test]
fn two_banks_in_which_nothing_ever_happened() {
    let mut guest = guest();
    let mut caller = guest.caller();
    assert_eq!(caller.read_msr(MCG_CAP), Some(2));
    assert_eq!(caller.read_msr(MCG_STATUS), Some(0));
    assert!(caller.write_msr(MCG_STATUS, 0xd01));
    assert_eq!(caller.read_msr(MCG_STATUS), Some(0xd01), "a handler's own");
    for bank in [FIRST_BANK, FIRST_BANK + 4] {
        assert_eq!(caller.read_msr(bank), Some(u64::MAX), "every error is looked for");
        assert!((1..4).all(|more| caller.read_msr(bank + more) == Some(0)));
        assert!(caller.write_msr(bank, 0x1234) && caller.write_msr(bank + 1, 0));
        assert!(!caller.write_msr(bank + 1, 1), "an error cannot be made up");
        assert_eq!(caller.read_msr(bank), Some(u64::MAX));
    }
    assert_eq!(caller.read_msr(FIRST_BANK + 8), Some(0), "there is no third");
    assert!(caller.write_msr(FIRST_BANK + 8, 0) && caller.write_msr(FIRST_BANK + 9, 0x1234));
    assert_eq!((caller.read_msr(MCG_CTL), caller.write_msr(MCG_CTL, 0x1234)), (Some(0), true));
    assert_eq!(caller.read_msr(FIRST_BANK + 0x80), None);
    assert!(!caller.write_msr(FIRST_BANK + 0x80, 0));
}

#[test]
fn what_looks_present_reads_as_zero_and_drops_what_is_written() {
    let mut guest = guest();
    vendor(&guest, *b"Auth");
    let mut caller = guest.caller();
    for (msr, is_dropped) in [(0, false), (1, false), (0xce, false), (0x140, true), (0x280, true), (0x345, false)] {
        assert_eq!(caller.read_msr(msr), Some(0), "{msr:#x}");
        assert_eq!(caller.write_msr(msr, 0), is_dropped, "{msr:#x}");
    }
    for msr in [0xc001_001f, 0xc001_0041, 0xc001_0061, 0xc001_006b, 0xc001_0200, 0xc001_020b] {
        assert_eq!(caller.read_msr(msr), Some(0), "{msr:#x}");
        assert!(caller.write_msr(msr, 0), "{msr:#x}");
    }
    for (msr, is_dropped) in [(0xe7, true), (0xe8, true), (0x199, false), (0xc1, false), (0xc001_001a, false)] {
        assert_eq!(caller.read_msr(msr), None, "{msr:#x}");
        assert_eq!(caller.write_msr(msr, 0), is_dropped, "{msr:#x}");
    }
    assert_eq!(caller.read_msr(0x277), Some(msr::PAT_VALUE));
    assert!(!caller.write_msr(0x277, msr::PAT_VALUE), "not even as it is");
    vendor(&guest, *b"Genu");
    let mut caller = guest.caller();
    for msr in [0xc1, 0xc8, 0x186, 0x189, 0x199, 0x309, 0x38f] {
        assert_eq!(caller.read_msr(msr), Some(0), "{msr:#x}");
        assert!(caller.write_msr(msr, 7), "{msr:#x}");
    }
    for msr in [0x19a, 0x1b0] {
        assert_eq!((caller.read_msr(msr), caller.write_msr(msr, 7)), (None, true), "{msr:#x}");
    }
    assert_eq!(caller.read_msr(MCG_CAP), Some(0x100_0c02));
    assert_eq!(caller.read_msr(0xc001_0041), None);
}

#[test]
fn a_kernel_without_a_handler_for_the_fault_reads_zero_where_the_cpu_has_a_register() {
    let mut guest = guest();
    const SOME: u32 = 0x601;
    guest.hv.machine().peripherals.lock().unwrap().msrs.insert(SOME, 0x1234);
    assert_eq!(guest.caller().read_msr(SOME), Some(0));
    assert_eq!(guest.caller().read_msr(SOME + 1), None, "the CPU has none");
    assert!(!guest.caller().write_msr(SOME, 0));
    let handler = TrapHandler { address: 0x1000, cs: 0xe033, flags: 0 };
    guest.state.traps.set(13, handler);
    assert_eq!(guest.caller().read_msr(SOME), None);
}

#[test]
fn a_domain_that_is_to_see_zeros_does_for_all_that_the_cpu_has() {
    let mut control = Guest::new(support::boot(64), 0, true, 16);
    control.build_home(8);
    let mut config = support::control::wanted(1);
    config.arch.misc_flags = XEN_X86_MSR_RELAXED;
    let id = support::control::ask(&mut control, XEN_DOMCTL_CREATEDOMAIN, DomId(0), &config).unwrap().domain;
    assert!(control.hv.domains.get(id).unwrap().is_msr_relaxed);
    assert!(!support::control::make(&mut control).is_msr_relaxed);
}

#[test]
fn the_hypervisors_register_fills_a_page_of_the_guests_own_with_the_stubs() {
    const STUBS: u32 = 0x4000_0000;
    let mut guest = guest();
    let home = guest.build_home(1);
    let (hv, frame) = (guest.hv, home.data[0]);
    let mut caller = guest.caller();
    assert_eq!(caller.read_msr(STUBS), Some(0));
    assert!(caller.write_msr(STUBS, frame.raw() << 12));
    let seen: Vec<u8> = hv.machine().bytes(frame).iter().map(|byte| byte.load(SeqCst)).collect();
    assert_eq!(seen, stubs::page());
    assert!(!caller.write_msr(STUBS, frame.raw() << 12 | 1), "there is one page");
    assert!(!caller.write_msr(STUBS, home.tables[3].raw() << 12), "a table");
    assert!(!caller.write_msr(STUBS, 0), "not the guest's");
    assert!(!caller.write_msr(STUBS, u64::MAX << 12), "no frame");
}

#[test]
fn extended_leaves_are_the_vendors() {
    let mut guest = guest();
    let set = |leaf, answer| guest.hv.machine().peripherals.lock().unwrap().cpuid.insert(leaf, answer);
    set(1, [0x50_6e3, 0x0102_0800, 0, u32::MAX]);
    set(7, [0, u32::MAX, u32::MAX, u32::MAX]);
    set(0x8000_0000, [0x8000_00ff, 1, 2, 3]);
    set(0x8000_0001, [7, 7, u32::MAX, u32::MAX]);
    set(0x8000_0005, [1, 2, 3, 4]);
    set(0x8000_0006, [1, 2, 3, 4]);
    set(0x8000_0008, [0x3934, u32::MAX, 0, 0]);
    set(0x8000_0021, [u32::MAX; 4]);
    vendor(&guest, *b"Auth");
    let ask = |guest: &mut Guest, leaf| guest.caller().cpuid_leaf(leaf, 0);
    assert_eq!(ask(&mut guest, 1)[3], 0x0fc9_c3f5, "no SYSENTER, no memory types");
    assert_eq!(ask(&mut guest, 1)[1], 0x0002_0800, "no number of a processor");
    assert_eq!(ask(&mut guest, 7), [0, 0x218c_0329, 0x0040_0700, 0x410]);
    assert_eq!(ask(&mut guest, 0x8000_0000), [0x8000_0021, 1, 2, 3]);
    assert_eq!(ask(&mut guest, 0x8000_0001), [7, 7, 0x0021_09e1, 0xebd1_cbf5]);
    assert_eq!(ask(&mut guest, 0x8000_0005), [1, 2, 3, 4]);
    assert_eq!(ask(&mut guest, 0x8000_0008), [0x3034, 0x6400_1005, 0, 0], "48 bits of virtual address at most");
    assert_eq!(ask(&mut guest, 0x8000_0021), [0x45, 0, 0, 0]);
    vendor(&guest, *b"Genu");
    assert_eq!(ask(&mut guest, 1)[3], 0x0fc9_cbf5);
    assert_eq!(ask(&mut guest, 0x8000_0000), [0x8000_0008, 0, 0, 0]);
    assert_eq!(ask(&mut guest, 0x8000_0001), [0, 0, 0x0021_09e1, 0xea50_0800]);
    assert_eq!(ask(&mut guest, 0x8000_0005), [0; 4]);
    assert_eq!(ask(&mut guest, 0x8000_0006), [0, 0, 3, 0]);
    assert_eq!(ask(&mut guest, 0x8000_0021), [0; 4]);
    assert_eq!(guest.caller().cpuid_leaf(0x4000_0005, 1), [0; 4]);
}

#[test]
fn that_lfence_waits_is_told_where_the_cpu_does_not_say_so() {
    let mut guest = guest();
    let set = |leaf, answer| guest.hv.machine().peripherals.lock().unwrap().cpuid.insert(leaf, answer);
    vendor(&guest, *b"Auth");
    set(0x8000_0000, [0x8000_000a, 1, 2, 3]);
    let ask = |guest: &mut Guest| [0x8000_0000, 0x8000_0021].map(|leaf| guest.caller().cpuid_leaf(leaf, 0)[0]);
    for (signature, answer) in [(0xf00, [0x8000_0021, 4]), (0x20_0f00, [0x8000_0021, 4]), (0x80_0f12, [0x8000_000a, 0])]
    {
        guest.hv.machine().peripherals.lock().unwrap().cpuid.insert(1, [signature, 0, 0, 0]);
        assert_eq!(ask(&mut guest), answer, "{signature:#x}");
    }
    guest.hv.machine().peripherals.lock().unwrap().msrs.insert(0xc001_1029, 2);
    assert_eq!(ask(&mut guest), [0x8000_0021, 4], "it is switched on");
}

#[test]
fn the_control_domain_is_told_of_memory_types_and_all_of_speculation_on_intels_cpus() {
    const CAPABILITIES: u32 = 0x10a;
    let mut guest = Guest::new(support::boot(64), 0, true, 16);
    let set = |leaf, answer| guest.hv.machine().peripherals.lock().unwrap().cpuid.insert(leaf, answer);
    set(1, [0x50_6e3, 0, 0, u32::MAX]);
    set(0x8000_0000, [0x8000_0008, 0, 0, 0]);
    vendor(&guest, *b"Genu");
    assert_eq!(guest.caller().cpuid_leaf(0x8000_0001, 0)[3], 1 << 12);
    assert_eq!(guest.caller().cpuid_leaf(7, 0)[3], 1 << 29);
    assert_eq!(guest.caller().read_msr(CAPABILITIES), Some(4), "Skylake's returns");
    assert!(!guest.caller().write_msr(CAPABILITIES, 4));
    guest.hv.machine().peripherals.lock().unwrap().cpuid.insert(1, [0x30_6c3, 0, 0, u32::MAX]);
    assert_eq!((guest.caller().cpuid_leaf(7, 0)[3], guest.caller().read_msr(CAPABILITIES)), (0, None));
    guest.hv.machine().peripherals.lock().unwrap().cpuid.insert(7, [0, 0, 0, 1 << 29]);
    guest.hv.machine().peripherals.lock().unwrap().msrs.insert(CAPABILITIES, u64::MAX);
    assert_eq!(guest.caller().read_msr(CAPABILITIES), Some(0x0d18_e17b));
    vendor(&guest, *b"Auth");
    assert_eq!(guest.caller().cpuid_leaf(7, 0)[3], 0);
}

#[test]
fn the_x87_pointers_stay_behind_on_amds_cpus_that_do_not_say_otherwise() {
    let by_name = |name: [u8; 4]| Vendor::by_name(u32::from_le_bytes(name));
    assert!(leaves_x87_pointers(by_name(*b"Auth"), 0) && leaves_x87_pointers(by_name(*b"Hygo"), !4));
    assert!(!leaves_x87_pointers(by_name(*b"Auth"), 4) && !leaves_x87_pointers(by_name(*b"Genu"), 0));
}

#[test]
fn ports_of_others_read_all_ones_but_the_timers_counter_stands() {
    let mut guest = guest();
    let mut caller = guest.caller();
    assert_eq!(caller.port_in(0x60, 1), None, "without privilege for I/O");
    caller.state.iopl = 1;
    assert_eq!(caller.port_in(0x60, 1), Some(u32::MAX));
    assert_eq!(caller.port_in(0x61, 1), Some(u32::MAX));
    assert_eq!(caller.port_in(0x42, 1), Some(0));
    assert!(caller.port_out(0x42, 1, 0xff));
    assert_eq!(caller.port_in(0x42, 1), Some(0));
}

#[test]
fn the_control_domain_has_the_timers_speaker_channel_alone() {
    let mut control = Guest::new(support::boot(64), 0, true, 16);
    control.hv.machine().peripherals.lock().unwrap().port_values.extend([(0x40, 1), (0x42, 2), (0x43, 3), (0x61, 4)]);
    let mut caller = control.caller();
    caller.state.iopl = 1;
    let read = [0x40, 0x42, 0x43, 0x61].map(|port| caller.port_in(port, 1));
    assert_eq!(read, [Some(u32::MAX), Some(2), Some(u32::MAX), Some(4)]);
    let writes = [(0x42, 1, 0x11), (0x43, 1, 0xb0), (0x43, 1, 0x34), (0x43, 1, 0xc2), (0x43, 2, 0xb0), (0x40, 1, 0x22)];
    for (port, bytes, value) in writes {
        assert!(caller.port_out(port, bytes, value));
    }
    let seen = control.hv.machine().peripherals.lock().unwrap().port_writes.clone();
    assert_eq!(seen, [(0x42, 1, 0x11), (0x43, 1, 0xb0)], "no other channel is touched");
}

#[test]
fn the_control_domain_reaches_no_part_of_the_console_or_the_acpi_timer() {
    let mut control = Guest::new(support::boot(64), 0, true, 16);
    let own = [0x3f8, 0x3ff, 0x608, 0x60b];
    control.hv.machine().peripherals.lock().unwrap().port_values.extend(own.map(|port| (port, 1)));
    control.hv.machine().peripherals.lock().unwrap().port_values.extend([(0x604, 5), (0x60c, 6)]);
    let mut caller = control.caller();
    caller.state.iopl = 1;
    for (port, bytes) in [(0x3f8, 1), (0x3f6, 4), (0x608, 4), (0x60a, 2), (0x60b, 1), (0x606, 4), (0x607, 2)] {
        assert_eq!(caller.port_in(port, bytes), Some(u32::MAX), "{port:#x}");
        assert!(caller.port_out(port, bytes, 7));
    }
    assert_eq!([0x604, 0x60c].map(|port| caller.port_in(port, 1)), [Some(5), Some(6)]);
    assert!(control.hv.machine().peripherals.lock().unwrap().port_writes.is_empty());
}

#[test]
fn the_number_behind_rdtscp_is_the_vcpus_own() {
    let mut guest = guest();
    let mut caller = guest.caller();
    assert_eq!(caller.read_msr(TSC_AUX), Some(0));
    assert!(caller.write_msr(TSC_AUX, 0x1001));
    assert_eq!(caller.read_msr(TSC_AUX), Some(0x1001));
    assert!(!caller.write_msr(TSC_AUX, 1 << 32), "it has 32 bits");
    assert_eq!(caller.state.tsc_aux, 0x1001);
    assert_eq!(guest.hv.machine().peripherals.lock().unwrap().processor_calls.get("set_tsc_aux"), Some(&1));
}

#[test]
fn a_vendors_registers_are_there_on_its_cpus_only() {
    let mut guest = guest();
    vendor(&guest, *b"Genu");
    assert_eq!(guest.caller().read_msr(HARDWARE_CONFIGURATION), None);
    assert!(!guest.caller().write_msr(HARDWARE_CONFIGURATION, 0x40));
    assert_eq!(guest.caller().read_msr(0x3a), Some(1), "locked");
    vendor(&guest, *b"Auth");
    assert_eq!(guest.caller().read_msr(HARDWARE_CONFIGURATION), Some(0));
    assert!(guest.caller().write_msr(HARDWARE_CONFIGURATION, 0x40));
    assert_eq!(guest.caller().read_msr(HARDWARE_CONFIGURATION), Some(0));
    assert_eq!(guest.caller().read_msr(0x3a), None);
}

#[test]
fn the_prefix_tells_kernels_alone_that_the_hypervisor_saves_extended_state() {
    let mut guest = guest();
    guest.hv.machine().peripherals.lock().unwrap().cpuid.insert(1, [0, 0, XSAVE | OSXSAVE, 0]);
    guest.state.cr4 -= Cr4Flags::OSXSAVE;
    let seen = |answer: [u32; 4]| answer[2] & (XSAVE | OSXSAVE);
    assert_eq!(seen(guest.caller().cpuid_leaf(1, 0)), XSAVE);
    assert_eq!(seen(guest.caller().cpuid_by_prefix(1, 0)), XSAVE | OSXSAVE);
    guest.state.in_kernel = false;
    assert_eq!(seen(guest.caller().cpuid_by_prefix(1, 0)), XSAVE);
    guest.state.cr4 |= Cr4Flags::OSXSAVE;
    assert_eq!(seen(guest.caller().cpuid_by_prefix(1, 0)), XSAVE | OSXSAVE);
}
