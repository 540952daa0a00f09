//! Configuration space: the two ports of segment 0, or the memory window that the firmware names.

use super::{Address, DeviceMemory, Window};
use crate::{addr::MachineAddr, ports::Ports};
use bitflags::bitflags;

/// The port that takes the address of a register (PCI 3.0, 3.2.2.3.2).
pub(super) const ADDRESS_PORT: u16 = 0xcf8;
/// The first of the four ports through which the addressed register is seen.
const DATA_PORT: u16 = 0xcfc;
/// In the address: this is one.
pub(super) const ENABLE: u32 = 1 << 31;
/// What can be addressed through the ports: bus, device, function, and a register below 256. The bits between are
/// reserved, and some chip sets would take them for more of the register.
pub(super) const ADDRESSED: u32 = ENABLE | 0x00ff_fffc;

/// Bytes of a function's space that the ports reach.
pub(super) const SHORT_SPACE: u16 = 0x100;

/// Registers of the common header.
const COMMAND: u16 = 0x04;
const HEADER: u16 = 0x0c;
const FIRST_BAR: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;
/// Where capabilities may begin, and how many fit behind.
const FIRST_CAPABILITY: u16 = 0x40;
const MAX_CAPABILITIES: usize = 48;

bitflags! {
    /// The command word, and the status word above it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Command: u32 {
        /// The function answers in memory.
        const MEMORY = 1 << 1;
        /// There is a list of capabilities.
        const HAS_CAPABILITIES = 1 << 20;
    }
}

/// One function's space.
#[derive(Debug)]
pub(super) struct Config<'a, M> {
    pub(super) machine: &'a M,
    pub(super) windows: &'a [Window],
    pub(super) at: Address,
}

impl<M: Ports + DeviceMemory> Config<'_, M> {
    fn window(&self, register: u16) -> Option<MachineAddr> {
        self.windows.iter().find_map(|window| window.place(self.at, register))
    }

    fn select(&self, register: u16) {
        let address = ENABLE | self.at.in_segment() << 8 | u32::from(register);
        self.machine.port_out(ADDRESS_PORT, 4, address & ADDRESSED);
    }

    /// Reads the 32 bits that hold a register; all ones where there is none.
    #[inline(never)]
    pub(super) fn read32(&self, register: u16) -> u32 {
        if self.at.segment() == 0 && register < SHORT_SPACE {
            self.select(register);
            return self.machine.port_in(DATA_PORT, 4);
        }
        self.window(register & !3).map_or(u32::MAX, |place| self.machine.read_device(place))
    }

    /// Writes 1, 2 or 4 bytes, which lie in one aligned word of 32 bits.
    #[inline(never)]
    pub(super) fn write(&self, register: u16, bytes: u8, value: u32) {
        if self.at.segment() == 0 && register < SHORT_SPACE {
            self.select(register);
            self.machine.port_out(DATA_PORT | register & 3, bytes, value);
        } else if let Some(place) = self.window(register) {
            self.machine.write_device(place, bytes, value);
        }
    }

    pub(super) fn read16(&self, register: u16) -> u16 {
        (self.read32(register) >> (8 * (register & 2))) as u16
    }

    /// The offset of the first capability of a kind, if `bytes` of it fit into the space that the ports reach. A device
    /// whose capabilities run in a circle has none.
    #[inline(never)]
    pub(super) fn find_capability(&self, kind: u8, bytes: u16) -> Option<u8> {
        if !Command::from_bits_retain(self.read32(COMMAND)).contains(Command::HAS_CAPABILITIES) {
            return None;
        }
        let mut next = self.read32(CAPABILITIES) as u8;
        for _ in 0..MAX_CAPABILITIES {
            let at = u16::from(next & 0xfc);
            let [id, after, ..] = self.read32(at).to_le_bytes();
            if at < FIRST_CAPABILITY || id == 0xff {
                return None;
            }
            if id == kind {
                return (at + bytes <= SHORT_SPACE).then_some(next & 0xfc);
            }
            next = after;
        }
        None
    }

    /// Whether the function answers in memory.
    #[inline(never)]
    pub(super) fn decodes_memory(&self) -> bool {
        let command = self.read32(COMMAND);
        command != u32::MAX && Command::from_bits_retain(command).contains(Command::MEMORY)
    }

    /// Where a range of its memory begins; 0 where it has none of this number.
    #[inline(never)]
    pub(super) fn memory_range(&self, index: u8) -> u64 {
        let ranges = match self.read32(HEADER) >> 16 & 0x7f {
            0 => 6,
            1 => 2,
            _ => 0,
        };
        if index >= ranges {
            return 0;
        }
        let register = FIRST_BAR + 4 * u16::from(index);
        let low = self.read32(register);
        let high = match low & 7 {
            0 => 0,
            4 if index + 1 < ranges => self.read32(register + 4),
            _ => return 0,
        };
        u64::from(high) << 32 | u64::from(low & !0xf)
    }
}
