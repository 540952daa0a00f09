//! MSI and MSI-X: what a device may write, and who keeps it from writing elsewhere.

use super::*;

fn entry(guest: &Guest, number: u64) -> [u32; 4] {
    let peripherals = guest.hv.machine().peripherals.lock().unwrap();
    [0, 4, 8, 12].map(|at| peripherals.device_memory.get(&(BAR + 0x2000 + 16 * number + at)).copied().unwrap_or(0))
}

/// Maps a frame of device memory for writing, at a page of data; whether it can be written there.
fn map_device(dom0: &mut Guest, home: &Home, address: u64) -> bool {
    dom0.call(Caller::update_va_mapping, [0x7000, address | 0x63, 2, 0]).unwrap();
    table_word(dom0.hv, home.tables[3], 7).load(SeqCst) & 2 != 0
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
