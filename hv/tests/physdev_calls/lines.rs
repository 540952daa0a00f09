//! Lines, the numbers that a guest reserves, and what is refused.

use super::{DEVFN, REQUEST, announce, ask, device, dom0, message, unmap};
use crate::support::{
    CONTROLLER, LINES, OWN_LINE,
    control::{control_domain, destroy, furnish, make},
    guest::Guest,
};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    physdev::{
        MAP_PIRQ_TYPE_GSI, PHYSDEVOP_APIC_READ, PHYSDEVOP_APIC_WRITE, PHYSDEVOP_DBGP_OP, PHYSDEVOP_EOI,
        PHYSDEVOP_FREE_IRQ_VECTOR, PHYSDEVOP_IRQ_STATUS_QUERY, PHYSDEVOP_MAP_PIRQ, PHYSDEVOP_PCI_DEVICE_ADD,
        PHYSDEVOP_PCI_MMCFG_RESERVED, PHYSDEVOP_PREPARE_MSIX, PHYSDEVOP_RELEASE_MSIX, PHYSDEVOP_RESTORE_MSI,
        PHYSDEVOP_RESTORE_MSI_EXT, PHYSDEVOP_SET_IOPL, PHYSDEVOP_SETUP_GSI, PhysdevIrqStatusQuery, PhysdevManagePci,
        PhysdevMapPirq, PhysdevPciDeviceAdd, PhysdevSetupGsi, XEN_PCI_DEV_VIRTFN, XENIRQSTAT_NEEDS_EOI,
    },
    sysctl::{Sysctl, SysctlPcitopoinfo, XEN_SYSCTL_PCITOPOINFO},
};
use oxen_hv::{
    addr::GuestAddr,
    caller::Caller,
    event::pirq::{Interrupts, Signal},
};
use std::sync::atomic::Ordering::SeqCst;
use zerocopy::{FromZeros, IntoBytes};

#[test]
fn a_line_is_set_up_once_unless_it_is_at_work() {
    let (mut dom0, _) = dom0();
    let map = |dom0: &mut Guest, gsi| {
        let line = PhysdevMapPirq { r#type: MAP_PIRQ_TYPE_GSI, index: gsi, pirq: gsi, ..message(-1) };
        ask(dom0, PHYSDEVOP_MAP_PIRQ, line).unwrap();
    };
    let set_up = |dom0: &mut Guest, gsi| {
        ask(dom0, PHYSDEVOP_SETUP_GSI, PhysdevSetupGsi { gsi, triggering: 1, polarity: 1, _pad0: 0 })
    };
    let state = |dom0: &Guest, gsi| dom0.hv.machine().peripherals.lock().unwrap().lines[&gsi];
    let edge = Signal { is_level: false, is_active_low: false };
    let level = Signal { is_level: true, is_active_low: true };
    // A classic line is an edge once it is mapped, and then what is said of it.
    map(&mut dom0, 5);
    assert_eq!(state(&dom0, 5), (edge, true));
    set_up(&mut dom0, 5).unwrap();
    assert_eq!(state(&dom0, 5), (level, true));
    assert_eq!(set_up(&mut dom0, 5), Err(Errno::Exist));
    dom0.caller().bind_pirq(5).unwrap();
    dom0.hv.raise_pirq(5);
    assert!(state(&dom0, 5).1, "a level stays masked until it is served");
    // One that is bound stays as it is.
    map(&mut dom0, 7);
    let port = dom0.caller().bind_pirq(7).unwrap();
    assert_eq!((set_up(&mut dom0, 7), state(&dom0, 7)), (Err(Errno::Exist), (edge, false)));
    dom0.hv.close_port(&dom0.domain, port).unwrap();
    set_up(&mut dom0, 7).unwrap();
    assert_eq!((set_up(&mut dom0, 7), state(&dom0, 7)), (Err(Errno::Exist), (level, true)));
    assert_eq!(set_up(&mut dom0, 0), Err(Errno::Exist), "the interval timer's");
    // Others are nothing before that.
    map(&mut dom0, 21);
    dom0.caller().bind_pirq(21).unwrap();
    set_up(&mut dom0, 21).unwrap();
    assert_eq!((set_up(&mut dom0, 21), state(&dom0, 21)), (Err(Errno::Exist), (level, false)));
}

#[test]
fn the_hypervisors_own_line_is_named_and_not_touched() {
    let (mut dom0, _) = dom0();
    let own = OWN_LINE as i32;
    let signal = Signal { is_level: false, is_active_low: false };
    dom0.hv.machine().route(OWN_LINE, signal).unwrap();
    dom0.hv.machine().set_masked(OWN_LINE, false);
    let line = PhysdevMapPirq { r#type: MAP_PIRQ_TYPE_GSI, index: own, pirq: own, ..message(-1) };
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, line).unwrap();
    let level = PhysdevSetupGsi { gsi: own, triggering: 1, polarity: 1, _pad0: 0 };
    assert_eq!(ask(&mut dom0, PHYSDEVOP_SETUP_GSI, level), Err(Errno::Exist));
    assert_eq!(dom0.caller().bind_pirq(OWN_LINE), Err(Errno::Busy.into()));
    unmap(&mut dom0, own).unwrap();
    assert_eq!(dom0.hv.machine().peripherals.lock().unwrap().lines[&OWN_LINE], (signal, false));
}

#[test]
fn the_right_to_a_line_goes_with_its_mapping() {
    let (mut dom0, _) = dom0();
    let line = PhysdevMapPirq { r#type: MAP_PIRQ_TYPE_GSI, index: 21, pirq: 21, ..message(-1) };
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, line).unwrap();
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, line).unwrap();
    unmap(&mut dom0, 21).unwrap();
    assert_eq!(ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, line), Err(Errno::Perm), "as in Xen");
    assert_eq!(unmap(&mut dom0, 21), Err(Errno::Inval));
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, PhysdevMapPirq { index: 20, pirq: 20, ..line }).unwrap();
}

#[test]
fn no_node_is_known_of_a_device_that_is() {
    let (mut dom0, _) = dom0();
    announce(&mut dom0);
    // Segment, bus, device and function.
    let devices = [u32::from(DEVFN) << 24, u32::from(DEVFN) << 24 | 1, u32::from(DEVFN) << 24 | 1 << 16];
    dom0.hv.machine().write_guest(GuestAddr::new(0x1000), devices.as_bytes()).unwrap();
    let asked = SysctlPcitopoinfo { num_devs: 3, _pad0: 0, devs: 0x1000, nodes: 0x1800 };
    let op = Sysctl::new(XEN_SYSCTL_PCITOPOINFO, &asked);
    dom0.hv.machine().write_guest(GuestAddr::new(0), op.as_bytes()).unwrap();
    assert_eq!(dom0.call(Caller::sysctl, [0; 4]), Ok(0));
    let mut nodes = [0_u32; 3];
    dom0.hv.machine().read_guest(GuestAddr::new(0x1800), nodes.as_mut_bytes()).unwrap();
    assert_eq!(nodes, [u32::MAX, u32::MAX - 1, u32::MAX - 1]);
    // A virtual function brings the physical one that it names.
    let physfn = PhysdevManagePci { bus: 1, devfn: DEVFN };
    let add = PhysdevPciDeviceAdd { devfn: DEVFN + 1, flags: XEN_PCI_DEV_VIRTFN, physfn, ..FromZeros::new_zeroed() };
    ask(&mut dom0, PHYSDEVOP_PCI_DEVICE_ADD, add).unwrap();
    dom0.hv.machine().write_guest(GuestAddr::new(0), op.as_bytes()).unwrap();
    assert_eq!(dom0.call(Caller::sysctl, [0; 4]), Ok(0));
    dom0.hv.machine().read_guest(GuestAddr::new(0x1800), nodes.as_mut_bytes()).unwrap();
    assert_eq!(nodes, [u32::MAX, u32::MAX - 1, u32::MAX]);
}

#[test]
fn a_guest_gets_numbers_and_a_page_and_nothing_else() {
    let mut dom0 = control_domain();
    let hv = dom0.hv;
    let domain = make(&mut dom0);
    domain.memory.max_pages.store(64, SeqCst);
    let (_, frames) = furnish(hv, &domain);
    let refs = hv.memory.frames.state(frames[6]).refs();
    hv.set_eoi_page(&domain, frames[6].raw(), false).unwrap();
    assert_eq!(hv.memory.frames.state(frames[6]).refs(), refs + 1);
    let mut given: Vec<u32> = std::iter::from_fn(|| hv.reserve_pirq(&domain, true).ok()).collect();
    assert_eq!(given[..9], [16, 17, 18, 19, 20, 21, 22, 23, LINES + 31]);
    given.sort_unstable();
    assert_eq!(given, (16..LINES + 32).collect::<Vec<_>>());
    assert_eq!(hv.reserve_pirq(&domain, false), Err(Errno::NoSpc));
    assert_eq!(hv.end_of_interrupt(&domain, 16), Ok(None));
    assert_eq!(hv.end_of_interrupt(&domain, 15), Err(Errno::Inval));
    assert_eq!(hv.reserve_pirq(&dom0.domain, false), Ok(207), "the control domain has its own");
    assert_eq!(hv.reserve_pirq(&dom0.domain, true), Ok(16));
    destroy(&mut dom0, domain.id).unwrap();
    assert_eq!(hv.memory.frames.reserved(domain.owner.slot().unwrap()), 0, "nobody holds a page of the dead domain's");
}

#[test]
fn who_may_not_is_told_in_xens_order() {
    support::on_cpu(0);
    let mut guest = Guest::new(support::boot(256), 1, false, 64);
    guest.build_home(2);
    let map = |domid, r#type| PhysdevMapPirq { domid: DomId(domid), r#type, ..FromZeros::new_zeroed() };
    assert_eq!(ask(&mut guest, PHYSDEVOP_MAP_PIRQ, map(77, 9)), Err(Errno::Srch));
    assert_eq!(ask(&mut guest, PHYSDEVOP_MAP_PIRQ, map(1, 9)), Err(Errno::Perm));
    let gsi = |gsi| PhysdevSetupGsi { gsi, ..FromZeros::new_zeroed() };
    assert_eq!(ask(&mut guest, PHYSDEVOP_SETUP_GSI, gsi(24)), Err(Errno::Inval));
    assert_eq!(ask(&mut guest, PHYSDEVOP_SETUP_GSI, gsi(23)), Err(Errno::Perm));
    for command in [PHYSDEVOP_PREPARE_MSIX, PHYSDEVOP_RELEASE_MSIX] {
        assert_eq!(ask(&mut guest, command, device()), Err(Errno::Perm));
    }
    assert_eq!(ask(&mut guest, PHYSDEVOP_RESTORE_MSI_EXT, device()), Err(Errno::NoDev), "before who asks");
    assert_eq!(guest.call(Caller::physdev_op, [PHYSDEVOP_PCI_MMCFG_RESERVED.into(), 1 << 47, 0, 0]), Err(Errno::Perm));
    assert_eq!(guest.call(Caller::physdev_op, [PHYSDEVOP_DBGP_OP.into(), 1 << 47, 0, 0]), Err(Errno::Perm));
    assert_eq!(guest.call(Caller::physdev_op, [PHYSDEVOP_RESTORE_MSI.into(), 1 << 47, 0, 0]), Err(Errno::Fault));
    let status = |irq| PhysdevIrqStatusQuery { irq, flags: 0 };
    let answer = ask(&mut guest, PHYSDEVOP_IRQ_STATUS_QUERY, status(LINES + 31)).unwrap();
    assert_eq!(answer.flags, XENIRQSTAT_NEEDS_EOI);
    assert_eq!(ask(&mut guest, PHYSDEVOP_IRQ_STATUS_QUERY, status(LINES + 32)), Err(Errno::Inval));
}

#[test]
fn the_interface_of_old_takes_command_and_argument_in_one() {
    let (mut dom0, _) = dom0();
    let old = |dom0: &mut Guest, words: [u32; 6]| {
        dom0.hv.machine().write_guest(GuestAddr::new(REQUEST), words.as_bytes()).unwrap();
        dom0.call(Caller::physdev_op_compat, [REQUEST, 0, 0, 0])
    };
    assert_eq!(old(&mut dom0, [PHYSDEVOP_SET_IOPL, 0, 2, 0, 0, 0]), Ok(0));
    assert_eq!(dom0.state.iopl, 2);
    assert_eq!(old(&mut dom0, [PHYSDEVOP_EOI, 0, 2, 0, 0, 0]), Err(Errno::Inval), "younger, and taken");
    assert_eq!(old(&mut dom0, [PHYSDEVOP_FREE_IRQ_VECTOR, 0, 2, 0, 0, 0]), Err(Errno::NoSys));
    let place = [CONTROLLER as u32, 0];
    assert_eq!(old(&mut dom0, [PHYSDEVOP_APIC_READ, 0, place[0], 0, 0x15, 0]), Ok(0));
    let mut answer = [0; 4];
    dom0.hv.machine().read_guest(GuestAddr::new(20), &mut answer).unwrap();
    assert_eq!(u32::from_le_bytes(answer), 0x15);
    // Pin 5 by level, active low, as pirq 5; then with a number that is not the line's.
    assert_eq!(old(&mut dom0, [PHYSDEVOP_APIC_WRITE, 0, place[0], 0, 0x1a, 0xa005]), Ok(0));
    assert_eq!(old(&mut dom0, [PHYSDEVOP_APIC_WRITE, 0, place[0], 0, 0x1a, 0xa006]), Err(Errno::Inval));
    assert_eq!(old(&mut dom0, [PHYSDEVOP_APIC_WRITE, 0, 0x1000, 0, 0x1a, 0xa005]), Err(Errno::Inval));
    dom0.caller().bind_pirq(5).unwrap();
    let (signal, is_masked) = dom0.hv.machine().peripherals.lock().unwrap().lines[&5];
    assert!(signal.is_level && signal.is_active_low && !is_masked);
    assert_eq!(dom0.call(Caller::physdev_op_compat, [1 << 47, 0, 0, 0]), Err(Errno::Fault));
}
