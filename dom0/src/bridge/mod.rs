//! The bridge: a learning Ethernet switch between guests and the machine's own network card.
//!
//! Whoever attaches has a port. What it sends goes to the port where the destination was seen last, or to all others;
//! each port has a queue of bounded length, and a full one drops what comes: a guest that takes nothing costs the
//! others nothing. No guest gets another's frames by sending with its address, or with one of the machine's network:
//! such a frame goes nowhere. Checksums and segments that a sender left to others are left to the receiver where it can
//! take them, and done only when it takes the frame where it cannot.

pub mod buffer;
pub mod packet;
mod segment;
mod show;
pub mod table;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::{Cell, RefCell};

use oxen_domu_lib::sync::Notify;

pub use buffer::Buffer;
pub use oxen_domu_lib::packet::{ETHERNET_HEADER, Network};
pub use packet::{Checksum, LONGEST, Mac, Malformed, Offload, Packet, Segmentation};
pub use show::{AddressView, PortView};
use table::{PortId, Side, Table};

/// Bytes that wait for one port at most, where there are few ports.
pub const MAX_BYTES: usize = 2 << 20;
/// Bytes that wait for one port at least, however many ports there are.
const MIN_BYTES: usize = 128 << 10;
/// Frames that wait for one port at most.
pub const MAX_FRAMES: usize = 1024;

/// Bytes of a frame on a wire, at least, without its sum.
const SHORTEST: usize = 60;

/// What has happened at a port, as seen from who is attached to it.
#[derive(Debug, Default)]
pub struct Counts {
    /// Frames that came from it.
    pub sent: Cell<u64>,
    /// Their bytes.
    pub sent_bytes: Cell<u64>,
    /// Frames that it took.
    pub received: Cell<u64>,
    /// Their bytes.
    pub received_bytes: Cell<u64>,
    /// Frames from it that could not be what they said.
    pub malformed: Cell<u64>,
    /// Frames that it did not take in time.
    pub dropped: Cell<u64>,
}

/// Adds to a counter.
fn count(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get().wrapping_add(more));
}

/// What waits for a port.
struct Queue {
    name: String,
    side: Side,
    frames: RefCell<VecDeque<Packet>>,
    bytes: Cell<usize>,
    /// What is left of a frame that was cut.
    cut: RefCell<VecDeque<Packet>>,
    arrived: Notify,
    open: Cell<bool>,
    offload: Cell<Offload>,
    counts: Counts,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.frames.borrow().is_empty() && self.cut.borrow().is_empty()
    }

    fn clear(&self) {
        self.frames.borrow_mut().clear();
        self.cut.borrow_mut().clear();
        self.bytes.set(0);
    }

    /// Whether a frame may wait, too, where `most` bytes may; counts it as dropped otherwise.
    fn has_room(&self, packet: &Packet, most: usize) -> bool {
        if !self.open.get() {
            return false;
        }
        let room = self.frames.borrow().len() < MAX_FRAMES && self.bytes.get() + packet.bytes.footprint() <= most;
        if !room {
            count(&self.counts.dropped, 1);
        }
        room
    }

    fn put(&self, packet: Packet) {
        self.bytes.set(self.bytes.get() + packet.bytes.footprint());
        self.frames.borrow_mut().push_back(packet);
        self.arrived.notify();
    }

    fn take(&self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.cut.borrow_mut().pop_front() {
                return Some(packet);
            }
            let packet = self.frames.borrow_mut().pop_front()?;
            self.bytes.set(self.bytes.get() - packet.bytes.footprint());
            if packet.suits(self.offload.get()) {
                return Some(packet);
            }
            self.cut.borrow_mut().extend(packet.convert(self.offload.get()));
        }
    }
}

struct Shared {
    ports: RefCell<BTreeMap<PortId, Rc<Queue>>>,
    table: RefCell<Table>,
    next: Cell<PortId>,
    clock: fn() -> u64,
    budget: usize,
}

/// A bridge; clones are the same one.
#[derive(Clone)]
pub struct Bridge(Rc<Shared>);

impl Bridge {
    /// A bridge without ports, which tells the time by `clock` (nanoseconds). The ports share `budget` bytes for what
    /// waits, so that none has less because others take nothing.
    pub fn new(clock: fn() -> u64, budget: usize) -> Self {
        let (ports, table) = (RefCell::default(), RefCell::default());
        Self(Rc::new(Shared { ports, table, next: Cell::new(0), clock, budget }))
    }

    /// Bytes that frames may take while they wait, if there were `more` ports.
    pub fn memory(&self, more: usize) -> usize {
        let ports = self.0.ports.borrow().len() + more;
        (ports * MAX_BYTES).min(self.0.budget.max(ports * MIN_BYTES))
    }

    /// A new port of a network that the machine is on.
    pub fn attach(&self, name: &str) -> BridgePort {
        self.attach_to(name, Side::Network)
    }

    /// A new port of a guest's interface, which has the address `mac`, and none that others were given.
    pub fn attach_interface(&self, name: &str, mac: Mac) -> BridgePort {
        let port = self.attach_to(name, Side::Guest);
        self.0.table.borrow_mut().give(mac, port.id);
        port
    }

    /// A new port, which takes only frames that are finished until [`BridgePort::set_offload`] says more.
    fn attach_to(&self, name: &str, side: Side) -> BridgePort {
        let queue = Rc::new(Queue {
            name: name.into(),
            side,
            frames: RefCell::default(),
            bytes: Cell::new(0),
            cut: RefCell::default(),
            arrived: Notify::new(),
            open: Cell::new(true),
            offload: Cell::default(),
            counts: Counts::default(),
        });
        let id = self.0.next.get();
        self.0.next.set(id + 1);
        self.0.ports.borrow_mut().insert(id, queue.clone());
        BridgePort { bridge: self.clone(), id, queue }
    }

    fn forward(&self, from: PortId, packet: Packet, now: u64) {
        let destination = packet.destination();
        let ports = self.0.ports.borrow();
        let share = self.0.budget.checked_div(ports.len()).unwrap_or(0).clamp(MIN_BYTES, MAX_BYTES);
        if !destination.is_group()
            && let Some(to) = self.0.table.borrow().find(destination, now)
        {
            // Who sits at the sender's own port has heard it already.
            if let Some(queue) = ports.get(&to).filter(|queue| to != from && queue.has_room(&packet, share)) {
                queue.put(packet);
            }
            return;
        }
        let mut others = ports.iter().filter(|&(&id, queue)| id != from && queue.has_room(&packet, share)).peekable();
        while let Some((_, queue)) = others.next() {
            if others.peek().is_none() {
                queue.put(packet);
                return;
            }
            queue.put(packet.clone());
        }
    }
}

/// A place at the bridge; dropping it leaves the bridge.
pub struct BridgePort {
    bridge: Bridge,
    id: PortId,
    queue: Rc<Queue>,
}

impl BridgePort {
    /// The port's name.
    pub fn name(&self) -> &str {
        &self.queue.name
    }

    /// Says what the receiver can do itself from now on.
    pub fn set_offload(&self, offload: Offload) {
        self.queue.offload.set(offload);
    }

    /// What has happened here.
    pub fn counts(&self) -> &Counts {
        &self.queue.counts
    }

    /// Sends a frame to whom it is for.
    ///
    /// # Errors
    /// [`Malformed`]: nobody gets it. So it is for a frame that says it is from who is elsewhere.
    pub fn send(&self, packet: Packet) -> Result<(), Malformed> {
        let (counts, now) = (self.counts(), (self.bridge.0.clock)());
        let learn = || self.bridge.0.table.borrow_mut().learn(packet.source(), self.id, self.queue.side, now);
        if packet.judge().is_err() || learn().is_err() {
            count(&counts.malformed, 1);
            return Err(Malformed);
        }
        count(&counts.sent, 1);
        count(&counts.sent_bytes, packet.bytes.len() as u64);
        self.bridge.forward(self.id, packet, now);
        Ok(())
    }

    /// Tells the network's switches that the address `mac` is here, by a reverse ARP request.
    pub fn announce(&self, mac: Mac) {
        // An interface of Ethernet (1) with IPv4 asks (3) who has its own address; where it has none, 0.
        const RARP: [u8; 10] = [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3];
        let mut frame = [&[0xff; 6][..], &mac.0, &RARP, &mac.0, &[0; 4], &mac.0, &[0; 4]].concat();
        frame.resize(SHORTEST, 0);
        // Where another one has the address, the bridge says nothing for it.
        let _ = self.send(Packet::plain(frame));
    }

    /// Whether the receiver takes frames at all; what comes while it does not is dropped, and what waits as well.
    pub fn set_open(&self, open: bool) {
        self.queue.open.set(open);
        if !open {
            self.queue.clear();
        }
    }

    /// Something came from there that is no frame.
    pub fn count_malformed(&self) {
        count(&self.counts().malformed, 1);
    }

    /// The receiver could not use a frame that it took.
    pub fn count_dropped(&self) {
        count(&self.counts().dropped, 1);
    }

    /// The oldest frame that waits, as [`Self::set_offload`] wants it.
    pub fn try_receive(&self) -> Option<Packet> {
        let packet = self.queue.take()?;
        count(&self.counts().received, 1);
        count(&self.counts().received_bytes, packet.bytes.len() as u64);
        Some(packet)
    }

    /// Waits until a frame waits.
    pub async fn arrived(&self) {
        while self.queue.is_empty() {
            self.queue.arrived.notified().await;
        }
    }

    /// Waits for a frame.
    pub async fn receive(&self) -> Packet {
        loop {
            if let Some(packet) = self.try_receive() {
                return packet;
            }
            self.queue.arrived.notified().await;
        }
    }
}

impl Drop for BridgePort {
    fn drop(&mut self) {
        self.bridge.0.ports.borrow_mut().remove(&self.id);
        self.bridge.0.table.borrow_mut().forget(self.id);
    }
}
