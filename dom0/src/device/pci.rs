//! PCI configuration space through the ports 0xCF8 and 0xCFC.

use alloc::vec::Vec;

use bitflags::bitflags;
use oxen_domu_lib::machine::port;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

const ENABLE: u32 = 1 << 31;
const NO_DEVICE: u32 = 0xffff_ffff;

const COMMAND: u8 = 0x04;
const HEADER: u8 = 0x0c;
const FIRST_BAR: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
const INTERRUPT: u8 = 0x3c;

/// The bus that is looked at.
pub const BUS: u8 = 0;
/// The capability for interrupts by message from a table (MSI-X), its control word, and the word for the table's place.
const CAPABILITY_MESSAGES: u8 = 0x11;
const MESSAGES_CONTROL: u8 = 2;
const MESSAGES_TABLE: u8 = 4;

bitflags! {
    /// The command word, and the status word above it.
    #[derive(Clone, Copy)]
    struct Command: u32 {
        /// The function answers in memory.
        const MEMORY = 1 << 1;
        /// It moves data by itself.
        const MASTER = 1 << 2;
        /// It raises no interrupt line.
        const NO_INTERRUPT = 1 << 10;
        /// There is a list of capabilities.
        const HAS_CAPABILITIES = 1 << 20;
    }

    /// The control word of interrupts by message.
    #[derive(Clone, Copy)]
    struct MessageControl: u16 {
        /// All are masked.
        const MASKED = 1 << 14;
        const ON = 1 << 15;
    }
}

/// A function of a device on the first bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    device: u8,
    function: u8,
    /// Who made it.
    pub vendor: u16,
    /// What it is.
    pub id: u16,
}

impl Function {
    /// All functions that answer on the first bus.
    pub fn all() -> Vec<Self> {
        let places = (0..32).flat_map(|device| (0..8).map(move |function| (device, function)));
        let mut found: Vec<Self> = Vec::new();
        for (device, function) in places {
            let one = Self { device, function, vendor: 0, id: 0 };
            // A device without function 0 has none; others only if it says so.
            let first = found.iter().find(|f| f.device == device && f.function == 0);
            if function != 0 && first.is_none_or(|f| f.read(HEADER) >> 23 & 1 == 0) {
                continue;
            }
            let word = one.read(0);
            if word != NO_DEVICE {
                let [a, b, c, d] = word.to_le_bytes();
                found.push(Self { vendor: u16::from_le_bytes([a, b]), id: u16::from_le_bytes([c, d]), ..one });
            }
        }
        found
    }

    fn select(self, register: u8) {
        let place = u32::from(self.device) << 11 | u32::from(self.function) << 8 | u32::from(register & 0xfc);
        port::write32(ADDRESS, ENABLE | place);
    }

    /// Reads 32 bits; `register` counts bytes and is rounded down to a whole word.
    pub fn read(self, register: u8) -> u32 {
        self.select(register);
        port::read32(DATA)
    }

    /// Writes 32 bits.
    pub fn write(self, register: u8, value: u32) {
        self.select(register);
        port::write32(DATA, value);
    }

    /// Lets the device be reached through memory, move data itself, and raise its interrupt line.
    pub fn enable(self) {
        // The status word above is left alone: a zero changes nothing there.
        let command = Command::from_bits_retain(self.read(COMMAND) & 0xffff) - Command::NO_INTERRUPT;
        self.write(COMMAND, (command | Command::MEMORY | Command::MASTER).bits());
    }

    /// The machine address of a memory range; `None` for I/O ports and empty ranges.
    pub fn memory_range(self, index: u8) -> Option<u64> {
        if index > 5 {
            return None;
        }
        let register = FIRST_BAR + index * 4;
        let low = self.read(register);
        let high = match low & 0x7 {
            0x0 => 0,
            0x4 if index < 5 => self.read(register + 4),
            _ => return None,
        };
        let address = u64::from(high) << 32 | u64::from(low & !0xf);
        (address != 0).then_some(address)
    }

    /// Device and function in one number, as the hypervisor names it.
    pub fn place(self) -> u8 {
        self.device << 3 | self.function
    }

    fn message_capability(self) -> Option<u8> {
        let is_one = |&(_, kind): &(u8, u8)| kind == CAPABILITY_MESSAGES;
        self.capabilities().into_iter().find(is_one).map(|(at, _)| at).filter(|&at| at <= 0xf4)
    }

    /// The machine address of the memory range that holds the table of messages.
    pub fn message_table(self) -> Option<u64> {
        let [word, ..] = self.read(self.message_capability()? + MESSAGES_TABLE).to_le_bytes();
        self.memory_range(word & 7)
    }

    /// Turns interrupts by message on, in the lines' place, or off. The control word is written as a whole, and nothing
    /// beside it, which the hypervisor keeps.
    pub fn set_messages(self, on: bool) {
        let Some(at) = self.message_capability() else { return };
        let [_, _, low, high] = self.read(at).to_le_bytes();
        let mut control = MessageControl::from_bits_retain(u16::from_le_bytes([low, high]));
        control.remove(MessageControl::MASKED);
        control.set(MessageControl::ON, on);
        self.select(at);
        port::write16(DATA + u16::from(MESSAGES_CONTROL), control.bits());
    }

    /// The interrupt line that the firmware chose.
    pub fn interrupt_line(self) -> Option<u32> {
        let line = self.read(INTERRUPT) & 0xff;
        (line != 0 && line != 0xff).then_some(line)
    }

    /// Offsets and kinds of all capabilities.
    pub fn capabilities(self) -> Vec<(u8, u8)> {
        let mut found = Vec::new();
        if !Command::from_bits_retain(self.read(COMMAND)).contains(Command::HAS_CAPABILITIES) {
            return found;
        }
        let [mut at, ..] = self.read(CAPABILITIES).to_le_bytes();
        // 48 capabilities fill the space: a longer chain is a loop.
        while at >= 0x40 && found.len() < 48 {
            let [kind, next, ..] = self.read(at).to_le_bytes();
            found.push((at & 0xfc, kind));
            at = next;
        }
        found
    }
}
