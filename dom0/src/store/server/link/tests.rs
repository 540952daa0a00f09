//! Guests at both ends of a ring: patient, impatient and broken ones.

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
    assert_eq!(guest.link.turn(&guest.page), Err(ProtocolError(xs::XENSTORE_ERROR_RINGIDX)));
    let mut guest = Guest::new();
    let mut long = message(xs::XS_READ, 1, b"");
    long[12..16].copy_from_slice(&4097u32.to_le_bytes());
    let mut writer = xenstore::guest(&guest.page).writer;
    writer.write(&long).unwrap();
    assert_eq!(guest.link.turn(&guest.page), Err(ProtocolError(xs::XENSTORE_ERROR_PROTO)));
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
