//! I/O ports: who may use which, and what the others read.

use crate::{addr::GuestAddr, caller::Caller, machine::Machine};
use oxen_abi::vm_assist::VMASST_TYPE_ARCHITECTURAL_IOPL;

/// What a port that is not the guest's reads as: nobody drives the bus.
const NOBODY: u32 = u32::MAX;

/// The counter of the interval timer's speaker channel. For those who do not have it it stands still at zero, as behind
/// a closed gate: a kernel that measures its clock by it sees at once that it cannot, where Linux looks a hundred
/// thousand times at a counter of all ones, which seems about to start.
const SPEAKER_COUNTER: u16 = 0x42;

/// The interval timer's control word (8254), whose upper two bits name the channel. The control domain may speak of the
/// speaker channel alone, by which kernels measure their clock.
const TIMER_CONTROL: u16 = 0x43;
const SPEAKER_CHANNEL: u32 = 2;

/// Ports of the machine that the hypervisor drives itself: both interrupt controllers, and the interval timer but for
/// its speaker channel.
const HYPERVISOR_PORTS: &[core::ops::RangeInclusive<u16>] =
    &[0x20..=0x21, 0x40..=0x41, TIMER_CONTROL..=TIMER_CONTROL, 0xa0..=0xa1];

/// The PCI configuration address (PCI 3.0, 3.2.2.3.2): written as a whole, then used by the data ports after it.
const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: core::ops::RangeInclusive<u16> = 0xcfc..=0xcff;

/// Whether the caller's I/O privilege level covers the mode it is in. A PV kernel counts as ring 1, unless the level
/// is kept architecturally, when it counts as ring 0.
#[inline]
#[must_use]
pub fn has_io_privilege<M: Machine>(caller: &Caller<'_, M>) -> bool {
    let needed = match (caller.state.in_kernel, caller.domain.assists(VMASST_TYPE_ARCHITECTURAL_IOPL)) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 3,
    };
    caller.state.iopl >= needed
}

/// Whether the I/O permission bitmap of the caller's task (`physdev_op set_iobitmap`) lets it use all of the ports.
fn bitmap_allows<M: Machine>(caller: &Caller<'_, M>, port: u16, bytes: u8) -> bool {
    (port..=port.saturating_add(u16::from(bytes) - 1)).all(|port| {
        let byte = GuestAddr(caller.state.io_bitmap.saturating_add(u64::from(port / 8))).range(1);
        let mut bits = [0xff];
        u32::from(port) < caller.state.io_bitmap_ports
            && byte.is_some_and(|byte| caller.hv.machine.read_guest(byte, &mut bits).is_ok())
            && bits[0] & 1 << (port % 8) == 0
    })
}

/// Whether the caller may execute an instruction on these ports at all.
#[inline(always)]
pub(super) fn may_execute<M: Machine>(caller: &Caller<'_, M>, port: u16, bytes: u8) -> bool {
    has_io_privilege(caller) || bitmap_allows(caller, port, bytes)
}

/// Whether some of the ports, but not all, are the data ports: no bus knows what that is to mean.
fn straddles_data(port: u16, bytes: u8) -> bool {
    let last = port.saturating_add(u16::from(bytes) - 1);
    PCI_DATA.contains(&port) != PCI_DATA.contains(&last)
}

/// Whether the machine's own port is reached.
fn reaches_machine<M: Machine>(caller: &Caller<'_, M>, port: u16, bytes: u8) -> bool {
    let last = port.saturating_add(u16::from(bytes) - 1);
    let ours = |range: &core::ops::RangeInclusive<u16>| port <= *range.end() && last >= *range.start();
    caller.domain.is_privileged
        && !straddles_data(port, bytes)
        && !HYPERVISOR_PORTS.iter().any(ours)
        && !(port..=last).any(|port| caller.hv.machine.is_own_port(port))
}

/// Whether this is the control domain's word about the speaker channel.
fn is_for_speaker<M: Machine>(caller: &Caller<'_, M>, port: u16, bytes: u8, value: u32) -> bool {
    caller.domain.is_privileged && (port, bytes, value >> 6 & 3) == (TIMER_CONTROL, 1, SPEAKER_CHANNEL)
}

/// Reads a port for the caller; `None` if it may not execute the instruction at all.
#[must_use]
pub fn read<M: Machine>(caller: &Caller<'_, M>, port: u16, bytes: u8) -> Option<u32> {
    if !may_execute(caller, port, bytes) {
        return None;
    }
    if port == PCI_ADDRESS && bytes == 4 {
        return Some(caller.state.pci_address);
    }
    if !reaches_machine(caller, port, bytes) {
        return Some(if port == SPEAKER_COUNTER { 0 } else { NOBODY });
    }
    let machine = &caller.hv.machine;
    if PCI_DATA.contains(&port) {
        return Some(caller.hv.pci.lock().read_port(machine, caller.state.pci_address, port, bytes));
    }
    Some(machine.port_in(port, bytes))
}

/// Writes a port for the caller; says whether it may execute the instruction at all.
#[must_use]
pub fn write<M: Machine>(caller: &mut Caller<'_, M>, port: u16, bytes: u8, value: u32) -> bool {
    if !may_execute(caller, port, bytes) {
        return false;
    }
    if port == PCI_ADDRESS && bytes == 4 {
        caller.state.pci_address = value;
    } else if reaches_machine(caller, port, bytes) || is_for_speaker(caller, port, bytes, value) {
        let machine = &caller.hv.machine;
        if PCI_DATA.contains(&port) {
            caller.hv.pci.lock().write_port(machine, caller.state.pci_address, port, bytes, value);
        } else {
            machine.port_out(port, bytes, value);
        }
    }
    true
}
