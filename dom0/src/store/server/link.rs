//! One domain's connection: messages put together from its ring, answers and events cut up for it.

use alloc::{collections::VecDeque, rc::Rc, vec::Vec};
use core::cell::{Cell, RefCell};

use core::mem::size_of;
use oxen_abi::io::xs_wire as xs;

use oxen_domu_lib::sync::Notify;
use oxen_ring::{Overrun, Page, xenstore};

use super::StoreHandle;
use crate::guest_text;
use crate::purse::{Charge, Exhausted, Purse};
use crate::store::{
    DomId, cost,
    outgoing::{Event, Outgoing, PLACE},
    wire::{HEADER_SIZE, Message, PAYLOAD_MAX, ProtocolError},
};

/// Places for which the queue always has room.
const PLACES_KEPT: usize = 16;
/// Bytes of a reply that waits, at most: its payload was put together piece by piece.
const REPLY: usize = cost::grown::<u8>(PAYLOAD_MAX) + PLACE;
/// Bytes of a connection at most: a message that is coming in and its copy, a reply, the bytes that are going out.
const CONNECTION: usize = cost::grown::<u8>(HEADER_SIZE + PAYLOAD_MAX)
    + cost::block(PAYLOAD_MAX)
    + REPLY
    + cost::grown::<u8>(2 * (HEADER_SIZE + PAYLOAD_MAX))
    + PLACES_KEPT * PLACE
    + cost::shared(size_of::<Connection>());

/// What waits for one domain.
pub(super) struct Connection {
    outgoing: RefCell<VecDeque<Outgoing>>,
    replies: Cell<usize>,
    /// It has been said that there was no room for events.
    named: Cell<bool>,
    pub(super) purse: Rc<Purse>,
    _charge: Charge,
    /// Something waits, or the connection is to end.
    pub(super) wake: Notify,
    /// The connection is to end.
    pub(super) closing: Cell<bool>,
}

impl Connection {
    /// A connection with nothing under way, paid for.
    ///
    /// # Errors
    /// [`Exhausted`] if the purse cannot pay for it.
    pub(super) fn new(purse: Rc<Purse>) -> Result<Self, Exhausted> {
        Ok(Self {
            _charge: purse.heap.charge(CONNECTION)?,
            purse,
            outgoing: RefCell::default(),
            replies: Cell::new(0),
            named: Cell::new(false),
            wake: Notify::new(),
            closing: Cell::new(false),
        })
    }

    pub(super) fn push_event(&self, event: Event) {
        let mut outgoing = self.outgoing.borrow_mut();
        let same = |o: &Outgoing| matches!(o, Outgoing::Event(e) if e.is_same(&event));
        if outgoing.iter().any(same) {
            return;
        }
        outgoing.push_back(Outgoing::Event(event));
        self.wake.notify();
    }

    /// Room for one more reply; `None` where a domain that has some to read already cannot pay for another.
    fn room(&self, most: usize) -> Option<ReplyRoom> {
        match self.replies.get() {
            0 => Some(ReplyRoom(None)),
            waiting if waiting >= most => None,
            _ => self.purse.heap.charge(REPLY).ok().map(|charge| ReplyRoom(Some(charge))),
        }
    }

    pub(super) fn push_reply(&self, reply: Message, room: ReplyRoom) {
        let mut charge = room.0;
        if let Some(charge) = &mut charge {
            charge.shrink(REPLY.saturating_sub(cost::grown::<u8>(reply.payload.len()) + PLACE));
        }
        self.replies.set(self.replies.get() + 1);
        self.outgoing.borrow_mut().push_back(Outgoing::Reply { message: reply, _charge: charge });
    }

    fn clear(&self) {
        self.outgoing.take();
        self.replies.set(0);
    }

    /// Whether nothing waits.
    fn is_empty(&self) -> bool {
        self.outgoing.borrow().is_empty()
    }

    /// Ends the connection.
    pub(super) fn close(&self) {
        self.closing.set(true);
        self.wake.notify();
    }

    /// The next message to send, in wire form.
    fn next(&self, out: &mut Vec<u8>) -> bool {
        let mut outgoing = self.outgoing.borrow_mut();
        let next = outgoing.pop_front();
        if outgoing.capacity() > PLACES_KEPT.max(4 * outgoing.len()) {
            let length = outgoing.len();
            outgoing.shrink_to(PLACES_KEPT.max(2 * length));
        }
        match next {
            Some(Outgoing::Reply { message, .. }) => {
                self.replies.set(self.replies.get().saturating_sub(1));
                message.encode(out);
            }
            Some(Outgoing::Event(event)) => Message::event(&event.path, &event.token).encode(out),
            None => return false,
        }
        true
    }
}

/// Room for a reply that is to come, and what is paid for it.
pub(super) struct ReplyRoom(Option<Charge>);

impl From<Overrun> for ProtocolError {
    fn from(_: Overrun) -> Self {
        Self(xs::XENSTORE_ERROR_RINGIDX)
    }
}

/// What a look at a ring led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing could be moved.
    Idle,
    /// Something was: the guest is to be notified.
    Moved,
}

/// The store's side of one ring.
pub(super) struct Link {
    pub(super) domain: DomId,
    pub(super) connection: Rc<Connection>,
    store: StoreHandle,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Link {
    /// Nothing is under way yet.
    pub(super) fn new(domain: DomId, connection: Rc<Connection>, store: StoreHandle) -> Self {
        Self { domain, connection, store, input: Vec::new(), output: Vec::new() }
    }

    /// Moves what can be moved, and answers one request at most.
    pub(super) fn turn(&mut self, page: &Page) -> Result<Turn, ProtocolError> {
        let mut moved = self.reconnect_if_asked(page);
        self.catch_up();
        while self.output.len() < PAYLOAD_MAX && self.connection.next(&mut self.output) {}
        let sent = xenstore::store(page).writer.write(&self.output)?;
        self.output.drain(..sent);
        moved |= sent != 0;
        // Who does not take its answers gets no more of them.
        let outstanding = self.store.with(|store| store.limits().outstanding);
        if let Some(room) = self.connection.room(outstanding) {
            moved |= self.receive(page, room)?;
        }
        Ok(if moved { Turn::Moved } else { Turn::Idle })
    }

    /// Events for which there was no room are told of when the domain has read the others.
    fn catch_up(&self) {
        if !self.connection.is_empty() || !self.store.with(|store| store.is_behind(self.domain)) {
            return;
        }
        if !self.connection.named.replace(true) {
            let line =
                format_args!("xenstore: domain {} has no room for its events: some were put together", self.domain);
            guest_text::say(&self.connection.purse.log, oxen_abi::domid::DomId(self.domain), line);
        }
        self.store.with(|store| store.catch_up(self.domain));
    }

    fn receive(&mut self, page: &Page, room: ReplyRoom) -> Result<bool, ProtocolError> {
        let left = (HEADER_SIZE + PAYLOAD_MAX).saturating_sub(self.input.len());
        let mut bytes = [0; xs::XENSTORE_RING_SIZE];
        let piece = bytes.get_mut(..left.min(xs::XENSTORE_RING_SIZE)).unwrap_or_default();
        let taken = xenstore::store(page).reader.read(piece)?;
        self.input.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        let message = Message::take(&mut self.input)?;
        if let Some(message) = &message {
            self.store.answer(self.domain, message, &self.connection, room);
        }
        Ok(taken != 0 || message.is_some())
    }

    /// A guest that starts anew in the same domain (a new kernel, say) asks for a fresh ring.
    fn reconnect_if_asked(&mut self, page: &Page) -> bool {
        let asked = xenstore::wants_reconnection(page);
        if asked {
            self.input.clear();
            self.output.clear();
            self.connection.clear();
            self.store.with(|store| store.reset(self.domain));
            xenstore::reconnect(page);
        }
        asked
    }
}

#[cfg(test)]
mod tests;
