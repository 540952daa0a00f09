//! PCI functions that the control domain has announced, and the interrupt messages that are written for them.
//!
//! An interrupt by message is a write of the device to memory where the local APICs listen. What it writes, and where,
//! stands in the device: whoever may change that chooses the interrupt. So the hypervisor writes it, and keeps the
//! registers from the control domain as Xen does: the table of MSI-X can be mapped read-only for as long as an entry
//! is in use, and writes to the capability go through [`Pci::judge`], whether they come by port or through the window
//! of configuration space in memory, which is read-only for good. [`message`] sets interrupts up.

mod config;
mod guard;
mod message;
mod msi;

pub use message::{Entry, MAX_ENTRIES, Message};

use crate::{
    addr::{MachineAddr, Mfn, PAGE_SHIFT},
    config::MAX_PIRQS,
    heap::{self, Reserve},
    ports::Ports,
};
use alloc::boxed::Box;
use config::Config;
use core::ops::RangeInclusive;
use heapless::Vec;
use message::Assigned;
use msi::{Layout, MsiControl};
use oxen_abi::errno::Errno;

/// Functions that can be known at once.
pub const MAX_FUNCTIONS: usize = 256;
/// Windows of configuration space in memory.
pub const MAX_WINDOWS: usize = 4;

/// Registers of devices in memory, asked of the machine. The library says what is a device's.
pub trait DeviceMemory {
    /// Reads 32 bits, aligned; all ones where the CPU cannot address it.
    fn read_device(&self, at: MachineAddr) -> u32;
    /// Writes 1, 2 or 4 bytes, aligned.
    fn write_device(&self, at: MachineAddr, bytes: u8, value: u32);
}

/// Where a function is: segment, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(u32);

impl Address {
    /// The function of this name.
    #[must_use]
    pub const fn new(segment: u16, bus: u8, devfn: u8) -> Self {
        Self((segment as u32) << 16 | (bus as u32) << 8 | devfn as u32)
    }

    const fn segment(self) -> u16 {
        (self.0 >> 16) as u16
    }

    const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Bus, device and function.
    const fn in_segment(self) -> u32 {
        self.0 & 0xffff
    }
}

/// A window of configuration space in memory: 4 KiB for each function (ACPI's table MCFG).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Machine address of bus 0.
    pub address: u64,
    /// The segment that is seen.
    pub segment: u16,
    /// The first bus that is seen.
    pub first_bus: u8,
    /// The last bus that is seen.
    pub last_bus: u8,
}

impl Window {
    /// The frames in which its buses are seen; `None` where no machine has such frames.
    #[must_use]
    pub fn frames(&self) -> Option<RangeInclusive<u64>> {
        let frame = |bus: u8, function| Mfn::new((self.address >> PAGE_SHIFT) + (u64::from(bus) << 8) + function);
        let (first, last) = (frame(self.first_bus, 0)?, frame(self.last_bus, 0xff)?);
        self.address.is_multiple_of(1 << PAGE_SHIFT).then_some(first.raw()..=last.raw())
    }

    fn place(&self, at: Address, register: u16) -> Option<MachineAddr> {
        let is_seen = at.segment() == self.segment && (self.first_bus..=self.last_bus).contains(&at.bus());
        let place = self.address.checked_add(u64::from(at.in_segment()) << PAGE_SHIFT | u64::from(register))?;
        is_seen.then_some(MachineAddr::new(place))
    }

    /// The function that is seen in a frame.
    fn function(&self, mfn: Mfn) -> Option<Address> {
        let index = u32::try_from(mfn.raw().checked_sub(self.address >> PAGE_SHIFT)?).ok().filter(|&i| i < 1 << 16)?;
        let at = Address(u32::from(self.segment) << 16 | index);
        (self.first_bus..=self.last_bus).contains(&at.bus()).then_some(at)
    }
}

/// What is known of a function.
#[derive(Clone, Copy, Debug)]
struct Function {
    at: Address,
    /// Offset of the capability for MSI; 0 if it has none.
    msi: u8,
    /// What that has.
    layout: Layout,
    /// Offset of that for MSI-X; 0 if it has none.
    msix: u8,
    /// Entries of its MSI-X table.
    entries: u16,
    /// Entries in use, and one more where the control domain has prepared the table.
    uses: u16,
    is_prepared: bool,
    /// Machine address of the table, while it is in use.
    table: u64,
    /// First and last frame of the bits that say which entry waits, while the table is in use.
    waiting: (u64, u64),
}

impl Function {
    fn keeps(&self, mfn: Mfn) -> bool {
        let last = self.table + message::ENTRY_BYTES * u64::from(self.entries) - 1;
        let table = self.table >> PAGE_SHIFT..=last >> PAGE_SHIFT;
        self.uses != 0 && (table.contains(&mfn.raw()) || (self.waiting.0..=self.waiting.1).contains(&mfn.raw()))
    }
}

/// All of PCI that the hypervisor knows. The lock around it is also the turn at the two ports of configuration space.
#[derive(Debug)]
pub struct Pci {
    windows: Vec<Window, MAX_WINDOWS>,
    functions: Option<Box<[Option<Function>]>>,
    messages: [Option<Assigned>; MAX_PIRQS],
}

impl Default for Pci {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Pci {
    /// Nothing is known but where configuration space is.
    #[must_use]
    pub fn new(windows: Vec<Window, MAX_WINDOWS>) -> Self {
        Self { windows, functions: None, messages: [const { None }; MAX_PIRQS] }
    }

    /// Whether this is a window of configuration space as the firmware names it.
    #[must_use]
    pub fn has_window(&self, window: &Window) -> bool {
        self.windows.contains(window)
    }

    fn config<'a, M>(&'a self, machine: &'a M, at: Address) -> Config<'a, M> {
        Config { machine, windows: &self.windows, at }
    }

    #[inline(never)]
    fn function(&self, at: Address) -> Option<&Function> {
        self.functions.iter().flatten().flatten().find(|function| function.at == at)
    }

    #[inline(never)]
    fn function_mut(&mut self, at: Address) -> Option<&mut Function> {
        self.functions.iter_mut().flatten().flatten().find(|function| function.at == at)
    }

    /// Whether a function was announced.
    #[must_use]
    pub fn is_known(&self, at: Address) -> bool {
        self.function(at).is_some()
    }

    /// Learns of a function. One that is known stays as it is.
    ///
    /// # Errors
    /// `NoMem` when there are too many, or no memory for them.
    #[inline(never)]
    pub fn announce<M: Ports + DeviceMemory + Reserve>(&mut self, machine: &M, at: Address) -> Result<(), Errno> {
        if self.function(at).is_some() {
            return Ok(());
        }
        let known = self.look_at(machine, at);
        if self.functions.is_none() {
            self.functions = Some(heap::row(machine, MAX_FUNCTIONS, |_| None)?);
        }
        let free = self.functions.iter_mut().flatten().find(|place| place.is_none()).ok_or(Errno::NoMem)?;
        *free = Some(known);
        Ok(())
    }

    fn look_at<M: Ports + DeviceMemory>(&self, machine: &M, at: Address) -> Function {
        let config = self.config(machine, at);
        let (msi, layout) = msi::find_msi(&config).unwrap_or((0, Layout::of(MsiControl::empty())));
        let msix = config.find_capability(message::MSIX, message::MSIX_BYTES).unwrap_or(0);
        let entries = (config.read16(u16::from(msix) + msi::CONTROL) & message::MSIX_LAST) + 1;
        Function { at, msi, layout, msix, entries, uses: 0, is_prepared: false, table: 0, waiting: (1, 0) }
    }

    /// Forgets a function whose interrupts are unmapped ([`Self::pirqs_of`]), and lets it send no messages. A function
    /// that is announced after one of the same address owes nothing of that one's.
    ///
    /// # Errors
    /// `NoDev` if it is not known, `Busy` while it has interrupts.
    #[inline(never)]
    pub fn forget<M: Ports + DeviceMemory>(&mut self, machine: &M, at: Address) -> Result<(), Errno> {
        let function = *self.function(at).ok_or(Errno::NoDev)?;
        if self.uses_of(at).next().is_some() {
            return Err(Errno::Busy);
        }
        self.silence(machine, &function);
        for place in self.functions.iter_mut().flatten() {
            if place.is_some_and(|known| known.at == at) {
                *place = None;
            }
        }
        Ok(())
    }

    /// Whether a frame that is not RAM may be mapped by nobody for writing.
    #[must_use]
    #[inline(never)]
    pub fn is_read_only(&self, mfn: Mfn) -> bool {
        self.windows.iter().any(|window| window.function(mfn).is_some())
            || self.functions.iter().flatten().flatten().any(|function| function.keeps(mfn))
    }

    /// Does what the control domain's write to a frame that is not RAM and that it may only read comes to: in a window
    /// of configuration space a write there, elsewhere nothing.
    pub fn write_frame<M: Ports + DeviceMemory>(&self, machine: &M, mfn: Mfn, offset: u16, bytes: u8, value: u32) {
        let Some(at) = self.windows.iter().find_map(|window| window.function(mfn)) else { return };
        if bytes <= 4 && offset.is_multiple_of(u16::from(bytes)) {
            self.write_config(machine, at, offset, bytes, value);
        }
    }

    /// Writes a register for the control domain, as far as it may.
    #[inline(never)]
    fn write_config<M: Ports + DeviceMemory>(&self, machine: &M, at: Address, register: u16, bytes: u8, value: u32) {
        if let Some(value) = self.judge(at, register, bytes, value) {
            self.config(machine, at).write(register, bytes, value);
        }
    }

    /// Reads through one of the four data ports, with what the control domain wrote to the address port.
    pub fn read_port<M: Ports + DeviceMemory>(&self, machine: &M, address: u32, port: u16, bytes: u8) -> u32 {
        machine.port_out(config::ADDRESS_PORT, 4, address & config::ADDRESSED);
        machine.port_in(port, bytes)
    }

    /// Writes through one of the four data ports, as far as the control domain may.
    pub fn write_port<M: Ports + DeviceMemory>(&self, machine: &M, address: u32, port: u16, bytes: u8, value: u32) {
        if address & config::ENABLE == 0 {
            machine.port_out(config::ADDRESS_PORT, 4, address & config::ADDRESSED);
            return machine.port_out(port, bytes, value);
        }
        let register = (address & 0xfc) as u16 | port & 3;
        self.write_config(machine, Address(address >> 8 & 0xffff), register, bytes, value);
    }
}

#[cfg(test)]
mod tests;
