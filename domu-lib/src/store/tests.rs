//! The client against a store of a few lines, over a real ring.

use std::collections::BTreeMap;
use std::vec;

use oxen_abi::io::xs_wire::{XENSTORE_RING_SIZE, XS_ERROR, XsdSockmsg};
use oxen_ring::Page;
use zerocopy::FromBytes;

use super::*;

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
