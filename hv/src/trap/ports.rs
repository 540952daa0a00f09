//! I/O ports: who may use which, and what the others read.

use crate::{addr::GuestAddr, caller::Caller, machine::Machine, ports::overlap};
use core::ops::RangeInclusive;
use oxen_abi::vm_assist::Assists;

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
const HYPERVISOR_PORTS: &[RangeInclusive<u16>] =
    &[0x20..=0x21, 0x40..=0x41, TIMER_CONTROL..=TIMER_CONTROL, 0xa0..=0xa1];

/// The PCI configuration address (PCI 3.0, 3.2.2.3.2): written as a whole, then used by the data ports after it.
const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: RangeInclusive<u16> = 0xcfc..=0xcff;

impl<M: Machine> Caller<'_, M> {
    /// Whether the caller's I/O privilege level covers the mode it is in. A PV kernel counts as ring 1, unless the
    /// level is kept architecturally, when it counts as ring 0.
    #[inline]
    #[must_use]
    pub fn has_io_privilege(&self) -> bool {
        let needed = match (self.state.in_kernel, self.domain.assists(Assists::ARCHITECTURAL_IOPL)) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 3,
        };
        self.state.iopl >= needed
    }

    /// Whether the I/O permission bitmap of the caller's task (`physdev_op set_iobitmap`) lets it use all of the ports.
    fn io_bitmap_allows(&self, port: u16, bytes: u8) -> bool {
        (port..=port.saturating_add(u16::from(bytes) - 1)).all(|port| {
            let byte = GuestAddr::new(self.state.io_bitmap.saturating_add(u64::from(port / 8))).range(1);
            let mut bits = [0xff];
            u32::from(port) < self.state.io_bitmap_ports
                && byte.is_some_and(|byte| self.hv.machine().read_guest(byte, &mut bits).is_ok())
                && bits[0] & 1 << (port % 8) == 0
        })
    }

    /// Whether the caller may execute an instruction on these ports at all.
    #[inline(always)]
    pub(super) fn may_use_port(&self, port: u16, bytes: u8) -> bool {
        self.has_io_privilege() || self.io_bitmap_allows(port, bytes)
    }

    /// Whether the machine's own port is reached.
    #[inline]
    fn reaches_machine_port(&self, port: u16, bytes: u8) -> bool {
        let last = port.saturating_add(u16::from(bytes) - 1);
        self.domain.is_privileged()
            && !straddles_data(port, bytes)
            && !HYPERVISOR_PORTS.iter().any(|ours| overlap(&(port..=last), ours))
            && !self.hv.machine().has_own_port(port..=last)
    }

    /// Whether this is the control domain's word about the speaker channel.
    fn is_speaker_control(&self, port: u16, bytes: u8, value: u32) -> bool {
        self.domain.is_privileged() && (port, bytes, value >> 6 & 3) == (TIMER_CONTROL, 1, SPEAKER_CHANNEL)
    }

    /// Reads a port for the caller; `None` if it may not execute the instruction at all.
    #[must_use]
    pub fn port_in(&self, port: u16, bytes: u8) -> Option<u32> {
        if !self.may_use_port(port, bytes) {
            return None;
        }
        if port == PCI_ADDRESS && bytes == 4 {
            return Some(self.state.pci_address);
        }
        if !self.reaches_machine_port(port, bytes) {
            return Some(if port == SPEAKER_COUNTER { 0 } else { NOBODY });
        }
        let machine = self.hv.machine();
        if PCI_DATA.contains(&port) {
            return Some(self.hv.memory.pci.lock().read_port(machine, self.state.pci_address, port, bytes));
        }
        Some(machine.port_in(port, bytes))
    }

    /// Writes a port for the caller; returns whether it may execute the instruction at all.
    #[must_use]
    pub fn port_out(&mut self, port: u16, bytes: u8, value: u32) -> bool {
        if !self.may_use_port(port, bytes) {
            return false;
        }
        if port == PCI_ADDRESS && bytes == 4 {
            self.state.pci_address = value;
        } else if self.reaches_machine_port(port, bytes) || self.is_speaker_control(port, bytes, value) {
            let machine = self.hv.machine();
            if PCI_DATA.contains(&port) {
                self.hv.memory.pci.lock().write_port(machine, self.state.pci_address, port, bytes, value);
            } else {
                machine.port_out(port, bytes, value);
            }
        }
        true
    }
}

/// Whether some of the ports, but not all, are the data ports: no bus knows what that is to mean.
fn straddles_data(port: u16, bytes: u8) -> bool {
    let last = port.saturating_add(u16::from(bytes) - 1);
    PCI_DATA.contains(&port) != PCI_DATA.contains(&last)
}
