//! The I/O APICs: which vector a device's interrupt line raises, and the legacy controllers kept quiet.

use super::super::memory::tables;
use super::super::port::Port;
use super::apic::vector;
use core::sync::atomic::{AtomicU32, Ordering};
use oxen_hv::lock::{Lock, rank};

const VERSION: u32 = 1;
const FIRST_REDIRECTION: u32 = 0x10;
const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;
/// How it is delivered: as an NMI, whose vector does not count.
const NMI: u32 = 4 << 8;

/// How a line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// By an edge: what comes while masked is lost.
    Edge,
    /// By its level: it stays until the device is served.
    Level,
}

/// One I/O APIC.
#[derive(Debug)]
pub(crate) struct IoApic {
    registers: &'static [AtomicU32; 8],
    /// Machine address of the registers.
    machine: u64,
    first_gsi: u32,
    lines: u32,
    /// Reading and writing take two steps.
    turn: Lock<(), { rank::IO_APIC }>,
}

impl IoApic {
    /// The one whose registers are at `machine`, every line masked; `None` if it cannot be mapped.
    pub(crate) fn new(machine: u64, first_gsi: u32) -> Option<Self> {
        let address = tables::map_device(machine)?;
        // SAFETY: the page was just mapped, for good; the firmware says that an I/O APIC is there.
        let registers = unsafe { &*(address as *const [AtomicU32; 8]) };
        let mut apic = Self { registers, machine, first_gsi, lines: 0, turn: Lock::new(()) };
        apic.lines = (apic.read(VERSION) >> 16 & 0xff) + 1;
        for line in 0..apic.lines {
            apic.write(FIRST_REDIRECTION + 2 * line, MASKED);
        }
        Some(apic)
    }

    fn read(&self, register: u32) -> u32 {
        let _turn = self.turn.lock();
        let [select, .., window, _, _, _] = self.registers;
        select.store(register, Ordering::SeqCst);
        window.load(Ordering::SeqCst)
    }

    fn write(&self, register: u32, value: u32) {
        let _turn = self.turn.lock();
        let [select, .., window, _, _, _] = self.registers;
        select.store(register, Ordering::SeqCst);
        window.store(value, Ordering::SeqCst);
    }

    fn redirection(&self, gsi: u32) -> Option<u32> {
        let line = gsi.checked_sub(self.first_gsi).filter(|&line| line < self.lines)?;
        Some(FIRST_REDIRECTION + 2 * line)
    }

    /// Whether its registers are at this machine address.
    pub(crate) fn is_at(&self, machine: u64) -> bool {
        self.machine == machine
    }

    /// After the last line that it serves.
    pub(crate) fn end_gsi(&self) -> u32 {
        self.first_gsi.saturating_add(self.lines)
    }

    /// The line behind a pin.
    pub(crate) fn line_of_pin(&self, pin: u32) -> Option<u32> {
        (pin < self.lines).then(|| self.first_gsi.saturating_add(pin))
    }

    /// A register, of the 256 that there can be.
    pub(crate) fn register(&self, register: u32) -> u32 {
        self.read(register & 0xff)
    }

    /// Whether it serves this line.
    pub(crate) fn has(&self, gsi: u32) -> bool {
        self.redirection(gsi).is_some()
    }

    /// Routes a line to a CPU, by the vector that belongs to the line. It stays masked until [`Self::set_masked`].
    pub(crate) fn route(&self, gsi: u32, trigger: Trigger, is_active_low: bool, apic: u8) {
        let Some(redirection) = self.redirection(gsi) else { return };
        let level = if trigger == Trigger::Level { LEVEL } else { 0 };
        let polarity = if is_active_low { ACTIVE_LOW } else { 0 };
        self.write(redirection + 1, u32::from(apic) << 24);
        self.write(redirection, MASKED | level | polarity | (vector::FIRST_PIRQ + gsi));
    }

    /// Routes a line, which signals by an edge, to a CPU as an NMI.
    pub(crate) fn route_as_nmi(&self, gsi: u32, apic: u8) {
        let Some(redirection) = self.redirection(gsi) else { return };
        self.write(redirection + 1, u32::from(apic) << 24);
        self.write(redirection, NMI);
    }

    /// Masks or unmasks a line.
    pub(crate) fn set_masked(&self, gsi: u32, masked: bool) {
        let Some(redirection) = self.redirection(gsi) else { return };
        let entry = self.read(redirection);
        self.write(redirection, if masked { entry | MASKED } else { entry & !MASKED });
    }
}

/// Masks the legacy interrupt controllers, moved to vectors that tell a stray interrupt from an exception.
pub(crate) fn silence_legacy_controllers() {
    // SAFETY: the two 8259s of every PC; masking them touches no memory.
    let [command, data, command2, data2] = [0x20, 0x21, 0xa0, 0xa1].map(|port| unsafe { Port::<u8>::new(port) });
    for (port, value) in [
        (command, 0x11),
        (command2, 0x11),
        (data, 0x20),
        (data2, 0x28),
        (data, 4),
        (data2, 2),
        (data, 1),
        (data2, 1),
        (data, 0xff),
        (data2, 0xff),
    ] {
        port.write(value);
    }
}
