//! MSI and MSI-X (PCI 3.0, 6.8): who sends which message.

use super::{
    Address, DeviceMemory, Function, Pci,
    config::Config,
    msi::{CONTROL, MSI_ADDRESS, MSI_ADDRESS_HIGH, MsiControl},
};
use crate::{
    addr::{MachineAddr, Mfn},
    ports::Ports,
};
use bitflags::bitflags;
use oxen_abi::errno::Errno;

/// The kind of the capability.
pub(super) const MSIX: u8 = 0x11;

bitflags! {
    /// The control word of the capability for MSI-X, beside the number of the last entry.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct MsixControl: u16 {
        const MASK_ALL = 1 << 14;
        const ENABLE = 1 << 15;
    }
}

/// Bytes of the capability for MSI-X.
pub(super) const MSIX_BYTES: u16 = 12;
/// In its control word: the number of the last entry.
pub(super) const MSIX_LAST: u16 = 0x7ff;
/// Offsets of the words that say where the table is, and the bits of entries that wait.
const MSIX_TABLE: u16 = 4;
const MSIX_WAITING: u16 = 8;
/// In these words: which range of memory.
const RANGE: u32 = 7;

/// Entries of an MSI-X table at most.
pub const MAX_ENTRIES: u16 = MSIX_LAST + 1;
/// Bytes of an entry: address, its upper half, data, and a word whose lowest bit masks.
pub(super) const ENTRY_BYTES: u64 = 16;
const ENTRY_CONTROL: u64 = 12;
const ENTRY_MASKED: u32 = 1;

/// What a device writes, and where, to raise an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Machine address, below 4 GiB; it says which CPU is interrupted.
    pub address: u32,
    /// What is written there: the same for a pirq, whatever the CPU.
    pub data: u32,
}

/// Which of a function's interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The one of MSI.
    Msi,
    /// An entry of its MSI-X table.
    Msix(u16),
}

/// Who sends the message of a pirq.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assigned {
    at: Address,
    pub(super) entry: Entry,
    message: Message,
    pub(super) is_masked: bool,
}

impl<M: Ports + DeviceMemory> Config<'_, M> {
    fn msix_control(&self, capability: u8) -> MsixControl {
        MsixControl::from_bits_retain(self.read16(u16::from(capability) + CONTROL))
    }
}

impl Function {
    const fn entry_at(&self, entry: u16, offset: u64) -> MachineAddr {
        MachineAddr::new(self.table + ENTRY_BYTES * entry as u64 + offset)
    }
}

impl Pci {
    fn assigned(&self, pirq: u32) -> Option<&Assigned> {
        self.messages.get(pirq as usize)?.as_ref()
    }

    pub(super) fn uses_of(&self, at: Address) -> impl Iterator<Item = (u32, &Assigned)> {
        let all = (0..).zip(&self.messages).filter_map(|(pirq, assigned)| Some((pirq, assigned.as_ref()?)));
        all.filter(move |(_, assigned)| assigned.at == at)
    }

    /// The pirqs whose messages a function sends.
    pub fn pirqs_of(&self, at: Address) -> impl Iterator<Item = u32> {
        self.uses_of(at).map(|(pirq, _)| pirq)
    }

    /// Lets a function raise a pirq, masked where it can be. `is_device` says whether a frame is a
    /// device's, which may be written.
    ///
    /// # Errors
    /// `NoDev` for a function that is not known or cannot do it, `Inval` for an entry that it does not have, `Exist`
    /// for one that is in use, `Busy` if it uses the other kind, `NxIo` if its table is nowhere.
    #[inline(never)]
    pub fn assign<M: Ports + DeviceMemory>(
        &mut self,
        machine: &M,
        is_device: &dyn Fn(Mfn) -> bool,
        (at, entry): (Address, Entry),
        pirq: u32,
        message: Message,
    ) -> Result<(), Errno> {
        let function = *self.function(at).ok_or(Errno::NoDev)?;
        match entry {
            Entry::Msi if function.msi == 0 => return Err(Errno::NoDev),
            Entry::Msix(_) if function.msix == 0 => return Err(Errno::NoDev),
            Entry::Msix(number) if number >= function.entries => return Err(Errno::Inval),
            Entry::Msi | Entry::Msix(_) => {}
        }
        for (_, other) in self.uses_of(at) {
            if other.entry == entry {
                return Err(Errno::Exist);
            }
            if (other.entry == Entry::Msi) != (entry == Entry::Msi) {
                return Err(Errno::Busy);
            }
        }
        let place = self.messages.get(pirq as usize).filter(|place| place.is_none());
        place.ok_or(Errno::Inval)?;
        if let Entry::Msix(_) = entry {
            self.hold_table(machine, is_device, at)?;
        }
        if let Some(place) = self.messages.get_mut(pirq as usize) {
            *place = Some(Assigned { at, entry, message, is_masked: true });
        }
        self.put(machine, pirq);
        Ok(())
    }

    /// Writes the message of a pirq into the device as it shall stand there. The message is masked, or the device kept
    /// from sending any, while it is neither the old nor the new one.
    #[inline(never)]
    fn put<M: Ports + DeviceMemory>(&self, machine: &M, pirq: u32) {
        let Some(&Assigned { at, entry, message, is_masked }) = self.assigned(pirq) else { return };
        let Some(function) = self.function(at) else { return };
        match entry {
            Entry::Msix(number) => {
                machine.write_device(function.entry_at(number, ENTRY_CONTROL), 4, ENTRY_MASKED);
                for (offset, word) in (0..).step_by(4).zip([message.address, 0, message.data]) {
                    machine.write_device(function.entry_at(number, offset), 4, word);
                }
                machine.write_device(function.entry_at(number, ENTRY_CONTROL), 4, u32::from(is_masked));
            }
            Entry::Msi => {
                let config = self.config(machine, at);
                let base = u16::from(function.msi);
                let control = config.msi_control(function.msi) - MsiControl::COUNT;
                let layout = function.layout;
                config.write(base + CONTROL, 2, (control - MsiControl::ENABLE).bits().into());
                config.write(base + MSI_ADDRESS, 4, message.address);
                if layout.has_high {
                    config.write(base + MSI_ADDRESS_HIGH, 4, 0);
                }
                config.write(base + layout.data, 2, message.data);
                if let Some(mask) = layout.mask {
                    config.write(base + mask, 4, !1 | u32::from(is_masked));
                }
                config.write(base + CONTROL, 2, control.bits().into());
            }
        }
    }

    /// Masks the message of a pirq, where the device can, or unmasks it.
    #[inline(never)]
    pub fn set_masked<M: Ports + DeviceMemory>(&mut self, machine: &M, pirq: u32, masked: bool) {
        let Some(Some(assigned)) = self.messages.get_mut(pirq as usize) else { return };
        assigned.is_masked = masked;
        let Assigned { at, entry, .. } = *assigned;
        let Some(function) = self.function(at) else { return };
        match entry {
            Entry::Msix(number) => {
                machine.write_device(function.entry_at(number, ENTRY_CONTROL), 4, u32::from(masked));
            }
            Entry::Msi => {
                if let Some(mask) = function.layout.mask {
                    let register = u16::from(function.msi) + mask;
                    self.config(machine, at).write(register, 4, !1 | u32::from(masked));
                }
            }
        }
    }

    /// Lets the message of a pirq go elsewhere, which its address says. Where a device cannot mask, what it has to say
    /// meanwhile must not be lost: the one word changes that differs.
    #[inline(never)]
    pub fn aim<M: Ports + DeviceMemory>(&mut self, machine: &M, pirq: u32, message: Message) {
        let Some(Some(assigned)) = self.messages.get_mut(pirq as usize) else { return };
        if assigned.message == message {
            return;
        }
        assigned.message = message;
        let Assigned { at, entry, .. } = *assigned;
        match (entry, self.function(at)) {
            (Entry::Msi, Some(function)) => {
                self.config(machine, at).write(u16::from(function.msi) + MSI_ADDRESS, 4, message.address);
            }
            _ => self.put(machine, pirq),
        }
    }

    /// Lets a function raise a pirq no longer. Returns whether one did.
    #[inline(never)]
    pub fn release<M: Ports + DeviceMemory>(&mut self, machine: &M, pirq: u32) -> bool {
        self.set_masked(machine, pirq, true);
        let Some(Assigned { at, entry, .. }) = self.messages.get_mut(pirq as usize).and_then(Option::take) else {
            return false;
        };
        let Some(function) = self.function_mut(at) else { return true };
        match entry {
            Entry::Msix(_) => function.uses -= 1,
            Entry::Msi => {
                let capability = function.msi;
                let config = self.config(machine, at);
                let control = config.msi_control(capability) - MsiControl::ENABLE;
                config.write(u16::from(capability) + CONTROL, 2, control.bits().into());
            }
        }
        true
    }

    /// Takes a use of a function's table. The first looks for the table, and masks all of it.
    #[inline(never)]
    fn hold_table<M: Ports + DeviceMemory>(
        &mut self,
        machine: &M,
        is_device: &dyn Fn(Mfn) -> bool,
        at: Address,
    ) -> Result<(), Errno> {
        let function = *self.function(at).ok_or(Errno::NoDev)?;
        let config = self.config(machine, at);
        let base = u16::from(function.msix);
        if !config.decodes_memory() {
            return Err(Errno::NxIo);
        }
        let mut found = function;
        if function.uses == 0 {
            let bytes = ENTRY_BYTES * u64::from(function.entries);
            let (first, _) = range(&config, base + MSIX_TABLE, bytes, is_device).ok_or(Errno::NxIo)?;
            found.table = first;
            // Where those bits are is the device's word; a lie keeps pages from the control domain, and no others.
            let bits = u64::from(function.entries).div_ceil(64) * 8;
            let waiting = range(&config, base + MSIX_WAITING, bits, is_device);
            found.waiting = waiting.map_or((1, 0), |(first, last)| (first >> 12, last >> 12));
            // Some devices take no writes to the table while MSI-X is off.
            let control = config.msix_control(function.msix);
            let masked = control | MsixControl::ENABLE | MsixControl::MASK_ALL;
            config.write(base + CONTROL, 2, masked.bits().into());
            (0..found.entries).for_each(|n| machine.write_device(found.entry_at(n, ENTRY_CONTROL), 4, ENTRY_MASKED));
            config.write(base + CONTROL, 2, control.bits().into());
        }
        found.uses += 1;
        if let Some(function) = self.function_mut(at) {
            *function = found;
        }
        Ok(())
    }

    /// Keeps the table of a function from the control domain although no entry is in use (`PHYSDEVOP_prepare_msix`).
    ///
    /// # Errors
    /// `NoDev` for a function that is not known or has none, `Busy` if it is in use, `NxIo` as [`Self::assign`].
    pub fn prepare<M: Ports + DeviceMemory>(
        &mut self,
        machine: &M,
        is_device: &dyn Fn(Mfn) -> bool,
        at: Address,
    ) -> Result<(), Errno> {
        match self.function(at) {
            Some(function) if function.msix != 0 && function.uses == 0 => {}
            Some(function) if function.msix != 0 => return Err(Errno::Busy),
            _ => return Err(Errno::NoDev),
        }
        self.hold_table(machine, is_device, at)?;
        if let Some(function) = self.function_mut(at) {
            function.is_prepared = true;
        }
        Ok(())
    }

    /// Takes that back (`PHYSDEVOP_release_msix`).
    ///
    /// # Errors
    /// `NoDev` as [`Self::prepare`], `Busy` if an entry is in use or it was not prepared.
    pub fn unprepare(&mut self, at: Address) -> Result<(), Errno> {
        let function = self.function_mut(at).filter(|function| function.msix != 0).ok_or(Errno::NoDev)?;
        if !function.is_prepared || function.uses != 1 {
            return Err(Errno::Busy);
        }
        (function.is_prepared, function.uses) = (false, 0);
        Ok(())
    }

    /// Writes all messages of a function anew, which has lost them while it had no power.
    ///
    /// # Errors
    /// `NoDev` if it is not known, `NxIo` if its table cannot be reached.
    #[inline(never)]
    pub fn restore<M: Ports + DeviceMemory>(&self, machine: &M, at: Address) -> Result<(), Errno> {
        let function = self.function(at).ok_or(Errno::NoDev)?;
        let mut is_on = false;
        let config = self.config(machine, at);
        let base = u16::from(function.msix);
        for (pirq, assigned) in self.uses_of(at) {
            if assigned.entry == Entry::Msi {
                self.put(machine, pirq);
                let control = config.msi_control(function.msi) | MsiControl::ENABLE;
                config.write(u16::from(function.msi) + CONTROL, 2, control.bits().into());
                continue;
            }
            if !config.decodes_memory() {
                return Err(Errno::NxIo);
            }
            if !is_on {
                config.write(base + CONTROL, 2, (MsixControl::ENABLE | MsixControl::MASK_ALL).bits().into());
                is_on = true;
            }
            self.put(machine, pirq);
        }
        if is_on {
            config.write(base + CONTROL, 2, MsixControl::ENABLE.bits().into());
        }
        Ok(())
    }

    /// Lets a function send no messages at all.
    #[inline(never)]
    pub(super) fn silence<M: Ports + DeviceMemory>(&self, machine: &M, function: &Function) {
        let config = self.config(machine, function.at);
        for (base, enable) in [(function.msi, MsiControl::ENABLE.bits()), (function.msix, MsixControl::ENABLE.bits())] {
            let control = u16::from(base) + CONTROL;
            if base != 0 && config.read16(control) & enable != 0 {
                config.write(control, 2, (config.read16(control) & !enable).into());
            }
        }
    }
}

/// Machine addresses of the first and the last byte of what a word of the capability names: `bytes` in a range of the
/// device's memory, all of it where a device is and not RAM, nor what the hypervisor drives itself.
fn range<M: Ports + DeviceMemory>(
    config: &Config<'_, M>,
    register: u16,
    bytes: u64,
    is_device: &dyn Fn(Mfn) -> bool,
) -> Option<(u64, u64)> {
    let word = config.read32(register);
    let start = config.memory_range((word & RANGE) as u8);
    let first = start.checked_add(u64::from(word & !RANGE)).filter(|_| start != 0)?;
    let last = first.checked_add(bytes - 1)?;
    let frames = Mfn::containing(MachineAddr::new(first))?.raw()..=Mfn::containing(MachineAddr::new(last))?.raw();
    frames.into_iter().all(|frame| Mfn::new(frame).is_some_and(is_device)).then_some((first, last))
}
