//! `physdev_op` as dom0's Linux asks it, and as guests must not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod lines;
mod messages;
#[path = "../support/mod.rs"]
mod support;

use oxen_abi::{
    domid::DomId,
    errno::Errno,
    physdev::{
        MAP_PIRQ_TYPE_GSI, MAP_PIRQ_TYPE_MSI, MAP_PIRQ_TYPE_MSI_SEG, MAP_PIRQ_TYPE_MULTI_MSI, PHYSDEVOP_APIC_READ,
        PHYSDEVOP_APIC_WRITE, PHYSDEVOP_DBGP_OP, PHYSDEVOP_EOI, PHYSDEVOP_FREE_IRQ_VECTOR, PHYSDEVOP_IRQ_STATUS_QUERY,
        PHYSDEVOP_MAP_PIRQ, PHYSDEVOP_PCI_DEVICE_ADD, PHYSDEVOP_PCI_DEVICE_REMOVE, PHYSDEVOP_PCI_MMCFG_RESERVED,
        PHYSDEVOP_PIRQ_EOI_GMFN_V1, PHYSDEVOP_PIRQ_EOI_GMFN_V2, PHYSDEVOP_PREPARE_MSIX, PHYSDEVOP_RELEASE_MSIX,
        PHYSDEVOP_RESTORE_MSI, PHYSDEVOP_RESTORE_MSI_EXT, PHYSDEVOP_SET_IOPL, PHYSDEVOP_SETUP_GSI,
        PHYSDEVOP_UNMAP_PIRQ, PhysdevEoi, PhysdevIrqStatusQuery, PhysdevManagePci, PhysdevMapPirq, PhysdevPciDevice,
        PhysdevPciDeviceAdd, PhysdevPirqEoiGmfn, PhysdevSetupGsi, PhysdevUnmapPirq, XEN_PCI_DEV_VIRTFN,
        XENIRQSTAT_NEEDS_EOI,
    },
    sysctl::{Sysctl, SysctlPcitopoinfo, XEN_SYSCTL_PCITOPOINFO},
};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    domain::traps::TrapHandler,
    event::pirq::{Interrupts, Signal},
};
use std::sync::atomic::Ordering::SeqCst;
use support::{
    CONTROLLER, LINES, OWN_LINE,
    control::{control_domain, destroy, furnish, make},
    guest::{Guest, Home},
    table_word,
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

const REQUEST: u64 = 0;
const BAR: u64 = 0xfebd_0000;
const DEVFN: u8 = 0x18;

/// A function with MSI at 0x50, which can be masked, and four entries of MSI-X at 0x70.
fn plug_in(guest: &Guest) {
    let mut space = [0_u8; 256];
    for (at, bytes) in [
        (0x00, &[0x86, 0x80, 0x34, 0x12, 6, 0, 0x10, 0][..]),
        (0x10, &(BAR as u32).to_le_bytes()),
        (0x34, &[0x50]),
        (0x50, &[0x05, 0x70, 0x00, 0x01]),
        (0x70, &[0x11, 0, 3, 0, 0, 0x20, 0, 0, 0, 0x30, 0, 0]),
    ] {
        space[at..at + bytes.len()].copy_from_slice(bytes);
    }
    guest.hv.machine().peripherals.lock().unwrap().functions.insert(u32::from(DEVFN), space);
}

fn dom0() -> (Guest, Home) {
    support::on_cpu(0);
    let mut guest = Guest::new(support::boot(1024), 0, true, 256);
    let home = guest.build_home(8);
    plug_in(&guest);
    (guest, home)
}

fn ask<T: FromBytes + IntoBytes + Immutable>(guest: &mut Guest, command: u32, request: T) -> Result<T, Errno> {
    guest.hv.machine().write_guest(GuestAddr::new(REQUEST), request.as_bytes()).unwrap();
    guest.call(Caller::physdev_op, [command.into(), REQUEST, 0, 0])?;
    let mut answer = T::new_zeroed();
    guest.hv.machine().read_guest(GuestAddr::new(REQUEST), answer.as_mut_bytes()).unwrap();
    Ok(answer)
}

fn device() -> PhysdevPciDevice {
    PhysdevPciDevice { seg: 0, bus: 0, devfn: DEVFN }
}

fn announce(guest: &mut Guest) {
    let device = PhysdevPciDeviceAdd { devfn: DEVFN, ..FromZeros::new_zeroed() };
    ask(guest, PHYSDEVOP_PCI_DEVICE_ADD, device).unwrap();
}

/// Entry `entry` of the MSI-X table, or the message of MSI with a negative one.
fn message(entry: i32) -> PhysdevMapPirq {
    let (table_base, entry_nr) = if entry < 0 { (0, 0) } else { (BAR, entry) };
    PhysdevMapPirq {
        domid: DomId::SELF,
        r#type: MAP_PIRQ_TYPE_MSI_SEG,
        index: -1,
        pirq: -1,
        devfn: DEVFN.into(),
        entry_nr,
        table_base,
        ..FromZeros::new_zeroed()
    }
}

fn unmap(guest: &mut Guest, pirq: i32) -> Result<(), Errno> {
    let request = PhysdevUnmapPirq { domid: DomId::SELF, pirq, ..FromZeros::new_zeroed() };
    ask(guest, PHYSDEVOP_UNMAP_PIRQ, request).map(|_| ())
}

fn pending(guest: &Guest) -> u64 {
    guest.hv.machine().words(guest.domain.shared_info)[256].load(SeqCst)
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
    assert_eq!(
        hv.memory.frames.reserved(domain.owner().slot().unwrap()),
        0,
        "nobody holds a page of the dead domain's"
    );
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
