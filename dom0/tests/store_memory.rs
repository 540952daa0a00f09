//! What guests are charged for the store is never less than the heap that it takes. The heap is of the kind that dom0
//! has on the machine, so its own words and its rounding count.
#![allow(missing_docs, clippy::unwrap_used, reason = "it is a test")]

use std::alloc::System;

use oxen_abi::io::xs_wire as xs;
use oxen_dom0::purse::{EVENTS, HEAP, PER_GUEST, Purses};
use oxen_dom0::store::{Store, access::Permissions, path::Path, quota::Limits, wire::Message};
use talc::{TalcLock, source::GlobalAllocSource};

#[global_allocator]
static HEAP_OF_ALL: TalcLock<spin::Mutex<()>, GlobalAllocSource<System>> =
    TalcLock::new(GlobalAllocSource::new(System));

/// Bytes of heap that are not free, the allocator's own included.
fn in_use() -> usize {
    let heap = HEAP_OF_ALL.lock();
    heap.counters().claimed_bytes - heap.counters().available_bytes
}

/// What the test's harness may take or free meanwhile, and what the store has of its own.
const NOISE: usize = 24 << 10;

struct Guests {
    store: Store,
    purses: Purses,
    count: u16,
    before: usize,
}

impl Guests {
    fn new(count: u16) -> Self {
        let purses = Purses::new();
        let mut store = Store::new(Limits::default(), purses.clone());
        for domain in 1..=count {
            store.introduce(domain);
            let data = Path::home(domain).child("data");
            store.make(0, 0, &data).unwrap();
            store.set_permissions(0, 0, &data, Permissions::private(domain)).unwrap();
        }
        store.take_events();
        Self { store, purses, count, before: in_use() }
    }

    fn ask(&mut self, domain: u16, kind: u32, transaction: u32, payload: &[u8]) -> String {
        let message = Message { kind, request: 1, transaction, payload: payload.to_vec() };
        let reply = self.store.request(domain, &message).reply.payload;
        String::from_utf8_lossy(&reply).trim_end_matches('\0').into()
    }

    fn write(&mut self, domain: u16, transaction: u32, path: &str, value: &[u8]) -> String {
        self.ask(domain, xs::XS_WRITE, transaction, &[path.as_bytes(), b"\0", value].concat())
    }

    fn charged(&self) -> usize {
        (1..=self.count).map(|domain| self.purses.of(domain).heap.used()).sum()
    }

    /// What is charged covers what is taken, and is not more than `factor` times that.
    fn judge(&self, what: &str, factor: usize) {
        let (charged, taken) = (self.charged(), in_use().saturating_sub(self.before));
        println!("{what}: {} KiB charged for {} KiB taken", charged >> 10, taken >> 10);
        assert!(taken <= charged + NOISE, "{what}: {charged} bytes are charged, {taken} taken");
        assert!(charged <= factor * taken + NOISE, "{what}: {charged} bytes are charged for {taken}");
        self.store.tree().audit().unwrap();
    }
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn charges_cover_what_the_store_takes() {
    nodes_of_every_shape();
    watches_and_their_events();
    transactions();
    everything_of_many_guests_stays_within_their_purses();
    the_heaps_holes_stay_within_a_guests_share();
}

fn nodes_of_every_shape() {
    let long = "n".repeat(200);
    /// What it is, the name of the node of a number, bytes of its value.
    type Shape = (&'static str, fn(usize, &str) -> String, usize);
    let shapes: [Shape; 5] = [
        ("small nodes in one list", |i, _| format!("data/{i}"), 0),
        ("small nodes, ten in a list", |i, _| format!("data/{}/{}", i / 10, i % 10), 1),
        ("large values", |i, _| format!("data/{}/{}", i / 10, i % 10), 1900),
        ("long names", |i, long| format!("data/{}/{long}{}", i / 8, i % 8), 40),
        ("chains", |i, _| format!("data/{}{}", i / 100, "/a".repeat(i % 100)), 3),
    ];
    for (what, name, size) in shapes {
        let mut guests = Guests::new(2);
        for i in 0..1100 {
            for domain in [1, 2] {
                guests.write(domain, 0, &name(i, &long), &vec![7; size]);
            }
        }
        guests.judge(what, 2);
        // Every second one goes, in no order of names.
        for i in 0..1100 {
            guests.ask(1, xs::XS_RM, 0, format!("{}\0", name(i * 7 % 1100 / 2 * 2, &long)).as_bytes());
        }
        guests.judge("the same with holes", 3);
        for domain in [1, 2] {
            guests.ask(domain, xs::XS_RM, 0, b"data\0");
        }
        guests.store.take_events();
        assert_eq!(guests.charged(), 0);
    }
}

fn watches_and_their_events() {
    let mut guests = Guests::new(1);
    for i in 0..128 {
        assert_eq!(guests.ask(1, xs::XS_WATCH, 0, format!("data/{i}\0{}\0", "t".repeat(i * 7)).as_bytes()), "OK");
    }
    drop(guests.store.take_events());
    guests.judge("watches", 3);
    for i in 0..128 {
        guests.ask(1, xs::XS_WATCH, 0, format!("data/{i}\0{}\0", "t".repeat(i * 7)).as_bytes());
        guests.write(1, 0, &format!("data/{i}/{}", "n".repeat(200)), b"");
    }
    guests.judge("watches, nodes and the events that wait", 3);
    // A removal tells every watch of the node, and so does each write below it.
    let mut guests = Guests::new(1);
    for i in 0..128 {
        guests.ask(1, xs::XS_WATCH, 0, format!("data\0{i}\0").as_bytes());
    }
    for i in 0..100 {
        guests.write(1, 0, &format!("data/{i}"), b"");
    }
    assert_eq!(guests.purses.of(1).events.used(), EVENTS);
    // Each pays for its place in two queues, the store's own and the connection's.
    guests.judge("as many events as may wait", 6);
    assert_eq!(guests.store.take_events().len(), EVENTS);
    guests.store.catch_up(1);
    assert_eq!(guests.store.take_events().len(), 128, "each watch is told that it missed something");
    guests.store.reset(1);
    guests.ask(1, xs::XS_RM, 0, b"data\0");
    assert_eq!(guests.charged(), 0);
}

fn transactions() {
    let mut guests = Guests::new(1);
    for i in 0..200 {
        guests.write(1, 0, &format!("data/{}/{}", i / 10, i % 10), &[1; 500]);
    }
    for t in 0..10 {
        let id: u32 = guests.ask(1, xs::XS_TRANSACTION_START, 0, b"\0").parse().unwrap();
        for i in 0..30 {
            let path = format!("data/{}/{}", (i + t) / 10, i % 10);
            match i % 3 {
                0 => guests.ask(1, xs::XS_READ, id, format!("{path}\0").as_bytes()),
                1 => guests.write(1, id, &path, &[2; 700]),
                _ => guests.ask(1, xs::XS_RM, id, format!("{path}\0").as_bytes()),
            };
        }
    }
    guests.judge("transactions", 3);
    // What they hold of the nodes is theirs alone now.
    guests.ask(1, xs::XS_RM, 0, b"data\0");
    guests.judge("transactions that outlive what they saw", 3);
    guests.store.reset(1);
    guests.store.take_events();
    assert_eq!(guests.charged(), 0);
}

/// Each of many guests takes all that it can get, in the order that gets most, and gets no more than its purse.
fn everything_of_many_guests_stays_within_their_purses() {
    const COUNT: u16 = 32;
    let mut guests = Guests::new(COUNT);
    let long = "q".repeat(150);
    for domain in 1..=COUNT {
        for i in 0..128 {
            guests.ask(domain, xs::XS_WATCH, 0, format!("data/{i}/{long}\0{}\0", "t".repeat(1000)).as_bytes());
        }
        let mut open = Vec::new();
        while let Ok(id) = guests.ask(domain, xs::XS_TRANSACTION_START, 0, b"\0").parse::<u32>() {
            open.push(id);
        }
        let mut refused = 0;
        for i in 0..1000 {
            let answer = guests.write(domain, 0, &format!("data/{}/{}{long}", i / 10, i % 10), &[3; 1980]);
            refused += usize::from(answer == "ENOSPC");
        }
        assert!(refused > 0, "its purse is deeper than its quotas");
        for id in open {
            for i in 0..256 {
                guests.write(domain, id, &format!("data/{}/{}{long}", i / 10, i % 10), &[4; 1980]);
            }
        }
        assert!(guests.purses.of(domain).heap.peak() <= HEAP);
    }
    guests.judge("all that 32 guests can get", 3);
    assert!(in_use() - guests.before <= usize::from(COUNT) * HEAP);
    // Others and dom0 are served all the same.
    guests.store.introduce(99);
    let name = Path::home(99).child("name");
    guests.store.write(0, 0, &name, b"hello").unwrap();
    assert_eq!(guests.store.read(0, 0, &name).unwrap().value, b"hello");
    for domain in 1..=COUNT {
        guests.store.release(domain).unwrap();
    }
    drop(guests.store.take_events());
    assert_eq!(guests.charged(), 0);
}

/// Guests that fill the store with small things, let go of every second one and fill it with larger ones leave holes in
/// the heap that nothing fits into.
fn the_heaps_holes_stay_within_a_guests_share() {
    const COUNT: u16 = 16;
    let mut guests = Guests::new(COUNT);
    for (round, size) in [0, 40, 100, 240, 500, 1000, 1900].into_iter().enumerate() {
        for i in 0..1000 {
            for domain in 1..=COUNT {
                guests.write(domain, 0, &format!("data/{round}-{}/{}", i / 10, i % 10), &vec![5; size]);
            }
        }
        for i in (0..1000).step_by(2) {
            for domain in 1..=COUNT {
                guests.ask(domain, xs::XS_RM, 0, format!("data/{round}-{}/{}\0", i / 10, i % 10).as_bytes());
            }
        }
    }
    let grown = HEAP_OF_ALL.lock().counters().claimed_bytes - guests.before;
    let charged = guests.charged();
    println!("holes: {} KiB claimed for {} KiB charged", grown >> 10, charged >> 10);
    assert!(grown <= usize::from(COUNT) * PER_GUEST);
}
