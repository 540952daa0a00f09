//! A virtio device on PCI (version 1): its registers, the start of a driver, its interrupt.

use alloc::rc::Rc;
use core::sync::atomic::Ordering;

use oxen_domu_lib::memory::{
    PAGE_SIZE, Page,
    map::{Mapping, Words},
};
use oxen_domu_lib::sync::Notify;
use oxen_domu_lib::{task, time};

use super::interrupt::{Lines, Message, Source};
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

/// The entry of the device's table of messages that is used.
const MESSAGE: u16 = 0;

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

/// The status of a device's interrupt.
#[derive(Debug)]
struct Interrupt {
    status: Registers,
    raised: Notify,
}

impl Source for Interrupt {
    fn serve(&self) {
        // Reading the status takes the interrupt back.
        if self.status.read8(0) != 0 {
            self.raised.notify();
        }
    }

    fn wake(&self) {
        self.raised.notify();
    }
}

/// A queue of a device, and how the device is told of what stands in it.
#[derive(Debug)]
pub struct Queue {
    /// The chains.
    pub ring: VirtQueue<Page>,
    index: u16,
    bell: usize,
}

/// A device whose driver has started.
#[derive(Debug)]
pub struct VirtioDevice {
    common: Registers,
    notify: Registers,
    notify_unit: u32,
    interrupt: Rc<Interrupt>,
    /// Whether interrupts arrive; otherwise the device is polled.
    interrupts: bool,
    /// Whether they are messages, which each queue is told to send.
    by_message: bool,
    /// The device's own registers.
    pub config: Registers,
    /// Features that both sides have.
    pub features: u64,
}

impl VirtioDevice {
    /// The devices of one kind, in the order of their places on the bus.
    pub fn find(ids: [u16; 2]) -> impl Iterator<Item = Function> {
        let is_one = move |function: &Function| function.vendor == VENDOR && ids.contains(&function.id);
        Function::all().into_iter().filter(is_one)
    }

    /// Resets a device and agrees on features: `choose` takes of those that are offered what is of use.
    pub fn start(function: Function, lines: &Lines, choose: impl FnOnce(u64) -> u64) -> Option<Self> {
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
        let interrupt = Rc::new(Interrupt { status: interrupt?, raised: Notify::new() });
        let mut device = Self {
            common: common?,
            notify: notify?,
            notify_unit,
            interrupt,
            interrupts: false,
            by_message: false,
            config: config?,
            features: 0,
        };
        if !device.negotiate(choose) {
            return None;
        }
        device.by_message = device.use_message(function);
        let line = function.interrupt_line().filter(|_| !device.by_message);
        device.interrupts = device.by_message || line.is_some_and(|line| lines.connect(line, device.interrupt.clone()));
        Some(device)
    }

    /// Lets the device interrupt by message, one for all that it has to say; returns whether it does.
    fn use_message(&self, function: Function) -> bool {
        let Some(message) = Message::bind(function, MESSAGE) else { return false };
        function.set_messages(true);
        self.common.write16(0x10, MESSAGE);
        if self.common.read16(0x10) != MESSAGE {
            function.set_messages(false);
            message.give_back();
            return false;
        }
        message.connect(self.interrupt.clone());
        true
    }

    fn status(&self, bit: u8) {
        self.common.write8(0x14, self.common.read8(0x14) | bit);
    }

    fn negotiate(&mut self, choose: impl FnOnce(u64) -> u64) -> bool {
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
        self.features = offered & (choose(offered) | VERSION_1);
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

    /// Sets a queue up, before [`VirtioDevice::begin`].
    pub fn open_queue(&self, index: u16) -> Option<Queue> {
        self.common.write16(0x16, index);
        let size = self.common.read16(0x18).min(MOST);
        if !size.is_power_of_two() {
            return None;
        }
        let ring = VirtQueue::new(size, Page::zeroed()?, Page::zeroed()?, Page::zeroed()?);
        self.common.write16(0x18, size);
        self.common.write64(0x20, Dma::address(&ring.descriptors));
        self.common.write64(0x28, Dma::address(&ring.available));
        self.common.write64(0x30, Dma::address(&ring.used));
        if self.by_message {
            self.common.write16(0x1a, MESSAGE);
            if self.common.read16(0x1a) != MESSAGE {
                return None;
            }
        }
        self.common.write16(0x1c, 1);
        let bell = usize::from(self.common.read16(0x1e)).checked_mul(usize::try_from(self.notify_unit).ok()?)?;
        Some(Queue { ring, index, bell })
    }

    /// Lets the device begin.
    pub fn begin(&self) {
        self.status(DRIVER_OK);
    }

    /// Tells the device of new chains in a queue, where it wants to be told.
    pub fn notify(&self, queue: &Queue) {
        if queue.ring.wants_notice() {
            self.notify.write16(queue.bell, queue.index);
        }
    }

    /// Waits until the device may have done something.
    pub async fn wait(&self) {
        if self.interrupts {
            // A lost interrupt costs time, not the device.
            let _ = task::timeout(LOST, self.interrupt.raised.notified()).await;
        } else {
            time::sleep(POLL).await;
        }
    }
}
