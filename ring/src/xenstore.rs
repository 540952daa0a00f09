//! A guest's XenStore page (`xenstore_domain_interface`).
//!
//! # Example
//!
//! ```
//! use core::sync::atomic::AtomicU32;
//!
//! use oxen_ring::{PAGE_WORDS, Page, xenstore};
//!
//! let page: Page = [const { AtomicU32::new(0) }; PAGE_WORDS];
//! let (mut guest, mut store) = (xenstore::guest(&page), xenstore::store(&page));
//! guest.writer.write(b"request")?;
//! assert_eq!(store.reader.available()?, 7);
//! assert!(!xenstore::wants_reconnection(&page));
//! # Ok::<(), oxen_ring::Overrun>(())
//! ```

use crate::bytes::Stream;
use crate::{ByteReader, ByteWriter, Ends, PAGE_WORDS, Page};
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use oxen_abi::io::xs_wire::{XENSTORE_CONNECTED, XENSTORE_RECONNECT, XENSTORE_RING_SIZE, XenstoreDomainInterface};

/// The guest's end: reads answers and watch events, writes requests.
#[must_use]
pub fn guest(page: &Page) -> Ends<'_> {
    Ends { reader: ByteReader::new(answers(page)), writer: ByteWriter::new(requests(page)) }
}

/// The store's end: reads requests, writes answers and watch events.
#[must_use]
pub fn store(page: &Page) -> Ends<'_> {
    Ends { reader: ByteReader::new(requests(page)), writer: ByteWriter::new(answers(page)) }
}

/// The store tells the guest what it can do (`XENSTORE_SERVER_FEATURE_*`).
pub fn set_server_features(page: &Page, features: u32) {
    set::<{ offset_of!(XenstoreDomainInterface, server_features) }>(page, features);
}

/// The store tells the guest why it ended the connection (`XENSTORE_ERROR_*`).
pub fn set_error(page: &Page, error: u32) {
    set::<{ offset_of!(XenstoreDomainInterface, error) }>(page, error);
}

/// The store looks whether the guest wants to start anew with an empty page.
pub fn wants_reconnection(page: &Page) -> bool {
    let word = page.get(offset_of!(XenstoreDomainInterface, connection) / 4);
    word.is_some_and(|word| word.load(Ordering::Acquire) == XENSTORE_RECONNECT)
}

/// The store empties both streams and lets the guest begin.
pub fn reconnect(page: &Page) {
    set::<{ offset_of!(XenstoreDomainInterface, req_cons) }>(page, 0);
    set::<{ offset_of!(XenstoreDomainInterface, req_prod) }>(page, 0);
    set::<{ offset_of!(XenstoreDomainInterface, rsp_cons) }>(page, 0);
    set::<{ offset_of!(XenstoreDomainInterface, rsp_prod) }>(page, 0);
    set::<{ offset_of!(XenstoreDomainInterface, connection) }>(page, XENSTORE_CONNECTED);
}

fn set<const OFFSET: usize>(page: &Page, value: u32) {
    const { assert!(OFFSET / 4 < PAGE_WORDS) };
    if let Some(word) = page.get(OFFSET / 4) {
        word.store(value, Ordering::Release);
    }
}

fn requests(page: &Page) -> Stream<'_> {
    Stream::new::<
        { offset_of!(XenstoreDomainInterface, req) },
        XENSTORE_RING_SIZE,
        { offset_of!(XenstoreDomainInterface, req_cons) },
        { offset_of!(XenstoreDomainInterface, req_prod) },
    >(page)
}

fn answers(page: &Page) -> Stream<'_> {
    Stream::new::<
        { offset_of!(XenstoreDomainInterface, rsp) },
        XENSTORE_RING_SIZE,
        { offset_of!(XenstoreDomainInterface, rsp_cons) },
        { offset_of!(XenstoreDomainInterface, rsp_prod) },
    >(page)
}
