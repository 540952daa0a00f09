//! Rings full of the greatest reads there are, on every disk at once: 512 requests of 256 pages each, all into the same
//! pages, which the backend has to map anew for each.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};

use oxen_abi::io::blkif::{BLKIF_OP_INDIRECT, BLKIF_OP_READ, BLKIF_RSP_OKAY};
use oxen_abi::io::xenbus::XenbusState;
use oxen_domu_lib::event::Port;
use oxen_domu_lib::frontend::{ConnectError, Device};
use oxen_domu_lib::grant::{Access, Grant};
use oxen_domu_lib::handshake::Step;
use oxen_domu_lib::memory::PAGE_SIZE;
use oxen_domu_lib::store::Store;
use oxen_domu_lib::{println, task, time};

/// Pages of the ring, as a power of two: the most that the backend takes.
const ORDER: u32 = 4;
/// Requests that fit on it.
const SLOTS: u32 = 512;
/// Pages that a request reads into.
const PAGES: usize = 256;
/// Sectors of such a read.
const SECTORS: u64 = PAGES as u64 * 8;

/// Words of the ring: what the frontend has produced, what the backend has, for which answer it is to
/// send an event, the first slot.
const REQUESTS: usize = 0;
const RESPONSES: usize = 2;
const RESPONSE_EVENT: usize = 3;
const FIRST_SLOT: usize = 16;
/// Words of a slot, and of a page.
const SLOT_WORDS: usize = 28;
const PAGE_WORDS: usize = PAGE_SIZE / 4;

/// How long nothing happens before the ring is looked at all the same, in nanoseconds.
const LOOK: u64 = 10 * time::MILLISECOND;

/// Reads from all disks until the time is over.
pub(crate) async fn flood(store: &Store, until: u64) {
    let disks = store.list("device/vbd").await.unwrap_or_default();
    let (good, bad) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let readers: Vec<_> = disks
        .into_iter()
        .map(|id| {
            let (store, good, bad) = (store.clone(), good.clone(), bad.clone());
            task::spawn(async move {
                if let Err(error) = read(&store, &id, until, (&good, &bad)).await {
                    println!("probe: disk {id}: {error}");
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await;
    }
    println!("probe: {} reads of 1 MiB done, {} refused", good.get(), bad.get());
}

async fn read(store: &Store, id: &str, until: u64, counts: (&Cell<u64>, &Cell<u64>)) -> Result<(), ConnectError> {
    let mut disk = Disk::connect(store, id).await?;
    let sectors = disk.device.read_number_or("sectors", 0).await;
    while time::now() < until {
        disk.fill(sectors);
        disk.collect(counts);
        let _ = task::timeout(LOOK, disk.port.wait()).await;
        disk.collect(counts);
    }
    // The backend answers what it has taken; the pages stay granted until then.
    let all = async {
        while disk.produced != disk.consumed {
            let _ = task::timeout(LOOK, disk.port.wait()).await;
            disk.collect(counts);
        }
    };
    let _ = task::timeout(10 * time::SECOND, all).await;
    Ok(())
}

/// A connected disk.
struct Disk {
    device: Device,
    ring: Vec<Grant>,
    /// What the requests read into, and where their segments stand.
    _data: Vec<Grant>,
    segments: Grant,
    port: Port,
    produced: u32,
    consumed: u32,
}

impl Disk {
    async fn connect(store: &Store, id: &str) -> Result<Self, ConnectError> {
        let mut device = Device::open(store, "vbd", id).await?;
        let backend = device.backend();
        let grant = |_| Grant::zeroed(backend, Access::ReadWrite);
        let ring: Vec<Grant> = (0..1 << ORDER).map(grant).collect::<Result<_, _>>()?;
        let data: Vec<Grant> = (0..PAGES).map(grant).collect::<Result<_, _>>()?;
        let segments = grant(0)?;
        for (place, page) in segments.page().words32().as_chunks::<2>().0.iter().zip(&data) {
            let [gref, sectors] = place;
            gref.store(page.reference(), Ordering::SeqCst);
            // From the first sector to the eighth.
            sectors.store(7 << 8, Ordering::SeqCst);
        }
        let port = Port::alloc_unbound(backend)?;
        let number = |value: u32| format!("{value}");
        let names: Vec<String> = (0..ring.len()).map(|index| format!("ring-ref{index}")).collect();
        let references: Vec<String> = ring.iter().map(|page| number(page.reference())).collect();
        let (order, event) = (number(ORDER), number(port.number()));
        let mut said: Vec<(&str, &str)> =
            names.iter().map(String::as_str).zip(references.iter().map(String::as_str)).collect();
        said.extend([
            ("ring-page-order", &*order),
            ("event-channel", &*event),
            ("protocol", "x86_64-abi"),
            ("feature-persistent", "0"),
        ]);
        loop {
            match device.step().await? {
                Step::Offer(state) => device.publish(&said, state).await?,
                Step::Connect => break,
                Step::Wait => device.changed().await?,
                Step::Reconfigure(_) | Step::Close(_) | Step::Gone => return Err(ConnectError::Closed),
            }
        }
        device.publish(&[], XenbusState::Connected).await?;
        Ok(Self { device, ring, _data: data, segments, port, produced: 0, consumed: 0 })
    }

    fn word(&self, index: usize) -> Option<&AtomicU32> {
        self.ring.get(index / PAGE_WORDS)?.page().words32().get(index % PAGE_WORDS)
    }

    fn put(&self, index: usize, words: &[u32]) {
        for (index, word) in (index..).zip(words) {
            if let Some(place) = self.word(index) {
                place.store(*word, Ordering::SeqCst);
            }
        }
    }

    fn get(&self, index: usize) -> u32 {
        self.word(index).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn slot(number: u32) -> usize {
        FIRST_SLOT + (number % SLOTS) as usize * SLOT_WORDS
    }

    /// Puts requests into all slots that are free.
    fn fill(&mut self, sectors: u64) {
        while self.produced.wrapping_sub(self.consumed) < SLOTS {
            let at = u64::from(self.produced) * SECTORS % sectors.saturating_sub(SECTORS).max(1);
            let head = u32::from(BLKIF_OP_INDIRECT) | u32::from(BLKIF_OP_READ) << 8 | (PAGES as u32) << 16;
            let [low, high] = [at as u32, (at >> 32) as u32];
            let request = [head, 0, self.produced, 0, low, high, 0, self.segments.reference()];
            self.put(Self::slot(self.produced), &request);
            self.produced = self.produced.wrapping_add(1);
        }
        self.put(RESPONSE_EVENT, &[self.consumed.wrapping_add(1)]);
        self.put(REQUESTS, &[self.produced]);
        self.port.notify();
    }

    /// Takes answers: how many reads were done, and how many refused.
    fn collect(&mut self, (good, bad): (&Cell<u64>, &Cell<u64>)) {
        while self.consumed != self.get(RESPONSES) {
            let status = (self.get(Self::slot(self.consumed) + 2) >> 16) as u16 as i16;
            let count = if status == BLKIF_RSP_OKAY { good } else { bad };
            count.set(count.get() + 1);
            self.consumed = self.consumed.wrapping_add(1);
        }
    }
}
