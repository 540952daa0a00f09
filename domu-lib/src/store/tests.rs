//! The client against a store of a few lines, over a real ring.

use std::collections::BTreeMap;
use std::vec;

use oxen_abi::io::xs_wire::{XENSTORE_RING_SIZE, XS_ERROR, XsdSockmsg};
use oxen_ring::{Ends, Page};
use zerocopy::FromBytes;

use super::*;
use crate::sync::Latch;

/// The port that both ends ring; each test has a thread and so its ports to itself.
const PORT: u32 = 1;

/// A ring page for good.
fn page() -> &'static Page {
    std::boxed::Box::leak(std::boxed::Box::new([const { core::sync::atomic::AtomicU32::new(0) }; 1024]))
}

/// Lets the client look, as an event would, and then run.
async fn ring() {
    crate::event::fire(PORT);
    task::yield_now().await;
}

/// A store's end: takes whole requests, sends answers as they fit.
struct Server {
    ends: Ends<'static>,
    bytes: Vec<u8>,
}

impl Server {
    fn new(page: &'static Page) -> Self {
        Self { ends: oxen_ring::xenstore::store(page), bytes: Vec::new() }
    }

    /// The next request: its head and its payload.
    async fn request(&mut self) -> (XsdSockmsg, Vec<u8>) {
        loop {
            let mut buffer = [0; 100];
            let count = self.ends.reader.read(&mut buffer).unwrap();
            self.bytes.extend_from_slice(&buffer[..count]);
            if let Ok((head, rest)) = XsdSockmsg::read_from_prefix(&self.bytes)
                && rest.len() >= head.len as usize
            {
                let payload = rest[..head.len as usize].to_vec();
                self.bytes.drain(..XsdSockmsg::BYTES + payload.len());
                return (head, payload);
            }
            ring().await;
        }
    }

    async fn send(&mut self, message: &[u8]) {
        let mut rest = message;
        while !rest.is_empty() {
            let count = self.ends.writer.write(rest).unwrap();
            rest = &rest[count..];
            ring().await;
        }
    }

    async fn answer(&mut self, head: XsdSockmsg, payload: &[u8]) {
        let message = wire::request(head.r#type, head.req_id, head.tx_id, &[payload]).unwrap();
        self.send(&message).await;
    }
}

/// Serves reads and writes of one level, `ENOENT` for what was not written, and no more than `count` requests.
async fn serve(mut server: Server, count: usize) {
    let mut nodes = BTreeMap::new();
    for _ in 0..count {
        let (head, payload) = server.request().await;
        let end = payload.iter().position(|&byte| byte == 0).unwrap();
        let (path, value) = (payload[..end].to_vec(), payload[end + 1..].to_vec());
        match head.r#type {
            abi::XS_WRITE => {
                nodes.insert(path, value);
                server.answer(head, b"OK\0").await;
            }
            _ => match nodes.get(&path) {
                Some(value) => server.answer(head, &value.clone()).await,
                None => server.answer(XsdSockmsg { r#type: XS_ERROR, ..head }, b"ENOENT\0").await,
            },
        }
    }
}

#[test]
fn what_is_written_is_read_and_what_is_not_is_refused() {
    task::run(async {
        let page = page();
        let store = Store::on(page, PORT);
        task::spawn(serve(Server::new(page), 4));
        store.write("a", "5").await.unwrap();
        assert_eq!(store.read_number("a").await, Ok(5));
        assert_eq!(store.read("b").await, Err(Error::Refused(Errno::NoEnt)));
        store.write("a", "no number").await.unwrap();
    });
}

#[test]
fn values_larger_than_the_ring_go_through_in_pieces() {
    task::run(async {
        let page = page();
        let store = Store::on(page, PORT);
        task::spawn(serve(Server::new(page), 2));
        let value: String = core::iter::repeat_n('x', 3 * XENSTORE_RING_SIZE).collect();
        store.write("large", &value).await.unwrap();
        assert_eq!(store.read("large").await.unwrap(), value);
    });
}

#[test]
fn answers_find_their_requests_in_any_order() {
    task::run(async {
        let page = page();
        let store = Store::on(page, PORT);
        let mut server = Server::new(page);
        let asking: Vec<_> = (0..5u8)
            .map(|n| {
                let store = store.clone();
                task::spawn(async move { store.read(&n.to_string()).await })
            })
            .collect();
        let mut requests = vec![];
        for _ in 0..5 {
            requests.push(server.request().await);
        }
        for (head, payload) in requests.into_iter().rev() {
            server.answer(head, &payload[..1]).await;
        }
        for (n, answer) in asking.into_iter().enumerate() {
            assert_eq!(answer.await, Ok(n.to_string()));
        }
    });
}

#[test]
fn a_watch_gets_its_own_events_and_ends_with_its_value() {
    task::run(async {
        let page = page();
        let store = Store::on(page, PORT);
        let mut server = Server::new(page);
        let handle = task::spawn(async move { store.watch("here").await.unwrap() });
        let (head, payload) = server.request().await;
        let token = wire::strings(&payload)[1].clone();
        server.answer(head, b"OK\0").await;
        let watch = handle.await;
        for (path, token) in [("other", "999"), ("here/below", token.as_str())] {
            let parts: [&[u8]; 4] = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
            server.send(&wire::request(abi::XS_WATCH_EVENT, 0, 0, &parts).unwrap()).await;
        }
        assert_eq!(watch.changed().await.as_deref(), Some("here/below"));
        drop(watch);
        assert_eq!(server.request().await.0.r#type, abi::XS_UNWATCH);
    });
}

#[test]
fn a_store_that_breaks_the_protocol_is_of_no_more_use() {
    task::run(async {
        let page = page();
        let store = Store::on(page, PORT);
        let mut server = Server::new(page);
        let (asking, watching) = (store.clone(), store.clone());
        let asked = task::spawn(async move { asking.read("x").await });
        let watched = task::spawn(async move { watching.watch("y").await.map(|_| ()) });
        server.request().await;
        server.request().await;
        // A length that no message can have.
        server.send(&[0xff; 16]).await;
        assert_eq!(asked.await, Err(Error::Protocol));
        assert_eq!(watched.await, Err(Error::Protocol));
        assert_eq!(store.write("z", "1").await, Err(Error::Protocol));
    });
}

/// Asks for something in a task of its own.
fn asking(store: &Store, path: &'static str) -> task::JoinHandle<Result<String, Error>> {
    let store = store.clone();
    task::spawn(async move { store.read(path).await })
}

#[test]
fn between_two_lives_nothing_is_asked_and_what_was_watched_is_watched_again() {
    task::run(async {
        let page = page();
        let store = Store::on(page, PORT);
        let mut server = Server::new(page);
        let watching = store.clone();
        let watched = task::spawn(async move { watching.watch("here").await.unwrap() });
        let (head, payload) = server.request().await;
        server.answer(head, b"OK\0").await;
        let watch = watched.await;
        let before = asking(&store, "before");
        let (head, _) = server.request().await;
        let (quieting, quiet) = (store.clone(), Rc::new(Latch::new()));
        let is_quiet = quiet.clone();
        let guard = task::spawn(async move {
            let guard = quieting.quiet().await;
            is_quiet.set(());
            guard
        });
        task::yield_now().await;
        let after = asking(&store, "after");
        task::yield_now().await;
        assert!(!quiet.is_set(), "what was asked has no answer yet");
        server.answer(head, b"1").await;
        assert_eq!(before.await.as_deref(), Ok("1"));
        let guard = guard.await;
        // Half an event, from a store that is gone.
        server.send(&wire::request(abi::XS_WATCH_EVENT, 0, 0, &[b"old\0", b"1\0"]).unwrap()[..18]).await;
        let mut server = Server::new(page);
        let anew = task::spawn(guard.start_anew());
        let (head, again) = server.request().await;
        assert_eq!((head.r#type, again), (abi::XS_WATCH, payload.clone()), "the watch comes before what was held back");
        server.answer(head, b"OK\0").await;
        anew.await;
        let (head, path) = server.request().await;
        assert_eq!(path, b"after\0");
        server.answer(head, b"2").await;
        assert_eq!(after.await.as_deref(), Ok("2"));
        let token = wire::strings(&payload)[1].clone();
        server.send(&wire::request(abi::XS_WATCH_EVENT, 0, 0, &[b"here\0", token.as_bytes(), b"\0"]).unwrap()).await;
        assert_eq!(watch.changed().await.as_deref(), Some("here"));
    });
}

#[test]
fn a_transaction_that_has_begun_comes_to_its_end_before_it_is_quiet() {
    task::run(async {
        let page = page();
        let store = Store::on(page, PORT);
        let mut server = Server::new(page);
        let beginning = store.clone();
        let begun = task::spawn(async move { beginning.begin().await.unwrap() });
        let (head, _) = server.request().await;
        server.answer(head, b"7\0").await;
        let transaction = begun.await;
        let quieting = store.clone();
        let quiet = task::spawn(async move { quieting.quiet().await });
        let waiting = store.clone();
        let other = task::spawn(async move { waiting.begin().await.map(|_| ()) });
        let ended = task::spawn(async move {
            transaction.write("x", "1").await?;
            transaction.commit().await
        });
        for expected in [abi::XS_WRITE, abi::XS_TRANSACTION_END] {
            let (head, _) = server.request().await;
            assert_eq!((head.r#type, head.tx_id, quiet.is_finished()), (expected, 7, false));
            server.answer(head, b"OK\0").await;
        }
        assert_eq!(ended.await, Ok(()));
        drop(quiet.await);
        assert_eq!(server.request().await.0.r#type, abi::XS_TRANSACTION_START, "the other one begins now");
        drop(other);
    });
}
