//! Xenstore: messages off a ring, and sequences of requests by several domains.

use oxen_abi::io::xs_wire as xs;
use oxen_dom0::purse::Purses;
use oxen_dom0::store::wire::Message;
use oxen_dom0::store::{Store, access::Permissions, path::Path, quota::Limits};

use crate::bytes::take;

/// Domains that take part; 0 is the privileged one.
const DOMAINS: u16 = 4;

/// Bytes in pieces, as they come off a ring: messages, or the end of the connection.
pub(crate) fn wire(mut input: &[u8]) {
    let mut buffer = Vec::new();
    while !input.is_empty() {
        let [length] = take(&mut input);
        let (piece, rest) = input.split_at(usize::from(length).min(input.len()));
        buffer.extend_from_slice(piece);
        input = rest;
        loop {
            match Message::take(&mut buffer) {
                Ok(Some(message)) => {
                    let mut again = Vec::new();
                    message.encode(&mut again);
                    assert_eq!(Message::take(&mut again), Ok(Some(message)));
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Requests, one after the other: whatever is asked, the tree stays whole and nobody has more than its share.
pub(crate) fn requests(mut input: &[u8]) {
    let mut store = Store::new(Limits::default(), Purses::default());
    for domain in 1..DOMAINS {
        store.introduce(domain);
        let home = Path::home(domain);
        if store.make(0, 0, &home).is_ok() {
            let _ = store.set_permissions(0, 0, &home, Permissions::private(domain));
        }
    }
    while !input.is_empty() {
        let [domain, kind, transaction, length] = take(&mut input);
        let (payload, rest) = input.split_at(usize::from(length).min(input.len()));
        input = rest;
        let message = Message {
            kind: u32::from(kind) % (xs::XS_DIRECTORY_PART + 2),
            request: 7,
            transaction: u32::from(transaction) % 8,
            payload: payload.to_vec(),
        };
        let outcome = store.request(u16::from(domain) % DOMAINS, &message);
        assert!(outcome.reply.payload.len() <= oxen_dom0::store::wire::PAYLOAD_MAX, "{:?}", outcome.reply);
        assert_eq!(store.tree().audit(), Ok(()), "after {message:?}");
        store.take_events();
    }
    for domain in 1..DOMAINS {
        let owned = store.tree().iter().filter(|(_, node)| node.permissions.owner == domain).count();
        assert!(owned <= store.limits().nodes, "domain {domain} has {owned} nodes");
    }
}
