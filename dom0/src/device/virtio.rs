//! A virtio device on PCI (version 1): its registers, the start of a driver, its interrupt.

use core::sync::atomic::Ordering;

use oxen_domu_lib::event::Port;
use oxen_domu_lib::memory::{
    PAGE_SIZE, Page,
    map::{Mapping, Words},
};
use oxen_domu_lib::{control, println, time};

use super::pci::Function;
use super::virtqueue::{Dma, MOST, VirtQueue};

/// Who makes virtio devices.
pub const VENDOR: u16 = 0x1af4;
/// A feature that every device of version 1 has.
const VERSION_1: u64 = 1 << 32;

const CAPABILITY_VENDOR: u8 = 9;
/// Kinds of registers: common, notify, interrupt status, the device's own.
const KINDS: core::ops::RangeInclusive<u8> = 1..=4;
const NOTIFY: u8 = 2;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const FAILED: u8 = 128;

/// How long to wait where there is no interrupt, in nanoseconds.
const POLL: u64 = time::MILLISECOND;
/// How long to wait for an interrupt that may have been lost, in nanoseconds.
const LOST: u64 = 100 * time::MILLISECOND;

/// A range of registers.
#[derive(Debug)]
pub struct Registers {
    mapping: Mapping,
    offset: usize,
}

impl Registers {
    /// Maps what a capability names.
    fn map(function: Function, capability: u8) -> Option<Self> {
        let [bar, ..] = function.read(capability + 4).to_le_bytes();
        let start = function.memory_range(bar)? + u64::from(function.read(capability + 8));
        let offset = usize::try_from(start % PAGE_SIZE as u64).ok()?;
        let length = usize::try_from(function.read(capability + 12)).ok()?;
        let mapping = Mapping::device(start - offset as u64, offset + length).ok()?;
        Some(Self { mapping, offset })
    }

    /// Reads 8 bits.
    pub fn read8(&self, at: usize) -> u8 {
        self.mapping.bytes().get(self.offset + at).map_or(0, |cell| cell.load(Ordering::SeqCst))
    }

    fn write8(&self, at: usize, value: u8) {
        if let Some(cell) = self.mapping.bytes().get(self.offset + at) {
            cell.store(value, Ordering::SeqCst);
        }
    }

    /// Reads 16 bits.
    pub fn read16(&self, at: usize) -> u16 {
        self.mapping.words16().get((self.offset + at) / 2).map_or(0, |cell| cell.load(Ordering::SeqCst))
    }

    fn write16(&self, at: usize, value: u16) {
        if let Some(cell) = self.mapping.words16().get((self.offset + at) / 2) {
            cell.store(value, Ordering::SeqCst);
        }
    }

    /// Reads 32 bits.
    pub fn read32(&self, at: usize) -> u32 {
        self.mapping.words32().get((self.offset + at) / 4).map_or(0, |cell| cell.load(Ordering::SeqCst))
    }

    fn write32(&self, at: usize, value: u32) {
        if let Some(cell) = self.mapping.words32().get((self.offset + at) / 4) {
            cell.store(value, Ordering::SeqCst);
        }
    }

    /// Reads 64 bits in two halves.
    pub fn read64(&self, at: usize) -> u64 {
        u64::from(self.read32(at)) | u64::from(self.read32(at + 4)) << 32
    }

    fn write64(&self, at: usize, value: u64) {
        let [low, high] = [value & 0xffff_ffff, value >> 32].map(|half| half as u32);
        self.write32(at, low);
        self.write32(at + 4, high);
    }
}

/// A device whose driver has started.
#[derive(Debug)]
pub struct VirtioDevice {
    common: Registers,
    notify: Registers,
    notify_unit: u32,
    interrupt: Registers,
    /// The device's own registers.
    pub config: Registers,
    /// Features that both sides have.
    pub features: u64,
    line: Option<(u32, Port)>,
}

impl VirtioDevice {
    /// Resets a device and agrees on features, of which `wanted` are of use.
    pub fn start(function: Function, wanted: u64) -> Option<Self> {
        let mut found = [None, None, None, None];
        let mut notify_unit = 0;
        for (at, kind) in function.capabilities() {
            let [_, _, _, config] = function.read(at).to_le_bytes();
            if kind != CAPABILITY_VENDOR || !KINDS.contains(&config) {
                continue;
            }
            let place = found.get_mut(usize::from(config - 1))?;
            // The first of each kind is the one to use.
            if place.is_none() {
                *place = Registers::map(function, at);
                if config == NOTIFY {
                    notify_unit = function.read(at + 16);
                }
            }
        }
        let [common, notify, interrupt, config] = found;
        function.enable();
        let line = function.interrupt_line().and_then(bind);
        let mut device = Self {
            common: common?,
            notify: notify?,
            notify_unit,
            interrupt: interrupt?,
            config: config?,
            features: 0,
            line,
        };
        device.negotiate(wanted).then_some(device)
    }

    fn status(&self, bit: u8) {
        self.common.write8(0x14, self.common.read8(0x14) | bit);
    }

    fn negotiate(&mut self, wanted: u64) -> bool {
        self.common.write8(0x14, 0);
        while self.common.read8(0x14) != 0 {
            core::hint::spin_loop();
        }
        self.status(ACKNOWLEDGE);
        self.status(DRIVER);
        let mut offered = 0;
        for half in 0..2 {
            self.common.write32(0x00, half);
            offered |= u64::from(self.common.read32(0x04)) << (32 * half);
        }
        self.features = offered & (wanted | VERSION_1);
        for half in 0..2 {
            self.common.write32(0x08, half);
            self.common.write32(0x0c, (self.features >> (32 * half) & 0xffff_ffff) as u32);
        }
        self.status(FEATURES_OK);
        let agreed = self.features & VERSION_1 != 0 && self.common.read8(0x14) & FEATURES_OK != 0;
        if !agreed {
            self.status(FAILED);
        }
        agreed
    }

    /// Sets the first queue up and lets the device begin.
    pub fn open_queue(&self) -> Option<VirtQueue<Page>> {
        self.common.write16(0x16, 0);
        let size = self.common.read16(0x18).min(MOST);
        if !size.is_power_of_two() {
            return None;
        }
        let queue = VirtQueue::new(size, Page::zeroed()?, Page::zeroed()?, Page::zeroed()?);
        self.common.write16(0x18, size);
        self.common.write64(0x20, Dma::address(&queue.descriptors));
        self.common.write64(0x28, Dma::address(&queue.available));
        self.common.write64(0x30, Dma::address(&queue.used));
        self.common.write16(0x1c, 1);
        self.status(DRIVER_OK);
        Some(queue)
    }

    /// Tells the device of new chains in the first queue.
    pub fn notify(&self) {
        self.common.write16(0x16, 0);
        let unit = usize::try_from(self.notify_unit).unwrap_or(0);
        self.notify.write16(usize::from(self.common.read16(0x1e)) * unit, 0);
    }

    /// Waits until the device may have done something.
    pub async fn wait(&self) {
        let Some((pirq, port)) = &self.line else {
            time::sleep(POLL).await;
            return;
        };
        // A lost interrupt costs time, not the disk.
        let _ = oxen_domu_lib::task::timeout(LOST, port.wait()).await;
        // Reading the status takes the interrupt back.
        self.interrupt.read8(0);
        // It was ours to end; if it had ended by itself, nothing happens.
        let _ = control::end_of_interrupt(*pirq);
    }
}

/// Binds an interrupt line; without one the device is polled.
fn bind(line: u32) -> Option<(u32, Port)> {
    let bound = control::map_interrupt_line(line).and_then(|pirq| Ok((pirq, Port::bind_pirq(pirq, true)?)));
    bound.map_err(|errno| println!("interrupt line {line} is polled: {}", errno.name())).ok()
}
