//! A virtio disk. Data go straight between the device and the pages of the guest.

mod feature;
mod silence;

use alloc::{format, rc::Rc, string::String, vec::Vec};
use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU32, Ordering};

use oxen_domu_lib::memory::Page;
use oxen_domu_lib::sync::Notify;
use oxen_domu_lib::{at_end, println, task, time};

use self::feature::Feature;
use self::silence::{SILENCE, Silence, Word};
use super::interrupt::Lines;
use super::pci::Function;
use super::transfer::Direction;
use super::virtio::{Queue, VirtioDevice};
use super::virtqueue::{Buffer, Dma};
use super::{Failure, Gate, OWNER, Piece, Room, room};
use crate::purse::Budget;

const DEVICE_IDS: [u16; 2] = [0x1001, 0x1042];

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_DISCARD: u32 = 11;
const STATUS_OK: u32 = 0;
const STATUS_UNKNOWN: u32 = 0xff;

/// Bytes of the slot in which each chain keeps its header, a discard's range and its status.
const SLOT: usize = 64;
const SLOTS_PER_PAGE: usize = 4096 / SLOT;
const RANGE_AT: usize = 16;
const STATUS_AT: usize = 32;

/// Descriptors of a flush: header and status.
const FLUSH_BUFFERS: usize = 2;
/// Descriptors that a queue must have for two of them to be set aside.
const ENOUGH: usize = 16;
/// How long a disk may take for what it has to do when dom0 ends, in nanoseconds.
const AT_END: u64 = 5 * time::SECOND;

/// One disk.
#[derive(Debug)]
pub struct VirtioBlock {
    /// What it is called: `vda` and so on.
    pub name: String,
    device: VirtioDevice,
    queue: RefCell<Queue>,
    slots: Vec<Page>,
    max_pieces: usize,
    /// By head: whether a chain is out, and who waits for it.
    out: RefCell<Vec<Option<Rc<Done>>>>,
    /// Descriptors.
    places: Budget,
    in_flight: Cell<usize>,
    submitted: Notify,
}

/// A chain that is out, for the driver and for who waits for it: what it needs is there until both are done with it,
/// so that the device finds its pages even where nobody waits any more.
#[derive(Debug)]
struct Done {
    /// The device's answer, once it is there.
    status: Cell<Option<u32>>,
    wake: Notify,
    /// When it was submitted, in nanoseconds.
    since: u64,
    _pieces: Vec<Piece>,
    _room: Room,
}

impl VirtioBlock {
    /// Finds and starts all virtio disks, in the order of their places on the bus.
    pub fn find_all(lines: &Lines) -> Vec<Rc<Self>> {
        let mut letters = 'a'..='z';
        let started = VirtioDevice::find(DEVICE_IDS).filter_map(|function| Self::start(function, lines, &mut letters));
        let disks: Vec<_> = started.map(Rc::new).collect();
        for disk in &disks {
            task::spawn_for(OWNER, disk.clone().run());
        }
        disks
    }

    fn start(function: Function, lines: &Lines, letters: &mut impl Iterator<Item = char>) -> Option<Self> {
        let device = VirtioDevice::start(function, lines, |_| Feature::all().bits())?;
        let mut queue = device.open_queue(0)?;
        device.begin();
        let heads = queue.ring.room();
        if heads >= ENOUGH {
            queue.ring.reserve(FLUSH_BUFFERS);
        }
        let size = queue.ring.room();
        let segments = if Feature::of(&device).contains(Feature::SEG_MAX) { device.config.read32(12) } else { 1 };
        let slots = (0..heads.div_ceil(SLOTS_PER_PAGE)).map(|_| Page::zeroed()).collect::<Option<Vec<_>>>()?;
        Some(Self {
            name: format!("vd{}", letters.next()?),
            // Two descriptors of a chain are header and status; a chain shall leave room for others.
            max_pieces: usize::try_from(segments).unwrap_or(1).clamp(1, (size / 2).saturating_sub(2).max(1)),
            device,
            queue: RefCell::new(queue),
            slots,
            out: RefCell::new((0..heads).map(|_| None).collect()),
            places: Budget::new(size),
            in_flight: Cell::new(0),
            submitted: Notify::new(),
        })
    }

    /// Sectors of 512 bytes, as the device has them now.
    pub fn sectors(&self) -> u64 {
        self.device.config.read64(0)
    }

    /// Whether the device takes writes.
    pub fn is_writable(&self) -> bool {
        !Feature::of(&self.device).contains(Feature::READ_ONLY)
    }

    /// Whether the device takes discards.
    pub fn can_discard(&self) -> bool {
        Feature::of(&self.device).contains(Feature::DISCARD)
    }

    /// Pieces of one transfer at most.
    pub fn max_pieces(&self) -> usize {
        self.max_pieces
    }

    /// Waits for the descriptors of a transfer of so many pieces: one for each, one for its header, one for its status.
    ///
    /// # Errors
    /// [`Failure`] for more than [`Self::max_pieces`].
    pub async fn room(&self, pieces: usize, gate: &Rc<Gate>) -> Result<Room, Failure> {
        if pieces > self.max_pieces {
            return Err(Failure);
        }
        room(&self.places, pieces + 2, gate).await
    }

    /// Moves data between the disk, from `sector` on, and the pieces one after the other.
    ///
    /// # Errors
    /// [`Failure`] if the device says so.
    pub async fn transfer(
        &self,
        direction: Direction,
        sector: u64,
        pieces: Vec<Piece>,
        room: Room,
    ) -> Result<(), Failure> {
        let kind = match direction {
            Direction::Read => TYPE_IN,
            Direction::Write => TYPE_OUT,
        };
        let buffer = |piece: &Piece| {
            Some(Buffer {
                address: piece.machine_address()?,
                length: piece.bytes.into(),
                device_writes: direction == Direction::Read,
            })
        };
        let buffers: Vec<Buffer> = pieces.iter().map(buffer).collect::<Option<_>>().ok_or(Failure)?;
        self.request(kind, sector, &buffers, None, (pieces, room)).await
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// Where the device fails.
    pub async fn flush(&self, gate: &Rc<Gate>) -> Result<(), Failure> {
        // A device without the feature writes through.
        if !Feature::of(&self.device).contains(Feature::FLUSH) {
            return Ok(());
        }
        let room = self.room(0, gate).await?;
        self.request(TYPE_FLUSH, 0, &[], None, (Vec::new(), room)).await
    }

    /// Forgets the contents of sectors.
    ///
    /// # Errors
    /// Where the device fails, or has no such sectors.
    pub async fn discard(&self, sector: u64, count: u64, gate: &Rc<Gate>) -> Result<(), Failure> {
        let most = u64::from(self.device.config.read32(36)).max(1);
        let mut done = 0;
        while done < count {
            let now = (count - done).min(most);
            let room = self.room(1, gate).await?;
            self.request(TYPE_DISCARD, 0, &[], Some((sector + done, now)), (Vec::new(), room)).await?;
            done += now;
        }
        Ok(())
    }

    /// The words of a slot, and where the device finds it.
    fn slot(&self, head: u16) -> Option<(&[AtomicU32], u64)> {
        let page = self.slots.get(usize::from(head) / SLOTS_PER_PAGE)?;
        let first = usize::from(head) % SLOTS_PER_PAGE * SLOT;
        let words = Dma::words(page).get(first / 4..(first + SLOT) / 4)?;
        Some((words, Dma::address(page) + first as u64))
    }

    /// Submits a chain, with what it needs, and waits for its end; its descriptors are free again when the room is
    /// given back.
    async fn request(
        &self,
        kind: u32,
        sector: u64,
        data: &[Buffer],
        range: Option<(u64, u64)>,
        needs: (Vec<Piece>, Room),
    ) -> Result<(), Failure> {
        let done = self.submit(kind, sector, data, range, needs).ok_or(Failure)?;
        loop {
            match done.status.get() {
                Some(STATUS_OK) => return Ok(()),
                Some(_) => return Err(Failure),
                None => done.wake.notified().await,
            }
        }
    }

    fn submit(
        &self,
        kind: u32,
        sector: u64,
        data: &[Buffer],
        range: Option<(u64, u64)>,
        (pieces, room): (Vec<Piece>, Room),
    ) -> Option<Rc<Done>> {
        let mut queue = self.queue.borrow_mut();
        let (words, address) = self.slot(queue.ring.next_head()?)?;
        let [header, status] = begin_slot(words, address, kind, sector);
        let mut chain = Vec::with_capacity(data.len() + 3);
        chain.push(header);
        if let Some((first, count)) = range {
            put(words, RANGE_AT, first);
            put(words, RANGE_AT + 8, count & 0xffff_ffff);
            chain.push(Buffer { address: address + RANGE_AT as u64, length: 16, device_writes: false });
        }
        chain.extend_from_slice(data);
        chain.push(status);
        let head = queue.ring.offer(&chain)?;
        let (status, wake, since) = (Cell::new(None), Notify::new(), time::now());
        let done = Rc::new(Done { status, wake, since, _pieces: pieces, _room: room });
        *self.out.borrow_mut().get_mut(usize::from(head))? = Some(done.clone());
        self.in_flight.set(self.in_flight.get() + 1);
        self.device.notify(&queue);
        self.submitted.notify();
        Some(done)
    }

    /// Takes a finished chain back: its status is read before its slot can serve another.
    fn finish(&self, head: u16) {
        let taken = self.out.borrow_mut().get_mut(usize::from(head)).and_then(Option::take);
        let status = self.slot(head).and_then(|(words, _)| words.get(STATUS_AT / 4));
        if let (Some(done), Some(status)) = (taken, status) {
            done.status.set(Some(status.load(Ordering::Acquire) & 0xff));
            done.wake.notify();
            self.in_flight.set(self.in_flight.get() - 1);
        }
    }

    /// The task that takes finished chains back.
    async fn run(self: Rc<Self>) {
        let mut silence = Silence::default();
        loop {
            while self.in_flight.get() == 0 {
                self.submitted.notified().await;
            }
            self.device.wait().await;
            loop {
                let used = self.queue.borrow_mut().ring.take_used();
                match used {
                    Some(used) => self.finish(used.head),
                    None => break,
                }
            }
            match silence.look(time::now(), || self.out.borrow().iter().flatten().map(|done| done.since).min()) {
                Some(Word::Silent) => {
                    let (seconds, waiting) = (SILENCE / time::SECOND, self.in_flight.get());
                    println!("disk {}: no answer for {seconds} s, {waiting} requests wait", self.name);
                }
                Some(Word::Back) => println!("disk {}: it answers again", self.name),
                None => {}
            }
        }
    }

    /// Makes durable what was written, where dom0 has met a bug and nothing of it runs any more: by looking instead of
    /// waiting, without the heap, and not for ever. Says how it went.
    pub fn flush_at_end(&self) {
        at_end::say(format_args!("disk {}: {}\n", self.name, self.flush_by_looking()));
    }

    fn flush_by_looking(&self) -> &'static str {
        if !Feature::of(&self.device).contains(Feature::FLUSH) {
            return "nothing to flush, writes go through";
        }
        let Ok(mut queue) = self.queue.try_borrow_mut() else { return "not flushed, its queue was in use" };
        let deadline = time::now().saturating_add(AT_END);
        // A flush is for what was finished before it.
        while queue.ring.outstanding() != 0 {
            if queue.ring.take_used().is_none() && time::now() > deadline {
                return "not flushed, it does not finish what it was asked before";
            }
        }
        let head = queue.ring.reserved_head();
        let Some((words, address)) = head.and_then(|head| self.slot(head)) else { return "not flushed, no room" };
        let chain = begin_slot(words, address, TYPE_FLUSH, 0);
        let Some(head) = queue.ring.offer_reserved(&chain) else { return "not flushed, no room" };
        self.device.notify(&queue);
        loop {
            match queue.ring.take_used() {
                Some(used) if used.head == head => break,
                None if time::now() > deadline => return "not flushed, it does not answer",
                _ => {}
            }
        }
        match words.get(STATUS_AT / 4).map(|status| status.load(Ordering::Acquire) & 0xff) {
            Some(STATUS_OK) => "flushed",
            _ => "not flushed, it refuses",
        }
    }
}

/// Writes a number into a slot.
fn put(words: &[AtomicU32], at: usize, value: u64) {
    let halves = [value & 0xffff_ffff, value >> 32];
    for (word, half) in words.iter().skip(at / 4).zip(halves) {
        word.store(half as u32, Ordering::Relaxed);
    }
}

/// Writes what a slot begins with, and what the device will answer. Returns the first and the last buffer of the chain.
fn begin_slot(words: &[AtomicU32], address: u64, kind: u32, sector: u64) -> [Buffer; FLUSH_BUFFERS] {
    put(words, 0, kind.into());
    put(words, 8, sector);
    put(words, STATUS_AT, STATUS_UNKNOWN.into());
    [
        Buffer { address, length: 16, device_writes: false },
        Buffer { address: address + STATUS_AT as u64, length: 1, device_writes: true },
    ]
}
