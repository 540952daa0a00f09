//! What a toolstack asks of the machine's memory nodes and processors, and memory asked of a node.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    errno::Errno,
    memory::{MemoryReservation, XENMEM_INCREASE_RESERVATION, XENMEMF_EXACT_NODE_REQUEST},
    platform::{
        PlatformOp, XEN_PM_PX, XENPF_MICROCODE_UPDATE, XENPF_SET_PROCESSOR_PMINFO, XenpfMicrocodeUpdate,
        XenpfSetProcessorPminfo,
    },
    sysctl::{
        Sysctl, SysctlAvailheap, SysctlCpuFeatureset, SysctlCputopo, SysctlCputopoinfo, SysctlMeminfo, SysctlNumainfo,
        XEN_SYSCTL_AVAILHEAP, XEN_SYSCTL_CPUTOPOINFO, XEN_SYSCTL_GET_CPU_FEATURESET, XEN_SYSCTL_NUMAINFO,
    },
};
use oxen_hv::addr::GuestAddr;
use oxen_hv::caller::Caller;
use support::guest::Guest;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Two arrays in the guest's memory, behind the request.
const FIRST: u64 = 0x1000;
const SECOND: u64 = 0x1800;

fn guest(is_privileged: bool) -> Guest {
    support::on_cpu(0);
    let mut guest = Guest::new(support::boot(256), u16::from(!is_privileged), is_privileged, 64);
    guest.build_home(4);
    guest
}

fn ask<T: FromBytes + IntoBytes + Immutable>(guest: &mut Guest, command: u32, request: &T) -> T {
    let op = Sysctl::new(command, request);
    guest.hv.machine().write_guest(GuestAddr::new(0), op.as_bytes()).unwrap();
    assert_eq!(guest.call(Caller::sysctl, [0, 0, 0, 0]), Ok(0));
    let mut answer = Sysctl::new_zeroed();
    guest.hv.machine().read_guest(GuestAddr::new(0), answer.as_mut_bytes()).unwrap();
    answer.get()
}

fn read<T: FromBytes + IntoBytes>(guest: &Guest, at: u64) -> T {
    let mut value = T::new_zeroed();
    guest.hv.machine().read_guest(GuestAddr::new(at), value.as_mut_bytes()).unwrap();
    value
}

#[test]
fn nodes_are_told_as_far_as_there_is_room() {
    let mut control = guest(true);
    let wanted =
        |num_nodes, meminfo, distance| SysctlNumainfo { num_nodes, meminfo, distance, ..FromZeros::new_zeroed() };
    let number = |control: &mut Guest, request: SysctlNumainfo| ask(control, XEN_SYSCTL_NUMAINFO, &request).num_nodes;
    assert_eq!(number(&mut control, wanted(0, 0, 0)), 1, "how many there are");
    assert_eq!(number(&mut control, wanted(0, FIRST, SECOND)), 0, "no room for any");
    assert_eq!(read::<SysctlMeminfo>(&control, FIRST).memsize, 0);
    assert_eq!(number(&mut control, wanted(8, FIRST, SECOND)), 1);
    assert_eq!(read::<SysctlMeminfo>(&control, FIRST).memsize, u64::from(control.hv.memory.frames.ram()) << 12);
    assert_eq!(read::<u32>(&control, SECOND), 10);
}

#[test]
fn a_node_that_is_not_there_has_no_memory() {
    let mut control = guest(true);
    for (node, has_some) in [(-1, true), (0, true), (1, false), (63, false)] {
        let request = SysctlAvailheap { node, ..FromZeros::new_zeroed() };
        assert_eq!(ask(&mut control, XEN_SYSCTL_AVAILHEAP, &request).avail_bytes != 0, has_some, "{node}");
    }
}

#[test]
fn processors_are_told_by_their_numbers() {
    let mut control = guest(true);
    let request = |num_cpus, cputopo| SysctlCputopoinfo { num_cpus, cputopo, ..FromZeros::new_zeroed() };
    let all = control.hv.online_cpus().map(|cpu| u32::from(cpu.0) + 1).max().unwrap();
    assert_eq!(ask(&mut control, XEN_SYSCTL_CPUTOPOINFO, &request(0, 0)).num_cpus, all);
    assert_eq!(ask(&mut control, XEN_SYSCTL_CPUTOPOINFO, &request(0, FIRST)).num_cpus, 0);
    assert_eq!(ask(&mut control, XEN_SYSCTL_CPUTOPOINFO, &request(64, FIRST)).num_cpus, all);
    for number in 0..all {
        let place: SysctlCputopo = read(&control, FIRST + u64::from(number) * size_of::<SysctlCputopo>() as u64);
        let is_online = control.hv.online_cpus().any(|cpu| u32::from(cpu.0) == number);
        assert_eq!(place.core, if is_online { number } else { u32::MAX });
    }
}

#[test]
fn memory_of_one_node_alone_is_the_control_domains_to_ask_for_and_there_is_one_node() {
    for (is_privileged, flags, done) in [
        (true, 0, 1),
        (true, 1 << 8, 1),
        (true, 2 << 8, 1),
        (true, 1 << 8 | XENMEMF_EXACT_NODE_REQUEST, 1),
        (true, 2 << 8 | XENMEMF_EXACT_NODE_REQUEST, 0),
        (false, 1 << 8, 1),
        (false, 1 << 8 | XENMEMF_EXACT_NODE_REQUEST, 0),
        (false, XENMEMF_EXACT_NODE_REQUEST, 1),
    ] {
        let mut guest = guest(is_privileged);
        let domid = oxen_abi::domid::DomId::SELF;
        let request = MemoryReservation { nr_extents: 1, mem_flags: flags, domid, ..FromZeros::new_zeroed() };
        guest.hv.machine().write_guest(GuestAddr::new(0), request.as_bytes()).unwrap();
        let command = u64::from(XENMEM_INCREASE_RESERVATION);
        assert_eq!(guest.call(Caller::memory_op, [command, 0, 0, 0]), Ok(done), "{is_privileged} {flags:#x}");
    }
}

#[test]
fn the_number_of_feature_words_is_told_whichever_are_asked_for() {
    let mut control = guest(true);
    for index in [0, 6] {
        let wanted = SysctlCpuFeatureset { index, ..FromZeros::new_zeroed() };
        assert_eq!(ask(&mut control, XEN_SYSCTL_GET_CPU_FEATURESET, &wanted).nr_features, 19, "{index}");
    }
}

#[test]
fn what_is_told_of_a_processors_speeds_is_judged_part_by_part() {
    let mut control = guest(true);
    let mut tell = |u: [u64; 13]| {
        let request = XenpfSetProcessorPminfo { id: 0, r#type: XEN_PM_PX, u };
        let op = PlatformOp::new(XENPF_SET_PROCESSOR_PMINFO, &request);
        control.hv.machine().write_guest(GuestAddr::new(0), op.as_bytes()).unwrap();
        control.call(Caller::platform_op, [0, 0, 0, 0])
    };
    // Registers of control and status in words 1 and 3, states in 5 and 6, who shares them in 12.
    let with = |flags: u64, at: usize, value: u64| {
        let mut u = [0; 13];
        (u[0], u[5], u[6], u[12]) = (flags, 2, FIRST, 3);
        u[at] = value;
        u
    };
    assert_eq!(tell(with(15, 0, 15)), Ok(0));
    for (flag, at, value, error) in [
        (1, 1, 1 << 32, Errno::Inval),
        (2, 5, 1, Errno::Inval),
        (2, 6, 1 << 40, Errno::Fault),
        (8, 12, 0, Errno::Inval),
        (8, 12, 4, Errno::Inval),
    ] {
        assert_eq!(tell(with(flag, at, value)), Err(error), "{flag} {at} {value}");
        assert_eq!(tell(with(4, at, value)), Ok(0), "that is not told");
    }
}

#[test]
fn processors_keep_their_code_and_the_request_for_other_is_judged() {
    let mut control = guest(true);
    let hv = control.hv;
    let mut ask = |data, length| {
        let op = PlatformOp::new(XENPF_MICROCODE_UPDATE, &XenpfMicrocodeUpdate { data, length, _pad0: 0 });
        control.hv.machine().write_guest(GuestAddr::new(0), op.as_bytes()).unwrap();
        control.call(Caller::platform_op, [0, 0, 0, 0])
    };
    let asked = [(FIRST, 16), (FIRST, 0), (1 << 40, 16), (FIRST, 0x8000), (1 << 63, 1), (FIRST, u32::MAX)];
    let mut on = |name: [u8; 4], signature: u32| {
        let mut peripherals = hv.machine().peripherals.lock().unwrap();
        peripherals.cpuid.insert(0, [0xd, u32::from_le_bytes(name), 0, 0]);
        peripherals.cpuid.insert(1, [signature, 0, 0, 0]);
        drop(peripherals);
        asked.map(|(data, length)| ask(data, length).unwrap_err())
    };
    let judged = [Errno::Inval, Errno::NoEnt, Errno::Fault, Errno::Fault, Errno::Fault, Errno::NoMem];
    assert_eq!(on(*b"Genu", 0x506e3), judged);
    assert_eq!(on(*b"Auth", 0x80_0f12), judged, "family 23");
    assert_eq!(on(*b"Auth", 0x6_0fb1), [Errno::Inval; 6], "family 15 is too old");
    assert_eq!(on(*b"Hygo", 0x90_0f02), [Errno::Inval; 6]);
}
