//! Devices and their interrupts by message, of a virtio disk on the first bus: what dom0
//! has of them, and may not write.

use core::sync::atomic::Ordering;

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::{event_channel, physdev};
use oxen_domu_lib::machine::port;
use oxen_domu_lib::memory::map::{Mapping, Words};

use crate::judge::{Probe, call};

const SELF: u32 = 0x7ff0;
/// Vendor and kind of an older virtio disk.
const DISK: u32 = 0x1001_1af4;
const MSIX: u32 = 0x11;
const MSIX_ON: u16 = 1 << 15;

fn select(devfn: u32, register: u32) {
    port::write32(0xcf8, 1 << 31 | devfn << 8 | register & 0xfc);
}

fn read(devfn: u32, register: u32) -> u32 {
    select(devfn, register);
    port::read32(0xcfc)
}

fn physical(command: u32, argument: u64) -> i64 {
    call(Hypercall::PhysdevOp, [command.into(), argument])
}

/// Device and function of the disk, and the offset of its capability for MSI-X.
fn find_disk() -> Option<(u32, u32)> {
    let devfn = (0..32).map(|device| device << 3).find(|&devfn| read(devfn, 0) == DISK)?;
    let mut at = read(devfn, 0x34) & 0xfc;
    for _ in 0..48 {
        let word = read(devfn, at);
        if at < 0x40 || word & 0xff == MSIX {
            break;
        }
        at = word >> 8 & 0xfc;
    }
    (at >= 0x40).then_some((devfn, at))
}

/// Asks for entry `entry` of the table in a range of memory to be mapped.
fn map(probe: &Probe, devfn: u32, entry: u32, range: u32) -> i64 {
    let kind = physdev::MAP_PIRQ_TYPE_MSI_SEG as u32;
    let argument = probe.words32(&[SELF, kind, u32::MAX, u32::MAX, 0, devfn, entry, 0, range, 0]);
    physical(physdev::PHYSDEVOP_MAP_PIRQ, argument)
}

fn bind(probe: &Probe, pirq: u32) -> i64 {
    let argument = probe.words32(&[pirq, 0, 0]);
    call(Hypercall::EventChannelOp, [event_channel::EVTCHNOP_BIND_PIRQ.into(), argument])
}

pub(crate) fn ask(probe: &mut Probe) {
    if !probe.privileged {
        let device = probe.words32(&[0, 0, 0]);
        probe.refuses(
            "a device that a guest announces",
            physical(physdev::PHYSDEVOP_PCI_DEVICE_ADD, device),
            Errno::Perm,
        );
        probe.refuses("a message for a guest", map(probe, 0, 0, 0), Errno::Perm);
        return;
    }
    let argument = probe.words32(&[3]);
    probe.works("iopl 3", physical(physdev::PHYSDEVOP_SET_IOPL, argument));
    lines(probe);
    power_management(probe);
    let Some((devfn, at)) = find_disk() else { return probe.holds("there is a virtio disk with MSI-X", false, 0) };
    let last = read(devfn, at) >> 16 & 0x7ff;
    let range = read(devfn, 0x10 + 4 * (read(devfn, at + 4) & 7)) & !0xf;
    probe.refuses("a message of a device that was not announced", map(probe, devfn, 0, range), Errno::NoDev);
    let device = probe.words32(&[devfn << 24]);
    probe.refuses("it is prepared", physical(physdev::PHYSDEVOP_PREPARE_MSIX, device), Errno::NoDev);
    let device = probe.words32(&[devfn << 24, 0, 0]);
    probe.works("it is announced", physical(physdev::PHYSDEVOP_PCI_DEVICE_ADD, device));
    probe.works("and again", physical(physdev::PHYSDEVOP_PCI_DEVICE_ADD, device));
    probe.refuses("an entry beyond the table", map(probe, devfn, last + 1, range), Errno::Inval);
    let device = probe.words32(&[devfn << 24]);
    probe.works("it is prepared", physical(physdev::PHYSDEVOP_PREPARE_MSIX, device));
    probe.refuses("and again", physical(physdev::PHYSDEVOP_PREPARE_MSIX, device), Errno::Busy);
    probe.works("and released", physical(physdev::PHYSDEVOP_RELEASE_MSIX, device));
    probe.refuses("and again", physical(physdev::PHYSDEVOP_RELEASE_MSIX, device), Errno::Busy);
    probe.works("entry 1", map(probe, devfn, 1, range));
    let pirq = probe.word32(3);
    probe.holds("its number is no line's", pirq >= 24, pirq.into());
    kept_from_us(probe, devfn, at, range);
    bound(probe, pirq);
    let device = probe.words32(&[devfn << 24]);
    probe.works("messages are restored", physical(physdev::PHYSDEVOP_RESTORE_MSI_EXT, device));
    probe.works("it is removed", physical(physdev::PHYSDEVOP_PCI_DEVICE_REMOVE, device));
    probe.refuses("and again", physical(physdev::PHYSDEVOP_PCI_DEVICE_REMOVE, device), Errno::NoDev);
}

/// Sets a line up by level and active low.
fn set_up(probe: &Probe, gsi: u32) -> i64 {
    let argument = probe.words32(&[gsi, 1 << 8 | 1]);
    physical(physdev::PHYSDEVOP_SETUP_GSI, argument)
}

/// How a line of the first controller signals: the bits of its route for level and active low.
fn signal(probe: &Probe, gsi: u32) -> u32 {
    const CONTROLLER: u32 = 0xfec0_0000;
    let argument = probe.words32(&[CONTROLLER, 0, 0x10 + 2 * gsi, 0]);
    let answer = physical(physdev::PHYSDEVOP_APIC_READ, argument);
    if answer == 0 { probe.word32(3) & SIGNAL } else { u32::MAX }
}

const SIGNAL: u32 = 1 << 15 | 1 << 13;

/// Lines of the interrupt controllers: each is set up once, unless it is at work.
fn lines(probe: &mut Probe) {
    let close = |probe: &Probe, port| {
        let argument = probe.words32(&[port]);
        call(Hypercall::EventChannelOp, [event_channel::EVTCHNOP_CLOSE.into(), argument])
    };
    let map = |probe: &Probe, gsi| {
        let argument = probe.words32(&[SELF, physdev::MAP_PIRQ_TYPE_GSI as u32, gsi, gsi, 0, 0, 0, 0, 0, 0]);
        physical(physdev::PHYSDEVOP_MAP_PIRQ, argument)
    };
    probe.works("line 6 is mapped", map(probe, 6));
    probe.is("it signals by edges", signal(probe, 6).into(), 0);
    probe.works("and is set up", set_up(probe, 6));
    probe.is("it signals as it was said", signal(probe, 6).into(), SIGNAL.into());
    probe.refuses("it is set up again", set_up(probe, 6), Errno::Exist);
    probe.works("line 7 is mapped", map(probe, 7));
    probe.works("and bound", bind(probe, 7));
    let port = probe.word32(2);
    probe.refuses("it is set up", set_up(probe, 7), Errno::Exist);
    probe.is("it signals by edges still", signal(probe, 7).into(), 0);
    probe.works("its port is closed", close(probe, port));
    probe.works("it is set up", set_up(probe, 7));
    probe.is("it signals as it was said", signal(probe, 7).into(), SIGNAL.into());
    probe.refuses("it is set up again", set_up(probe, 7), Errno::Exist);
    probe.works("line 20 is set up", set_up(probe, 20));
    probe.refuses("it is set up again", set_up(probe, 20), Errno::Exist);
    probe.works("it is mapped", map(probe, 20));
    probe.works("line 21 is mapped", map(probe, 21));
    probe.works("and bound", bind(probe, 21));
    let port = probe.word32(2);
    probe.works("it is set up", set_up(probe, 21));
    probe.is("it signals as it was said", signal(probe, 21).into(), SIGNAL.into());
    probe.refuses("it is set up again", set_up(probe, 21), Errno::Exist);
    probe.works("its port is closed", close(probe, port));
    probe.refuses("it is set up again", set_up(probe, 21), Errno::Exist);
    probe.works("line 22 is mapped", map(probe, 22));
    probe.works("and set up", set_up(probe, 22));
    probe.refuses("it is set up again", set_up(probe, 22), Errno::Exist);
    probe.works("line 4 is mapped", map(probe, 4));
    probe.refuses("the console's line", set_up(probe, 4), Errno::Exist);
    probe.refuses("the interval timer's line", set_up(probe, 0), Errno::Exist);
    probe.works("line 2 is set up", set_up(probe, 2));
    probe.refuses("a line that is not there", set_up(probe, 24), Errno::Inval);
}

/// The ACPI timer is the hypervisor's own; the registers beside it are not.
fn power_management(probe: &mut Probe) {
    /// Where the BIOS of QEMU's and Bochs's machine puts the registers.
    const CONTROL: u16 = 0x604;
    const TIMER: u16 = 0x608;
    probe.is("the ACPI timer reads as nothing", port::read32(TIMER).into(), u32::MAX.into());
    probe.is("half of it too", port::read16(TIMER + 2).into(), u16::MAX.into());
    probe.is("and with what is before it", port::read32(TIMER - 2).into(), u32::MAX.into());
    probe.holds("the control register is there", port::read16(CONTROL) != u16::MAX, port::read16(CONTROL).into());
}

/// The table in memory, and the capability in configuration space.
fn kept_from_us(probe: &mut Probe, devfn: u32, at: u32, range: u32) {
    let table = read(devfn, at + 4) & !7;
    if let Ok(mapping) = Mapping::device((range + table).into(), 0x1000)
        && let Some(entry) = mapping.words32().get(4..8)
    {
        let word = |index: usize| entry.get(index).map_or(0, |word| word.load(Ordering::SeqCst));
        let (address, masked) = (word(0), word(3));
        probe.is("a message goes to a local APIC", (address >> 20).into(), 0xfee);
        probe.is("and is masked", masked.into(), 1);
        // By plain stores: neither hypervisor does an exchange in the guest's place here.
        entry.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        probe.is("what is written there is lost", word(0).into(), address.into());
        probe.is("and the mask stays", word(3).into(), 1);
    }
    let before = read(devfn, at + 4);
    port::write32(0xcfc, !before);
    probe.is("where the table is cannot be written", read(devfn, at + 4).into(), before.into());
    let before = read(devfn, at);
    port::write32(0xcfc, before | u32::from(MSIX_ON) << 16);
    probe.is("the control word not with what is beside it", read(devfn, at).into(), before.into());
    port::write16(0xcfe, (before >> 16) as u16 | MSIX_ON);
    probe.is("but alone", (read(devfn, at) >> 31).into(), 1);
    port::write16(0xcfe, (before >> 16) as u16);
}

/// From the first binding to the last unmapping.
fn bound(probe: &mut Probe, pirq: u32) {
    probe.works("it is bound", bind(probe, pirq));
    let port = probe.word32(2);
    probe.refuses("and again", bind(probe, pirq), Errno::Exist);
    let argument = probe.words32(&[pirq]);
    probe.works("its end is taken", physical(physdev::PHYSDEVOP_EOI, argument));
    let argument = probe.words32(&[port]);
    let close = event_channel::EVTCHNOP_CLOSE.into();
    probe.works("its port is closed", call(Hypercall::EventChannelOp, [close, argument]));
    let argument = probe.words32(&[SELF, pirq]);
    probe.works("it is unmapped", physical(physdev::PHYSDEVOP_UNMAP_PIRQ, argument));
    probe.refuses("and again", physical(physdev::PHYSDEVOP_UNMAP_PIRQ, argument), Errno::Inval);
    probe.refuses("what is not mapped is not bound", bind(probe, pirq), Errno::Perm);
}
