//! `physdev_op` as dom0's Linux asks it, and as guests must not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

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

fn entry(guest: &Guest, number: u64) -> [u32; 4] {
    let peripherals = guest.hv.machine().peripherals.lock().unwrap();
    [0, 4, 8, 12].map(|at| peripherals.device_memory.get(&(BAR + 0x2000 + 16 * number + at)).copied().unwrap_or(0))
}

#[test]
fn an_entry_of_a_table_rings_a_port_from_binding_to_closing() {
    let (mut dom0, _) = dom0();
    assert_eq!(ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, message(1)), Err(Errno::NoDev), "nobody has announced it");
    announce(&mut dom0);
    let mapped = ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, message(1)).unwrap();
    assert_eq!((mapped.pirq, mapped.r#type), (207, MAP_PIRQ_TYPE_MSI), "from above, as Xen gives them out");
    assert_eq!(entry(&dom0, 1), [0xfee0_0000, 0, 0x4020 + 207, 1], "masked until it is bound");
    let port = dom0.caller().bind_pirq(207).unwrap();
    assert_eq!(entry(&dom0, 1)[3], 0);
    dom0.hv.raise_pirq(207);
    assert_eq!((pending(&dom0), entry(&dom0, 1)[3]), (1 << port, 0), "an edge is not masked");
    dom0.hv.close_port(&dom0.domain, port).unwrap();
    assert_eq!(entry(&dom0, 1)[3], 1);
    dom0.hv.raise_pirq(207);
    assert_eq!(pending(&dom0), 0);
    unmap(&mut dom0, 207).unwrap();
    assert_eq!(unmap(&mut dom0, 207), Err(Errno::Inval));
    assert_eq!(dom0.caller().bind_pirq(207), Err(Errno::Perm.into()));
}

#[test]
fn what_is_unmapped_while_bound_is_silenced_and_its_number_kept() {
    let (mut dom0, _) = dom0();
    announce(&mut dom0);
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, message(2)).unwrap();
    let port = dom0.caller().bind_pirq(207).unwrap();
    unmap(&mut dom0, 207).unwrap();
    assert_eq!(entry(&dom0, 2)[3], 1);
    dom0.hv.raise_pirq(207);
    assert_eq!(pending(&dom0), 0, "what was on its way is lost");
    let next = ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, message(2)).unwrap();
    assert_eq!(next.pirq, 206);
    dom0.hv.close_port(&dom0.domain, port).unwrap();
    ask(&mut dom0, PHYSDEVOP_PCI_DEVICE_REMOVE, device()).unwrap();
    assert_eq!(dom0.caller().bind_pirq(206), Err(Errno::Perm.into()), "the device is gone");
    assert_eq!(ask(&mut dom0, PHYSDEVOP_PCI_DEVICE_REMOVE, device()), Err(Errno::NoDev));
}

#[test]
fn the_message_goes_where_the_bound_vcpu_runs() {
    let (mut dom0, _) = dom0();
    support::on_cpu(0);
    dom0.hv.add_vcpu(&dom0.domain, 1).unwrap();
    let cpu = |vcpu| u32::from(dom0.domain.vcpu(vcpu).unwrap().sched.cpu().unwrap().0);
    let places = [0, 1].map(|vcpu| 0xfee0_0000 | cpu(vcpu) << 12);
    announce(&mut dom0);
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, message(0)).unwrap();
    let port = dom0.caller().bind_pirq(207).unwrap();
    assert_eq!(entry(&dom0, 0)[0], places[0]);
    dom0.caller().bind_vcpu(port, 1).unwrap();
    assert_eq!((entry(&dom0, 0)[0], entry(&dom0, 0)[3]), (places[1], 0));
}

#[test]
fn msi_is_one_message() {
    let (mut dom0, _) = dom0();
    announce(&mut dom0);
    let several = |entry_nr| PhysdevMapPirq { r#type: MAP_PIRQ_TYPE_MULTI_MSI, entry_nr, ..message(-1) };
    for (count, answer) in [(0, Errno::Dom), (33, Errno::Dom), (2, Errno::OpNotSupp), (32, Errno::OpNotSupp)] {
        assert_eq!(ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, several(count)), Err(answer), "{count}");
    }
    assert_eq!(ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, PhysdevMapPirq { table_base: 1, ..several(1) }), Err(Errno::Inval));
    for (index, answer) in [(32, Errno::Perm), (5, Errno::Inval), (-2, Errno::Inval), (5000, Errno::Inval)] {
        let request = PhysdevMapPirq { index, ..message(-1) };
        assert_eq!(ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, request), Err(answer), "as number {index}");
    }
    let _other = Guest::new(dom0.hv, 4, false, 40);
    for (index, domain, answer) in [(32, 4, Errno::Perm), (-1, 4, Errno::OpNotSupp), (32, 5, Errno::Srch)] {
        let request = PhysdevMapPirq { index, domid: DomId(domain), ..message(-1) };
        assert_eq!(ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, request), Err(answer), "{index} for domain {domain}");
    }
    let mapped = ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, message(-1)).unwrap().pirq;
    assert_eq!(ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, several(1)), Err(Errno::Exist));
    assert_eq!(ask(&mut dom0, PHYSDEVOP_PREPARE_MSIX, device()).err(), None, "nobody uses MSI-X");
    unmap(&mut dom0, mapped).unwrap();
    assert_eq!(ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, several(1)).unwrap().pirq, mapped);
}

/// Maps a frame of device memory for writing, at a page of data; whether it can be written there.
fn map_device(dom0: &mut Guest, home: &Home, address: u64) -> bool {
    dom0.call(Caller::update_va_mapping, [0x7000, address | 0x63, 2, 0]).unwrap();
    table_word(dom0.hv, home.tables[3], 7).load(SeqCst) & 2 != 0
}

#[test]
fn a_table_in_use_is_mapped_read_only_and_what_is_written_there_is_lost() {
    let (mut dom0, home) = dom0();
    announce(&mut dom0);
    assert!(map_device(&mut dom0, &home, BAR + 0x2000));
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, message(1)).unwrap();
    assert!(map_device(&mut dom0, &home, BAR + 0x1000));
    assert!(!map_device(&mut dom0, &home, BAR + 0x2000));
    let before = entry(&dom0, 1);
    // mov [rdx], eax
    dom0.hv.machine().write_guest(GuestAddr::new(0x1000), &[0x89, 0x02, 0x90]).unwrap();
    (dom0.regs.rip, dom0.regs.rdx, dom0.regs.rax) = (0x1000, 0x7010, 0x1234);
    dom0.caller().page_fault(0x7010, 7);
    assert_eq!((dom0.regs.rip, entry(&dom0, 1)), (0x1002, before));
    // xchg [rdx], eax
    dom0.hv.machine().write_guest(GuestAddr::new(0x1000), &[0x87, 0x02, 0x90]).unwrap();
    dom0.state.traps.set(14, TrapHandler { address: 0x2000, cs: 0xe033, flags: 0 });
    (dom0.regs.rip, dom0.regs.rsp) = (0x1000, 0x3000);
    dom0.caller().page_fault(0x7010, 7);
    assert_eq!(dom0.regs.rip, 0x2000, "what also reads is the guest's own fault");
    unmap(&mut dom0, 207).unwrap();
    assert!(map_device(&mut dom0, &home, BAR + 0x2000));
    ask(&mut dom0, PHYSDEVOP_PREPARE_MSIX, device()).unwrap();
    assert!(map_device(&mut dom0, &home, BAR + 0x1000) && !map_device(&mut dom0, &home, BAR + 0x2000));
    assert_eq!(ask(&mut dom0, PHYSDEVOP_PREPARE_MSIX, device()), Err(Errno::Busy));
    ask(&mut dom0, PHYSDEVOP_RELEASE_MSIX, device()).unwrap();
    assert_eq!(ask(&mut dom0, PHYSDEVOP_RELEASE_MSIX, device()), Err(Errno::Busy));
}

#[test]
fn the_ports_of_configuration_space_write_no_message() {
    let (mut dom0, _) = dom0();
    announce(&mut dom0);
    dom0.state.iopl = 3;
    let space = |dom0: &Guest| dom0.hv.machine().peripherals.lock().unwrap().functions[&u32::from(DEVFN)];
    let mut write = |register: u32, port, bytes, value| {
        let before = space(&dom0);
        assert!(dom0.caller().port_out(0xcf8, 4, 0x8000_0000 | u32::from(DEVFN) << 8 | register));
        assert!(dom0.caller().port_out(port, bytes, value));
        space(&dom0) != before
    };
    assert!(write(0x3c, 0xcfc, 1, 9));
    assert!(!write(0x74, 0xcfc, 4, 9) && !write(0x70, 0xcfc, 4, 0xffff_ffff));
    assert!(!write(0x70, 0xcfd, 4, 0xffff_ffff), "past the ports");
    assert!(!write(0x70, 0xcf9, 4, 0xffff_ffff), "from before the ports");
    assert!(write(0x70, 0xcfe, 2, 0x8003));
}

#[test]
fn the_page_says_what_must_be_ended_and_old_kernels_unmask_by_ending() {
    let (mut dom0, home) = dom0();
    let page = |frame: Mfn| PhysdevPirqEoiGmfn { gmfn: frame.raw() };
    for (frame, why) in [(home.tables[3].raw(), "a table"), (2000, "no RAM"), (3, "the hypervisor's")] {
        let request = PhysdevPirqEoiGmfn { gmfn: frame };
        assert_eq!(ask(&mut dom0, PHYSDEVOP_PIRQ_EOI_GMFN_V2, request), Err(Errno::Inval), "{why}");
    }
    ask(&mut dom0, PHYSDEVOP_PIRQ_EOI_GMFN_V1, page(home.data[4])).unwrap();
    let free = dom0.hv.memory.frames.state(home.data[5]);
    assert_eq!(ask(&mut dom0, PHYSDEVOP_PIRQ_EOI_GMFN_V2, page(home.data[5])), Err(Errno::Busy));
    assert_eq!(dom0.hv.memory.frames.state(home.data[5]), free);
    announce(&mut dom0);
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, message(0)).unwrap();
    let line = PhysdevMapPirq { r#type: MAP_PIRQ_TYPE_GSI, index: 20, pirq: 20, ..message(-1) };
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, line).unwrap();
    let signal = PhysdevSetupGsi { gsi: 20, triggering: 1, polarity: 1, _pad0: 0 };
    ask(&mut dom0, PHYSDEVOP_SETUP_GSI, signal).unwrap();
    assert_eq!(ask(&mut dom0, PHYSDEVOP_SETUP_GSI, signal), Err(Errno::Exist));
    let words = dom0.hv.machine().words(home.data[4]);
    words[3].store(u64::MAX, SeqCst);
    let [level, _] = [20, 207].map(|pirq| dom0.caller().bind_pirq(pirq).unwrap());
    assert_eq!((words[0].load(SeqCst), words[3].load(SeqCst)), (1 << 20, !(1 << 15)));
    dom0.hv.raise_pirq(20);
    let is_masked = |dom0: &Guest| dom0.hv.machine().peripherals.lock().unwrap().lines[&20].1;
    let mask = &dom0.hv.machine().words(dom0.domain.shared_info)[320];
    mask.store(1 << level, SeqCst);
    assert!(is_masked(&dom0));
    ask(&mut dom0, PHYSDEVOP_EOI, PhysdevEoi { irq: 20 }).unwrap();
    assert_eq!((is_masked(&dom0), mask.load(SeqCst)), (false, 0));
    assert_eq!(ask(&mut dom0, PHYSDEVOP_EOI, PhysdevEoi { irq: 21 }), Err(Errno::Inval), "nobody has it");
    unmap(&mut dom0, 20).unwrap();
    assert!(is_masked(&dom0));
    assert!(!dom0.hv.is_event_pending(&dom0.domain, 0));
}

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
    let timer = PhysdevMapPirq { index: 0, pirq: 0, ..line };
    assert_eq!(ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, timer), Err(Errno::Perm), "nobody has the interval timer's");
    assert!(!dom0.hv.machine().peripherals.lock().unwrap().lines.contains_key(&0), "nor routes it");
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
