//! One domain's connection: messages put together from its ring, answers and events cut up for it.

use alloc::{collections::VecDeque, rc::Rc, vec::Vec};
use core::cell::{Cell, RefCell};

use core::mem::size_of;
use oxen_abi::io::xs_wire as xs;

use oxen_domu_lib::sync::Notify;
use oxen_ring::{Overrun, Page, xenstore};

use super::{
    DomId, cost,
    server::StoreHandle,
    watch::Event,
    wire::{HEADER_SIZE, Message, PAYLOAD_MAX},
};
use crate::guest_text;
use crate::purse::{Charge, Exhausted, Purse};

/// What waits to be sent to a domain, and what is paid for it.
enum Outgoing {
    /// The first of several replies is paid for by the connection.
    Reply {
        message: Message,
        _charge: Option<Charge>,
    },
    Event(Event),
}

/// Bytes of one place in the queue, which has room for four times what is in it at most.
pub(super) const PLACE: usize = 4 * size_of::<Outgoing>();
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

/// Why a connection ends by itself: one of `XENSTORE_ERROR_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) u32);

impl From<Overrun> for Broken {
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
    pub(super) fn turn(&mut self, page: &Page) -> Result<Turn, Broken> {
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
        let line = format_args!("xenstore: domain {} did not read its events: some were put together", self.domain);
        guest_text::say(&self.connection.purse.log, oxen_abi::domid::DomId(self.domain), line);
        self.store.with(|store| store.catch_up(self.domain));
    }

    fn receive(&mut self, page: &Page, room: ReplyRoom) -> Result<bool, Broken> {
        let left = (HEADER_SIZE + PAYLOAD_MAX).saturating_sub(self.input.len());
        let mut bytes = [0; xs::XENSTORE_RING_SIZE];
        let piece = bytes.get_mut(..left.min(xs::XENSTORE_RING_SIZE)).unwrap_or_default();
        let taken = xenstore::store(page).reader.read(piece)?;
        self.input.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        let message = Message::take(&mut self.input).map_err(|_| Broken(xs::XENSTORE_ERROR_PROTO))?;
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
mod tests {
    use super::*;
    use crate::store::{access::Permissions, path::Path};
    use core::sync::atomic::{AtomicU32, Ordering};
    use proptest::prelude::*;

    struct Guest {
        page: Page,
        link: Link,
        received: Vec<u8>,
    }

    impl Guest {
        fn new() -> Self {
            let store = StoreHandle::new();
            store.with(|s| {
                s.introduce(1);
                let home = Path::home(1);
                s.make(0, 0, &home).unwrap();
                s.set_permissions(0, 0, &home, Permissions::private(1)).unwrap();
            });
            let connection = Rc::new(Connection::new(store.purses().of(1)).unwrap());
            store.adopt(1, connection.clone());
            let link = Link::new(1, connection, store);
            Self { page: [const { AtomicU32::new(0) }; 1024], link, received: Vec::new() }
        }

        /// Lets both sides work until nothing moves; the guest reads what it gets.
        fn settle(&mut self, mut to_send: &[u8]) {
            loop {
                let ends = xenstore::guest(&self.page);
                let mut writer = ends.writer;
                let sent = writer.write(to_send).unwrap();
                to_send = &to_send[sent..];
                let turn = self.link.turn(&self.page).unwrap();
                let mut buffer = [0; 1024];
                let got = xenstore::guest(&self.page).reader.read(&mut buffer).unwrap();
                self.received.extend_from_slice(&buffer[..got]);
                if turn == Turn::Idle && sent == 0 && got == 0 {
                    return;
                }
            }
        }

        fn messages(&mut self) -> Vec<(u32, u32, Vec<u8>)> {
            let mut out = Vec::new();
            while let Some(m) = Message::take(&mut self.received).unwrap() {
                out.push((m.kind, m.request, m.payload));
            }
            assert!(self.received.is_empty());
            out
        }
    }

    fn message(kind: u32, request: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Message { kind, request, transaction: 0, payload: payload.to_vec() }.encode(&mut bytes);
        bytes
    }

    #[test]
    fn requests_are_answered_in_order_however_they_are_cut() {
        let mut guest = Guest::new();
        let value = [b"a\0".as_slice(), &[7; 1900]].concat();
        let all = [message(xs::XS_WRITE, 1, &value), message(xs::XS_READ, 2, b"a\0"), message(xs::XS_READ, 3, b"b\0")];
        guest.settle(&all.concat());
        let answers = guest.messages();
        assert_eq!(answers[0], (xs::XS_WRITE, 1, b"OK\0".to_vec()));
        assert_eq!(answers[1], (xs::XS_READ, 2, [7; 1900].to_vec()));
        assert_eq!(answers[2], (xs::XS_ERROR, 3, b"ENOENT\0".to_vec()));
    }

    #[test]
    fn a_watch_is_answered_before_its_event() {
        let mut guest = Guest::new();
        guest.settle(&message(xs::XS_WATCH, 1, b"a\0t\0"));
        guest.settle(&message(xs::XS_WRITE, 2, b"a\0x"));
        let kinds: Vec<u32> = guest.messages().into_iter().map(|(kind, ..)| kind).collect();
        assert_eq!(kinds[0], xs::XS_WATCH);
        assert_eq!(kinds.iter().filter(|k| **k == xs::XS_WATCH_EVENT).count(), 2);
    }

    #[test]
    fn who_does_not_read_is_not_served_for_ever() {
        let mut guest = Guest::new();
        let flood: Vec<u8> = (0..500).flat_map(|i| message(xs::XS_GET_DOMAIN_PATH, i, b"1\0")).collect();
        let (mut sent, mut idle) = (0, 0);
        while idle < 10 {
            sent += xenstore::guest(&guest.page).writer.write(&flood[sent..]).unwrap();
            idle += u32::from(guest.link.turn(&guest.page).unwrap() == Turn::Idle);
        }
        let limit = guest.link.store.with(|s| s.limits().outstanding);
        assert!(guest.link.connection.replies.get() <= limit && sent < flood.len());
        guest.settle(&flood[sent..]);
        let numbers: Vec<u32> = guest.messages().into_iter().map(|(_, request, _)| request).collect();
        assert_eq!(numbers, (0..500).collect::<Vec<_>>(), "whoever reads again gets everything");
    }

    #[test]
    fn who_has_spent_its_purse_is_served_one_answer_at_a_time() {
        let mut guest = Guest::new();
        let value = [b"a\0".as_slice(), &[7; 1900]].concat();
        guest.settle(&message(xs::XS_WRITE, 1, &value));
        guest.received.clear();
        let purse = guest.link.connection.purse.clone();
        let filler = purse.heap.charge(purse.heap.left()).unwrap();
        let reads: Vec<u8> = (0..20).flat_map(|i| message(xs::XS_READ, i, b"a\0")).collect();
        let (mut sent, mut idle, mut most) = (0, 0, 0);
        while idle < 10 {
            sent += xenstore::guest(&guest.page).writer.write(&reads[sent..]).unwrap();
            idle += u32::from(guest.link.turn(&guest.page).unwrap() == Turn::Idle);
            most = most.max(guest.link.connection.replies.get());
        }
        assert_eq!(most, 1, "others wait on the ring");
        guest.settle(&reads[sent..]);
        assert_eq!(guest.messages().len(), 20, "and each has its answer");
        drop(filler);
    }

    #[test]
    fn events_that_nobody_reads_are_bounded() {
        let mut guest = Guest::new();
        guest.settle(&message(xs::XS_WATCH, 1, b"a\0t\0"));
        let home = Path::home(1);
        for i in 0..3000 {
            guest.link.store.with(|s| s.write(0, 0, &home.child("a").child(&alloc::format!("n{i}")), b"")).unwrap();
        }
        let purse = guest.link.connection.purse.clone();
        assert!(guest.link.store.with(|s| s.is_behind(1)) && purse.events.used() > 100);
        guest.settle(&[]);
        let paths = guest.messages().into_iter().filter(|(kind, ..)| *kind == xs::XS_WATCH_EVENT).map(|(.., p)| p);
        let paths: Vec<Vec<u8>> = paths.collect();
        assert!(paths.len() > 100);
        assert_eq!(paths.last().unwrap(), b"a\0t\0", "what was not told of by name is told of all the same");
        assert_eq!(purse.events.used(), 0);
    }

    #[test]
    fn broken_rings_are_told_apart() {
        let mut guest = Guest::new();
        guest.settle(&[]);
        guest.page[513].store(5000, Ordering::Relaxed);
        assert_eq!(guest.link.turn(&guest.page), Err(Broken(xs::XENSTORE_ERROR_RINGIDX)));
        let mut guest = Guest::new();
        let mut long = message(xs::XS_READ, 1, b"");
        long[12..16].copy_from_slice(&4097u32.to_le_bytes());
        let mut writer = xenstore::guest(&guest.page).writer;
        writer.write(&long).unwrap();
        assert_eq!(guest.link.turn(&guest.page), Err(Broken(xs::XENSTORE_ERROR_PROTO)));
    }

    #[test]
    fn a_new_kernel_gets_a_fresh_ring() {
        let mut guest = Guest::new();
        guest.settle(&message(xs::XS_WATCH, 1, b"a\0t\0"));
        guest.received.clear();
        guest.page[514].store(77, Ordering::Relaxed);
        guest.page[517].store(xs::XENSTORE_RECONNECT, Ordering::Relaxed);
        guest.settle(&[]);
        assert_eq!(guest.page[517].load(Ordering::Relaxed), xs::XENSTORE_CONNECTED);
        guest.settle(&message(xs::XS_WRITE, 2, b"a\0x"));
        assert_eq!(guest.messages(), [(xs::XS_WRITE, 2, b"OK\0".to_vec())], "the old kernel's watch is gone");
    }

    proptest! {
        #[test]
        fn any_bytes_and_indices_end_in_answers_or_an_end(
            words in proptest::collection::vec((0usize..1024, any::<u32>()), 0..40),
            bytes in proptest::collection::vec(0u8..32, 0..200)
        ) {
            let mut guest = Guest::new();
            let mut writer = xenstore::guest(&guest.page).writer;
            let _ = writer.write(&bytes);
            for (index, value) in words {
                guest.page[index].store(value, Ordering::Relaxed);
                if guest.link.turn(&guest.page).is_err() {
                    break;
                }
            }
            prop_assert!(guest.link.input.len() <= HEADER_SIZE + PAYLOAD_MAX);
        }
    }
}
