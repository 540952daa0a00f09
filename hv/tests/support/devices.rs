//! The devices of the fake machine: ports, configuration space, the serial line, interrupt controllers.

use super::{CONTROLLER, Fake, LINES, OWN_LINE, Peripherals};
use oxen_abi::errno::Errno;
use oxen_hv::{
    addr::MachineAddr,
    console::Serial,
    event::pirq::{Interrupts, Signal},
    hardware::CpuId,
    pci::{DeviceMemory, Message},
    ports::{Ports, Registers, overlap},
};
use std::{ops::RangeInclusive, sync::MutexGuard};

impl Fake {
    /// The function and the register that a data port stands for, where a test has put functions.
    fn config_space(&self, port: u16) -> Option<((u32, usize), MutexGuard<'_, Peripherals>)> {
        let peripherals = self.peripherals.lock().unwrap();
        let address = peripherals.config_address;
        let is_data = (0xcfc..0xd00).contains(&port) && address >> 31 == 1 && !peripherals.functions.is_empty();
        let place = (address >> 8 & 0xffff, (address & 0xfc) as usize | usize::from(port & 3));
        is_data.then_some((place, peripherals))
    }
}

impl Ports for Fake {
    fn port_in(&self, port: u16, bytes: u8) -> u32 {
        if let Some((place, mut peripherals)) = self.config_space(port) {
            let space = peripherals.functions.entry(place.0).or_insert([0xff; 256]);
            let mut word = [0; 4];
            word[..usize::from(bytes)].copy_from_slice(&space[place.1..place.1 + usize::from(bytes)]);
            return u32::from_le_bytes(word);
        }
        let all_ones = u32::MAX >> (32 - 8 * u32::from(bytes));
        self.peripherals.lock().unwrap().port_values.get(&port).copied().unwrap_or(all_ones) & all_ones
    }

    fn port_out(&self, port: u16, bytes: u8, value: u32) {
        if let Some((place, mut peripherals)) = self.config_space(port) {
            let space = peripherals.functions.entry(place.0).or_insert([0xff; 256]);
            space[place.1..place.1 + usize::from(bytes)].copy_from_slice(&value.to_le_bytes()[..usize::from(bytes)]);
        }
        let mut peripherals = self.peripherals.lock().unwrap();
        if port == 0xcf8 && bytes == 4 {
            peripherals.config_address = value;
        }
        peripherals.port_writes.push((port, bytes, value));
    }

    fn has_own_port(&self, ports: RangeInclusive<u16>) -> bool {
        [0x3f8..=0x3ff, 0x608..=0x60b].iter().any(|own| overlap(&ports, own))
    }
}

impl Registers for Fake {
    fn read_msr(&self, msr: u32) -> Option<u64> {
        self.peripherals.lock().unwrap().msrs.get(&msr).copied()
    }

    fn write_msr(&self, msr: u32, value: u64) -> bool {
        self.peripherals.lock().unwrap().msrs.insert(msr, value).is_some()
    }

    fn cpuid(&self, leaf: u32, _subleaf: u32) -> [u32; 4] {
        self.peripherals.lock().unwrap().cpuid.get(&leaf).copied().unwrap_or_default()
    }

    fn set_xcr0(&self, value: u64) -> bool {
        value & 1 != 0
    }
}

impl Serial for Fake {
    fn send(&self, bytes: &[u8]) {
        self.peripherals.lock().unwrap().sent.extend_from_slice(bytes);
    }

    fn receive(&self) -> Option<u8> {
        self.peripherals.lock().unwrap().input.pop_front()
    }
}

impl Interrupts for Fake {
    fn lines(&self) -> u32 {
        LINES
    }

    fn is_own(&self, gsi: u32) -> bool {
        gsi == OWN_LINE
    }

    fn message(&self, pirq: u32, cpu: CpuId) -> Message {
        Message { address: 0xfee0_0000 | u32::from(cpu.0) << 12, data: 0x4020 + pirq }
    }

    fn read_controller(&self, address: u64, register: u32) -> Option<u32> {
        (address == CONTROLLER).then_some(register)
    }

    fn line_of_pin(&self, address: u64, pin: u32) -> Option<u32> {
        (address == CONTROLLER && pin < LINES).then_some(pin)
    }

    fn route(&self, gsi: u32, signal: Signal) -> Result<(), Errno> {
        self.peripherals.lock().unwrap().lines.insert(gsi, (signal, true));
        Ok(())
    }

    fn set_masked(&self, gsi: u32, masked: bool) {
        if let Some(line) = self.peripherals.lock().unwrap().lines.get_mut(&gsi) {
            line.1 = masked;
        }
    }
}

impl DeviceMemory for Fake {
    fn read_device(&self, at: MachineAddr) -> u32 {
        self.peripherals.lock().unwrap().device_memory.get(&at.as_u64()).copied().unwrap_or(u32::MAX)
    }

    fn write_device(&self, at: MachineAddr, bytes: u8, value: u32) {
        assert_eq!(at.as_u64() % u64::from(bytes), 0, "the write is aligned");
        let mut peripherals = self.peripherals.lock().unwrap();
        let mut bytes_of = peripherals.device_memory.get(&(at.as_u64() & !3)).copied().unwrap_or(0).to_le_bytes();
        let first = at.as_u64() as usize % 4;
        bytes_of[first..first + usize::from(bytes)].copy_from_slice(&value.to_le_bytes()[..usize::from(bytes)]);
        peripherals.device_memory.insert(at.as_u64() & !3, u32::from_le_bytes(bytes_of));
    }
}
