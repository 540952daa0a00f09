//! A virtio network card: frames copied between the bridge's buffers and pages that the device reaches.
//!
//! What the card can leave to others, or do for us, is what the device offers: QEMU offers checksums and segmentation
//! only where what stands behind the card takes them (a tap device does, its user network does not).

mod header;

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use bitflags::bitflags;
use oxen_domu_lib::memory::{PAGE_SIZE, Page, bytes};
use oxen_domu_lib::sync::Notify;

use self::header::{HEADER, Header};
use super::interrupt::Lines;
use super::pci::Function;
use super::virtio::{Queue, VirtioDevice};
use super::virtqueue::{Buffer, Dma};
use crate::bridge::{LONGEST, Mac, Malformed, Offload, Packet};

const DEVICE_IDS: [u16; 2] = [0x1000, 0x1041];

bitflags! {
    /// What a network card offers (virtio 1.1, 5.1.3).
    #[derive(Clone, Copy)]
    struct Feature: u64 {
        const CHECKSUM = 1 << 0;
        const GUEST_CHECKSUM = 1 << 1;
        const MAC = 1 << 5;
        const GUEST_TSO4 = 1 << 7;
        const GUEST_TSO6 = 1 << 8;
        const HOST_TSO4 = 1 << 11;
        const HOST_TSO6 = 1 << 12;
        const MERGED_BUFFERS = 1 << 15;
    }
}

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// Pages of the longest frame with its header.
const MAX_PAGES: usize = (LONGEST + HEADER).div_ceil(PAGE_SIZE);
/// Buffers given back to the device before it is told.
const BATCH: usize = 32;

/// One network card.
#[derive(Debug)]
pub struct VirtioNet {
    device: VirtioDevice,
    address: Option<Mac>,
    receive: RefCell<Queue>,
    /// The page of each receive buffer, by head.
    buffers: RefCell<Vec<Option<Page>>>,
    /// Buffers that were given back and of which the device was not told.
    returned: Cell<usize>,
    transmit: RefCell<Queue>,
    /// The pages of each chain that is being sent, by head.
    sending: RefCell<Vec<Vec<Page>>>,
    idle: RefCell<Vec<Page>>,
    done: Notify,
}

/// Features of use among those that are offered.
fn choose(offered: u64) -> u64 {
    let offered = Feature::from_bits_retain(offered);
    let mut wanted = Feature::MAC | Feature::MERGED_BUFFERS | Feature::CHECKSUM | Feature::GUEST_CHECKSUM;
    // A segmented frame can be as long as many pages: without merging each buffer would have to be.
    if offered.contains(Feature::MERGED_BUFFERS | Feature::GUEST_CHECKSUM) {
        wanted |= Feature::GUEST_TSO4 | Feature::GUEST_TSO6;
    }
    if offered.contains(Feature::CHECKSUM) {
        wanted |= Feature::HOST_TSO4 | Feature::HOST_TSO6;
    }
    wanted.bits()
}

impl VirtioNet {
    /// Finds and starts the first virtio network card on the bus. Two could lead to the same network, and frames
    /// between them would go round.
    pub fn find(lines: &Lines) -> Option<Self> {
        VirtioDevice::find(DEVICE_IDS).find_map(|function| Self::start(function, lines))
    }

    fn start(function: Function, lines: &Lines) -> Option<Self> {
        let device = VirtioDevice::start(function, lines, choose)?;
        let (receive, mut transmit) = (device.open_queue(RECEIVE)?, device.open_queue(TRANSMIT)?);
        // What was sent is taken back when something else is to be sent.
        transmit.ring.be_quiet(true);
        let word = |at: usize| device.config.read32(at).to_le_bytes();
        let ([a, b, c, d], [e, f, ..]) = (word(0), word(4));
        let address =
            Feature::from_bits_retain(device.features).contains(Feature::MAC).then_some(Mac([a, b, c, d, e, f]));
        let slots = receive.ring.room();
        let card = Self {
            address,
            buffers: RefCell::new((0..slots).map(|_| None).collect()),
            sending: RefCell::new((0..transmit.ring.room()).map(|_| Vec::new()).collect()),
            receive: RefCell::new(receive),
            returned: Cell::new(0),
            transmit: RefCell::new(transmit),
            idle: RefCell::default(),
            done: Notify::new(),
            device,
        };
        for _ in 0..slots {
            card.give_buffer(Page::zeroed()?);
        }
        card.device.begin();
        card.tell();
        Some(card)
    }

    /// The card's own address.
    pub fn address(&self) -> Option<Mac> {
        self.address
    }

    /// What may be left to the card.
    pub fn offload(&self) -> Offload {
        let has = |feature| Feature::from_bits_retain(self.device.features).contains(feature);
        let long = self.sending.borrow().len() >= 2 * MAX_PAGES;
        Offload {
            checksum_v4: has(Feature::CHECKSUM),
            checksum_v6: has(Feature::CHECKSUM),
            segmentation_v4: has(Feature::HOST_TSO4) && long,
            segmentation_v6: has(Feature::HOST_TSO6) && long,
        }
    }

    /// Waits for a frame.
    ///
    /// # Errors
    /// [`Malformed`]: what the device delivered is none.
    pub async fn receive(&self) -> Result<Packet, Malformed> {
        loop {
            let packet = self.try_receive();
            if packet.is_none() || self.returned.get() >= BATCH {
                self.tell();
            }
            if let Some(packet) = packet {
                return packet;
            }
            self.device.wait().await;
            self.done.notify();
        }
    }

    /// The next frame that has arrived.
    fn try_receive(&self) -> Option<Result<Packet, Malformed>> {
        let (mut header, mut frame) = ([0; HEADER], Vec::new());
        self.take_buffer(&mut header, &mut frame)?;
        let header = Header::parse(header);
        let merged = Feature::from_bits_retain(self.device.features).contains(Feature::MERGED_BUFFERS);
        let buffers = if merged { header.buffers } else { 1 };
        // The device shows all buffers of a frame at once: what is missing will not come.
        let whole = (1..buffers).all(|_| self.take_buffer(&mut [], &mut frame).is_some());
        Some(header.packet(frame).filter(|_| whole).ok_or(Malformed))
    }

    /// Fills `header` with the first bytes of the next buffer, adds the others to `frame`, and gives the buffer back.
    fn take_buffer(&self, header: &mut [u8], frame: &mut Vec<u8>) -> Option<()> {
        let used = self.receive.borrow_mut().ring.take_used()?;
        let page = self.buffers.borrow_mut().get_mut(usize::from(used.head))?.take()?;
        let written = usize::try_from(used.written).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
        bytes::read(page.words64(), 0, header);
        let start = frame.len();
        frame.resize(start + written.saturating_sub(header.len()), 0);
        bytes::read(page.words64(), header.len(), frame.get_mut(start..).unwrap_or_default());
        self.give_buffer(page);
        Some(())
    }

    fn give_buffer(&self, page: Page) {
        let buffer = Buffer { address: Dma::address(&page), length: PAGE_SIZE as u32, device_writes: true };
        let head = self.receive.borrow_mut().ring.offer(&[buffer]);
        let mut buffers = self.buffers.borrow_mut();
        if let Some(place) = head.and_then(|head| buffers.get_mut(usize::from(head))) {
            *place = Some(page);
        }
        drop(buffers);
        self.returned.set(self.returned.get() + 1);
    }

    /// Tells the device of buffers that were given back.
    fn tell(&self) {
        if self.returned.take() != 0 {
            self.device.notify(&self.receive.borrow());
        }
    }

    /// Sends a frame, when there is room for it; returns whether the card can carry it.
    pub async fn send(&self, packet: Packet) -> bool {
        let pages = (packet.bytes.len() + HEADER).div_ceil(PAGE_SIZE);
        if pages > self.sending.borrow().len() {
            return false;
        }
        self.reclaim();
        while self.transmit.borrow().ring.room() < pages {
            self.transmit.borrow_mut().ring.be_quiet(false);
            self.reclaim();
            if self.transmit.borrow().ring.room() < pages {
                self.flush();
                self.done.notified().await;
                self.reclaim();
            }
            self.transmit.borrow_mut().ring.be_quiet(true);
        }
        self.submit(&packet).is_some()
    }

    /// Tells the device of what was sent.
    pub fn flush(&self) {
        self.device.notify(&self.transmit.borrow());
    }

    /// Takes back the pages of what the device has sent.
    fn reclaim(&self) {
        while let Some(used) = self.transmit.borrow_mut().ring.take_used() {
            if let Some(pages) = self.sending.borrow_mut().get_mut(usize::from(used.head)) {
                self.idle.borrow_mut().append(pages);
            }
        }
    }

    /// Copies a frame behind its header into pages, and offers them.
    fn submit(&self, packet: &Packet) -> Option<()> {
        let header = Header::of(packet).bytes();
        let (first, rest) = packet.bytes.split_at(packet.bytes.len().min(PAGE_SIZE - HEADER));
        let (mut pages, mut chain) = (Vec::new(), Vec::new());
        for (index, part) in core::iter::once(first).chain(rest.chunks(PAGE_SIZE)).enumerate() {
            let idle = self.idle.borrow_mut().pop();
            let page = idle.or_else(Page::zeroed)?;
            let start = if index == 0 { HEADER } else { 0 };
            if index == 0 {
                bytes::write(page.words64(), 0, &header);
            }
            bytes::write(page.words64(), start, part);
            let length = u32::try_from(start + part.len()).ok()?;
            chain.push(Buffer { address: Dma::address(&page), length, device_writes: false });
            pages.push(page);
        }
        let head = self.transmit.borrow_mut().ring.offer(&chain)?;
        *self.sending.borrow_mut().get_mut(usize::from(head))? = pages;
        Some(())
    }
}
