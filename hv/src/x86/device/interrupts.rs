//! The interrupt controllers and the registers of devices, as the library's traits ask for them.

use super::super::machine::Pc;
use super::super::memory::window::Window;
use super::super::percpu;
use super::apic::vector;
use super::ioapic::{IoApic, Trigger};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering};
use oxen_abi::errno::Errno;
use oxen_hv::addr::MachineAddr;
use oxen_hv::config::MAX_PIRQS;
use oxen_hv::event::pirq::{Interrupts, Signal};
use oxen_hv::hardware::CpuId;
use oxen_hv::pci::{DeviceMemory, Message};

/// Vectors that no line of an interrupt controller takes, however many there are.
const LEFT_TO_MESSAGES: u32 = 64;

impl Interrupts for Pc {
    fn lines(&self) -> u32 {
        let end = self.ioapics.iter().map(IoApic::end_gsi).max().unwrap_or(0);
        // Lines beyond have no vector, and could not be told from messages.
        end.min(MAX_PIRQS as u32 - LEFT_TO_MESSAGES)
    }

    fn is_own(&self, gsi: u32) -> bool {
        gsi == self.console_gsi || self.is_watched && gsi == self.timer_gsi
    }

    fn message(&self, pirq: u32, cpu: CpuId) -> Message {
        // Physical destination, fixed delivery by an edge (Intel SDM vol. 3A, 11.11).
        const ASSERT: u32 = 1 << 14;
        let apic = self.apic_ids.get(usize::from(cpu.0)).copied().unwrap_or_else(|| self.apic.id());
        Message { address: 0xfee0_0000 | u32::from(apic) << 12, data: ASSERT | (vector::FIRST_PIRQ + pirq) }
    }

    fn read_controller(&self, address: u64, register: u32) -> Option<u32> {
        self.ioapics.iter().find(|ioapic| ioapic.is_at(address)).map(|ioapic| ioapic.register(register))
    }

    fn line_of_pin(&self, address: u64, pin: u32) -> Option<u32> {
        self.ioapics.iter().find(|ioapic| ioapic.is_at(address))?.line_of_pin(pin)
    }

    fn route(&self, gsi: u32, signal: Signal) -> Result<(), Errno> {
        let ioapic = self.ioapics.iter().find(|ioapic| ioapic.has(gsi)).ok_or(Errno::Inval)?;
        if gsi >= self.lines() {
            return Err(Errno::NoSpc);
        }
        let trigger = if signal.is_level { Trigger::Level } else { Trigger::Edge };
        ioapic.route(gsi, trigger, signal.is_active_low, self.apic.id());
        Ok(())
    }

    fn set_masked(&self, gsi: u32, masked: bool) {
        if let Some(ioapic) = self.ioapics.iter().find(|ioapic| ioapic.has(gsi)) {
            ioapic.set_masked(gsi, masked);
        }
    }
}

impl Pc {
    /// Does something with device registers, where the CPU can address them.
    fn with_device<R>(&self, at: MachineAddr, work: impl FnOnce(u64) -> R) -> Option<R> {
        let window = Window::of(percpu::this().number)?;
        (at.as_u64() >> self.features.address_bits == 0).then(|| window.with_device(at.as_u64(), work))
    }
}

impl DeviceMemory for Pc {
    fn read_device(&self, at: MachineAddr) -> u32 {
        // SAFETY: the page is mapped for as long as this takes, and aligned as the library
        // says; atomics may alias anything.
        let read = |seen: u64| unsafe { &*(seen as *const AtomicU32) }.load(Ordering::Relaxed);
        self.with_device(at, read).unwrap_or(u32::MAX)
    }

    fn write_device(&self, at: MachineAddr, bytes: u8, value: u32) {
        // SAFETY: as in `read_device`; the library names devices that only the domain
        // which drives the machine can reach.
        let write = |seen: u64| unsafe {
            match bytes {
                1 => (*(seen as *const AtomicU8)).store(value as u8, Ordering::Relaxed),
                2 => (*(seen as *const AtomicU16)).store(value as u16, Ordering::Relaxed),
                _ => (*(seen as *const AtomicU32)).store(value, Ordering::Relaxed),
            }
        };
        let _ = self.with_device(at, write);
    }
}
