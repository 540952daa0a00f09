//! A bus whose functions lie.

use super::*;
use core::{cell::RefCell, ops::RangeInclusive};
use std::{collections::BTreeMap, vec::Vec as List};

/// Configuration spaces by address, and device memory that keeps what is written.
#[derive(Default)]
struct Bus {
    spaces: RefCell<BTreeMap<u32, [u8; 256]>>,
    memory: RefCell<BTreeMap<u64, u32>>,
    writes: RefCell<List<(u64, u32)>>,
    address: RefCell<u32>,
}

impl Ports for Bus {
    fn port_in(&self, port: u16, bytes: u8) -> u32 {
        let address = *self.address.borrow();
        let first = (address & 0xfc) as usize | usize::from(port & 3);
        let spaces = self.spaces.borrow();
        let Some(space) = spaces.get(&(address >> 8 & 0xffff)).filter(|_| address >> 31 == 1) else { return u32::MAX };
        (0..usize::from(bytes)).rev().fold(0, |value, n| value << 8 | u32::from(space[first + n]))
    }

    fn port_out(&self, port: u16, bytes: u8, value: u32) {
        if port == 0xcf8 {
            assert_eq!(value & 0x7f00_0003, 0, "reserved bits of the address");
            *self.address.borrow_mut() = value;
            return;
        }
        let address = *self.address.borrow();
        let first = (address & 0xfc) as usize | usize::from(port & 3);
        if address >> 31 == 1
            && let Some(space) = self.spaces.borrow_mut().get_mut(&(address >> 8 & 0xffff))
        {
            space[first..first + usize::from(bytes)].copy_from_slice(&value.to_le_bytes()[..usize::from(bytes)]);
        }
    }

    fn has_own_port(&self, _: RangeInclusive<u16>) -> bool {
        false
    }
}

impl DeviceMemory for Bus {
    fn read_device(&self, at: MachineAddr) -> u32 {
        self.memory.borrow().get(&at.as_u64()).copied().unwrap_or(u32::MAX)
    }

    fn write_device(&self, at: MachineAddr, bytes: u8, value: u32) {
        assert!(at.as_u64() >= DEVICES, "the write to {:#x} is to a device", at.as_u64());
        assert_eq!(at.as_u64() % u64::from(bytes), 0, "the write is aligned");
        self.memory.borrow_mut().insert(at.as_u64(), value);
        self.writes.borrow_mut().push((at.as_u64(), value));
    }
}

impl Reserve for Bus {
    fn reserve(&self, _: usize) -> Result<(), Errno> {
        Ok(())
    }
}

/// Below is RAM.
const DEVICES: u64 = 0xc000_0000;
const BAR: u64 = 0xfebd_0000;
const AT: Address = Address::new(0, 0, 0x18);
const MESSAGE: Message = Message { address: 0xfee0_1000, data: 0x40c8 };
const MSI_AT: usize = 0x50;
const MSIX_AT: usize = 0x70;

fn is_device(mfn: Mfn) -> bool {
    mfn.raw() << 12 >= DEVICES
}

/// A function that has both capabilities, whose MSI control word says this besides, and eight MSI-X entries.
fn space(msi_control: u16) -> [u8; 256] {
    let mut space = [0; 256];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x00, &[0x86, 0x80, 0x34, 0x12, 2, 0, 0x10, 0]);
    put(0x14, &(BAR as u32 | 4).to_le_bytes());
    put(0x34, &[MSI_AT as u8]);
    put(MSI_AT, &[0x05, MSIX_AT as u8]);
    put(MSI_AT + 2, &msi_control.to_le_bytes());
    put(MSIX_AT, &[0x11, 0, 7, 0, 1, 0x20, 0, 0, 1, 0x30, 0, 0]);
    space
}

fn bus(space: [u8; 256]) -> (Bus, Pci) {
    let bus = Bus::default();
    bus.spaces.borrow_mut().insert(AT.0, space);
    let mut pci = Pci::default();
    pci.announce(&bus, AT).unwrap();
    (bus, pci)
}

fn word(bus: &Bus, at: usize) -> u32 {
    u32::from_le_bytes(bus.spaces.borrow()[&AT.0][at..at + 4].try_into().unwrap())
}

fn mfn(address: u64) -> Mfn {
    Mfn::containing(MachineAddr::new(address)).unwrap()
}

#[test]
fn msi_is_written_by_the_layout_that_the_device_has() {
    for (control, data_at, mask_at) in [(0, 8, None), (0x80, 12, None), (0x100, 8, Some(12)), (0x180, 12, Some(16))] {
        let (bus, mut pci) = bus(space(control | 0x71));
        pci.assign(&bus, &is_device, (AT, Entry::Msi), 30, MESSAGE).unwrap();
        assert_eq!(word(&bus, MSI_AT + 4), MESSAGE.address);
        assert_eq!(word(&bus, MSI_AT + data_at) & 0xffff, MESSAGE.data);
        assert_eq!(word(&bus, MSI_AT) >> 16, u32::from(control | 1), "one message, and on as it was");
        let masked = || mask_at.map(|at| word(&bus, MSI_AT + at));
        assert!(masked().is_none_or(|mask| mask == u32::MAX));
        pci.set_masked(&bus, 30, false);
        assert!(masked().is_none_or(|mask| mask == !1));
        pci.aim(&bus, 30, Message { address: 0xfee0_3000, ..MESSAGE });
        assert_eq!((word(&bus, MSI_AT + 4), word(&bus, MSI_AT + data_at) & 0xffff), (0xfee0_3000, MESSAGE.data));
        assert!(pci.release(&bus, 30) && !pci.release(&bus, 30));
        assert!(masked().is_none_or(|mask| mask == u32::MAX));
        assert_eq!(word(&bus, MSI_AT) >> 16 & 1, 0, "off");
    }
}

#[test]
fn a_device_that_changes_what_it_says_of_its_capability_moves_no_write() {
    let (bus, mut pci) = bus(space(0));
    bus.spaces.borrow_mut().get_mut(&AT.0).unwrap()[MSI_AT + 2..][..2].copy_from_slice(&0x180_u16.to_le_bytes());
    pci.assign(&bus, &is_device, (AT, Entry::Msi), 30, MESSAGE).unwrap();
    pci.set_masked(&bus, 30, false);
    assert_eq!((word(&bus, MSI_AT + 4), word(&bus, MSI_AT + 8)), (MESSAGE.address, MESSAGE.data));
    assert_eq!([12, 16, 20].map(|at| word(&bus, MSI_AT + at)), [0; 3], "the capability was ten bytes");
    pci.write_port(&bus, 0x8000_0000 | AT.0 << 8 | (MSI_AT as u32 + 8), 0xcfc, 4, 7);
    assert_eq!(word(&bus, MSI_AT + 8), MESSAGE.data, "and is kept as it was");
    pci.release(&bus, 30);
}

#[test]
fn the_table_is_written_masked_and_kept_while_an_entry_is_in_use() {
    let (bus, mut pci) = bus(space(0));
    let table = BAR + 0x2000;
    let pages = [table, BAR + 0x3000].map(mfn);
    assert!(pages.iter().all(|&page| !pci.is_read_only(page)));
    pci.assign(&bus, &is_device, (AT, Entry::Msix(3)), 30, MESSAGE).unwrap();
    assert!(pages.iter().all(|&page| pci.is_read_only(page)) && !pci.is_read_only(mfn(BAR + 0x1000)));
    let entry = |n: u64| [0, 4, 8, 12].map(|at| bus.read_device(MachineAddr::new(table + 16 * n + at)));
    assert_eq!(entry(3), [MESSAGE.address, 0, MESSAGE.data, 1]);
    assert!((0..8).all(|n| entry(n)[3] == 1), "every entry is masked before the first is used");
    assert_eq!(word(&bus, MSIX_AT) >> 16, 7, "MSI-X is as it was: off");
    pci.set_masked(&bus, 30, false);
    assert_eq!(entry(3)[3], 0);
    bus.writes.borrow_mut().clear();
    let other = Message { address: 0xfee0_2000, ..MESSAGE };
    pci.aim(&bus, 30, other);
    assert_eq!(entry(3), [other.address, 0, other.data, 0]);
    assert_eq!(bus.writes.borrow()[0], (table + 3 * 16 + 12, 1), "it is masked while it is between the two");
    assert_eq!(pci.assign(&bus, &is_device, (AT, Entry::Msix(3)), 31, MESSAGE), Err(Errno::Exist));
    assert_eq!(pci.assign(&bus, &is_device, (AT, Entry::Msix(8)), 31, MESSAGE), Err(Errno::Inval));
    assert_eq!(pci.assign(&bus, &is_device, (AT, Entry::Msi), 31, MESSAGE), Err(Errno::Busy));
    assert_eq!((pci.prepare(&bus, &is_device, AT), pci.unprepare(AT)), (Err(Errno::Busy), Err(Errno::Busy)));
    pci.assign(&bus, &is_device, (AT, Entry::Msix(0)), 31, MESSAGE).unwrap();
    pci.release(&bus, 30);
    assert_eq!((entry(3)[3], pci.is_read_only(pages[0])), (1, true));
    pci.release(&bus, 31);
    assert!(!pci.is_read_only(pages[0]));
    pci.prepare(&bus, &is_device, AT).unwrap();
    assert!(pci.is_read_only(pages[0]));
    pci.unprepare(AT).unwrap();
    assert!(!pci.is_read_only(pages[0]));
}

#[test]
fn a_table_is_only_where_a_device_answers() {
    let refused = |change: fn(&mut [u8; 256])| {
        let mut lie = space(0);
        change(&mut lie);
        let (bus, mut pci) = bus(lie);
        let answer = pci.assign(&bus, &is_device, (AT, Entry::Msix(0)), 30, MESSAGE);
        assert!(bus.writes.borrow().is_empty() && pci.pirqs_of(AT).next().is_none() && !pci.is_read_only(mfn(BAR)));
        answer
    };
    assert_eq!(refused(|space| space[4] = 0), Err(Errno::NxIo), "memory is not decoded");
    assert_eq!(refused(|space| space[0x17] = 0), Err(Errno::NxIo), "the range lies in RAM");
    assert_eq!(refused(|space| space[0x18..0x1c].fill(0xff)), Err(Errno::NxIo), "beyond all machines");
    assert_eq!(refused(|space| space[0x14..0x18].fill(0)), Err(Errno::NxIo), "there is no range");
    assert_eq!(refused(|space| space[0x14] = 1), Err(Errno::NxIo), "a range of ports");
    assert_eq!(refused(|space| space[MSIX_AT + 4] = 5), Err(Errno::NxIo), "the upper half of nothing");
    assert_eq!(refused(|space| space[MSIX_AT + 4] = 7), Err(Errno::NxIo), "no range has this number");
    assert_eq!(refused(|space| space[0x0e] = 1), Err(Errno::NxIo), "a bridge has room for the lower half only");
}

#[test]
fn capabilities_in_a_circle_or_at_the_end_are_none() {
    let none = |change: fn(&mut [u8; 256])| {
        let mut lie = space(0);
        change(&mut lie);
        let (bus, mut pci) = bus(lie);
        assert_eq!(pci.assign(&bus, &is_device, (AT, Entry::Msix(0)), 30, MESSAGE), Err(Errno::NoDev));
        assert_eq!(pci.prepare(&bus, &is_device, AT), Err(Errno::NoDev));
    };
    none(|space| (space[MSIX_AT], space[MSIX_AT + 1]) = (9, MSI_AT as u8));
    none(|space| (space[MSI_AT + 1], space[0xf8], space[0xf9]) = (0xf8, 0x11, 0));
    none(|space| space[0x34] = 0x3c);
    none(|space| space[6] = 0);
    none(|space| space.fill(0xff));
    let mut short = space(0x180);
    (short[0x34], short[0xf0], short[0xf1], short[0xf2], short[0xf3]) = (0xf0, 5, 0, 0x80, 1);
    let (bus, mut pci) = bus(short);
    assert_eq!(pci.assign(&bus, &is_device, (AT, Entry::Msi), 30, MESSAGE), Err(Errno::NoDev), "24 bytes do not fit");
}

#[test]
fn the_control_domain_writes_what_chooses_no_message() {
    let (bus, mut pci) = bus(space(0x180));
    let address = |register: usize| 0x8000_0000 | AT.0 << 8 | register as u32 & 0xfc;
    let write = |pci: &Pci, at: usize, bytes, value| {
        let before = bus.spaces.borrow()[&AT.0];
        pci.write_port(&bus, address(at), 0xcfc | at as u16 & 3, bytes, value);
        bus.spaces.borrow()[&AT.0] != before
    };
    assert!(write(&pci, MSI_AT + 4, 4, 0x1234), "nobody uses MSI");
    for (at, bytes) in [(MSIX_AT, 4), (MSIX_AT + 3, 1), (MSIX_AT + 4, 4), (MSIX_AT + 8, 1)] {
        assert!(!write(&pci, at, bytes, 0x5a5a_5a5a), "{at:#x}");
    }
    assert!(write(&pci, MSIX_AT + 2, 2, 0x8007) && word(&bus, MSIX_AT) >> 16 == 0x8007);
    pci.assign(&bus, &is_device, (AT, Entry::Msi), 30, MESSAGE).unwrap();
    for (at, bytes) in [(0, 4), (3, 1), (4, 4), (8, 4), (12, 2), (12, 4), (14, 2), (16, 1), (18, 2), (20, 4)] {
        assert!(!write(&pci, MSI_AT + at, bytes, 0x5a5a_5a5a), "{at:#x}");
    }
    assert!(write(&pci, MSI_AT + 2, 2, 0x01f1));
    assert_eq!(word(&bus, MSI_AT) >> 16, 0x0181, "on, and one message only");
    assert!(!write(&pci, MSI_AT + 16, 4, 0), "it is masked until it is bound");
    pci.set_masked(&bus, 30, false);
    assert!(write(&pci, MSI_AT + 16, 4, 1) && write(&pci, MSI_AT + 16, 4, 0));
    assert_eq!(word(&bus, MSI_AT + 16), !1, "the others stay masked");
    assert!(write(&pci, 0x14, 4, 0x1234_0004) && write(&pci, 0x40, 4, 1), "other registers are the control domain's");
    pci.write_port(&bus, address(MSI_AT + 4) & !0x8000_0000, 0xcfc, 4, 7);
    assert_eq!(word(&bus, MSI_AT + 4), MESSAGE.address, "without the address's highest bit no function is meant");
}

#[test]
fn the_window_in_memory_is_read_only_and_writes_through_it_are_judged() {
    let window = Window { address: 0xe000_0000, segment: 1, first_bus: 2, last_bus: 3 };
    let bus = Bus::default();
    let mut pci = Pci::new([window].into_iter().collect());
    let at = Address::new(1, 2, 0x18);
    let place = |register: u64| MachineAddr::new(0xe000_0000 + (0x218 << 12) + register);
    for (register, bytes) in space(0).chunks(4).enumerate() {
        bus.memory
            .borrow_mut()
            .insert(place(4 * register as u64).as_u64(), u32::from_le_bytes(bytes.try_into().unwrap()));
    }
    pci.announce(&bus, at).unwrap();
    pci.assign(&bus, &is_device, (at, Entry::Msix(1)), 30, MESSAGE).unwrap();
    for (frame, is_in) in [(0xe_01ff, false), (0xe_0200, true), (0xe_03ff, true), (0xe_0400, false)] {
        assert_eq!(pci.is_read_only(Mfn::new(frame).unwrap()), is_in, "{frame:#x}");
    }
    let frame = mfn(place(0).as_u64());
    let write = |register: u16, bytes, value| {
        bus.writes.borrow_mut().clear();
        pci.write_frame(&bus, frame, register, bytes, value);
        bus.writes.borrow().first().copied()
    };
    assert_eq!(write(0x100, 4, 7), Some((place(0x100).as_u64(), 7)), "beyond what the ports reach");
    assert_eq!(write(MSIX_AT as u16 + 2, 2, 0xc007), Some((place(MSIX_AT as u64 + 2).as_u64(), 0xc007)));
    assert_eq!(write(MSIX_AT as u16 + 4, 4, 7), None);
    assert_eq!((write(0x102, 4, 7), write(0x100, 8, 7)), (None, None), "no bus does that");
    pci.write_frame(&bus, mfn(BAR + 0x2000), 0, 4, 7);
    assert!(bus.writes.borrow().is_empty(), "a write to the table is lost");
}

#[test]
fn what_is_forgotten_sends_nothing_and_what_is_restored_sends_again() {
    let (bus, mut pci) = bus(space(0x100));
    assert_eq!(pci.restore(&bus, Address::new(0, 1, 0)), Err(Errno::NoDev));
    pci.assign(&bus, &is_device, (AT, Entry::Msix(1)), 30, MESSAGE).unwrap();
    pci.set_masked(&bus, 30, false);
    bus.memory.borrow_mut().clear();
    pci.restore(&bus, AT).unwrap();
    let entry = [0, 4, 8, 12].map(|at| bus.read_device(MachineAddr::new(BAR + 0x2010 + at)));
    assert_eq!(entry, [MESSAGE.address, 0, MESSAGE.data, 0]);
    assert_eq!(word(&bus, MSIX_AT) >> 30, 2, "on, not all masked");
    assert_eq!(pci.forget(&bus, AT), Err(Errno::Busy), "its end would be another's");
    pci.release(&bus, 30);
    pci.forget(&bus, AT).unwrap();
    assert_eq!(word(&bus, MSIX_AT) >> 31, 0);
    assert_eq!(pci.forget(&bus, AT), Err(Errno::NoDev));
    for devfn in 0..=u8::MAX {
        pci.announce(&bus, Address::new(0, 1, devfn)).unwrap();
    }
    pci.announce(&bus, Address::new(0, 1, 7)).unwrap();
    assert_eq!(pci.announce(&bus, AT), Err(Errno::NoMem));
}
