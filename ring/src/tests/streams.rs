//! Byte streams of console and XenStore pages.

use super::pages;
use crate::{Ends, Overrun, Page, console, xenstore};
use core::sync::atomic::Ordering;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::vec::Vec;

/// Words that hold the shared indices.
const CONSOLE_IN_CONS: usize = 3072 / 4;
const CONSOLE_OUT_CONS: usize = 3080 / 4;
const CONSOLE_OUT_PROD: usize = 3084 / 4;
const STORE_REQ_PROD: usize = 2052 / 4;

fn poke(page: &Page, word: usize, value: u32) {
    page[word].store(value, Ordering::Relaxed);
}

fn byte(page: &Page, offset: usize) -> u8 {
    page[offset / 4].load(Ordering::Relaxed).to_le_bytes()[offset % 4]
}

fn read_all(ends: &mut Ends<'_>) -> Vec<u8> {
    let mut buffer = [0; 4096];
    let count = ends.reader.read(&mut buffer).unwrap();
    buffer[..count].to_vec()
}

#[test]
fn bytes_lie_where_the_protocol_says() {
    let pages = pages(2);
    let (mut guest, mut backend) = (console::guest(&pages[0]), console::backend(&pages[0]));
    assert_eq!(guest.writer.write(b"hello"), Ok(5));
    assert_eq!((byte(&pages[0], 1024), byte(&pages[0], 1028)), (b'h', b'o'));
    assert_eq!(backend.writer.write(b"ls\n"), Ok(3));
    assert_eq!((byte(&pages[0], 0), byte(&pages[0], 2)), (b'l', b'\n'));
    assert_eq!([768, 769, 770, 771].map(|word| pages[0][word].load(Ordering::Relaxed)), [0, 3, 0, 5]);
    assert_eq!((read_all(&mut guest), read_all(&mut backend)), (b"ls\n".to_vec(), b"hello".to_vec()));
    assert_eq!([768, 769, 770, 771].map(|word| pages[0][word].load(Ordering::Relaxed)), [3, 3, 5, 5]);

    let (mut guest, mut store) = (xenstore::guest(&pages[1]), xenstore::store(&pages[1]));
    guest.writer.write(b"request").unwrap();
    store.writer.write(b"answer").unwrap();
    assert_eq!((byte(&pages[1], 0), byte(&pages[1], 1024)), (b'r', b'a'));
    assert_eq!([512, 513, 514, 515].map(|word| pages[1][word].load(Ordering::Relaxed)), [0, 7, 0, 6]);
    assert_eq!((read_all(&mut guest), read_all(&mut store)), (b"answer".to_vec(), b"request".to_vec()));
    xenstore::set_server_features(&pages[1], 2);
    xenstore::set_error(&pages[1], 3);
    assert_eq!([516, 517, 518].map(|word| pages[1][word].load(Ordering::Relaxed)), [2, 0, 3]);
}

#[test]
fn a_full_stream_takes_what_fits() {
    let pages = pages(1);
    let (mut guest, mut backend) = (console::guest(&pages[0]), console::backend(&pages[0]));
    assert_eq!(guest.writer.free(), Ok(2048));
    assert_eq!(guest.writer.write(&[1; 3000]), Ok(2048));
    assert_eq!(guest.writer.write(&[2]), Ok(0));
    assert_eq!(backend.reader.available(), Ok(2048));
    assert_eq!(backend.reader.read(&mut [0; 100]), Ok(100));
    assert_eq!(guest.writer.write(&[3; 3000]), Ok(100));
    let rest = read_all(&mut backend);
    assert_eq!(rest.iter().filter(|b| **b == 3).count(), 100);
    assert_eq!(rest.len(), 2048);
    assert_eq!(backend.writer.write(&[4; 3000]), Ok(1024));
}

#[test]
fn an_end_goes_on_where_the_page_says() {
    let pages = pages(1);
    console::guest(&pages[0]).writer.write(b"early ").unwrap();
    console::guest(&pages[0]).writer.write(b"late").unwrap();
    assert_eq!(console::backend(&pages[0]).reader.read(&mut [0; 3]), Ok(3));
    assert_eq!(read_all(&mut console::backend(&pages[0])), b"ly late");
}

#[test]
fn indices_may_wrap() {
    let pages = pages(1);
    poke(&pages[0], CONSOLE_OUT_CONS, u32::MAX - 2);
    poke(&pages[0], CONSOLE_OUT_PROD, u32::MAX - 2);
    let (mut guest, mut backend) = (console::guest(&pages[0]), console::backend(&pages[0]));
    guest.writer.write(b"over the end").unwrap();
    assert_eq!(read_all(&mut backend), b"over the end");
    assert_eq!(pages[0][CONSOLE_OUT_PROD].load(Ordering::Relaxed), 9);
}

#[test]
fn hostile_indices_are_found_out() {
    let pages = pages(1);
    let page = &pages[0];
    let (mut guest, mut backend) = (console::guest(page), console::backend(page));
    guest.writer.write(b"x").unwrap();
    for index in [2049, u32::MAX, 1 << 31] {
        poke(page, CONSOLE_OUT_PROD, index);
        assert_eq!(backend.reader.read(&mut [0; 8]), Err(Overrun { index, limit: 2048 }));
        assert_eq!(backend.reader.available(), Err(Overrun { index, limit: 2048 }));
    }
    for index in [2, 0_u32.wrapping_sub(2048), 1 << 31] {
        poke(page, CONSOLE_OUT_CONS, index);
        assert_eq!(guest.writer.write(b"y"), Err(Overrun { index, limit: 1 }));
    }
    poke(page, CONSOLE_IN_CONS, 1);
    assert_eq!(backend.writer.free(), Err(Overrun { index: 1, limit: 0 }));
    let mut store = xenstore::store(page);
    poke(page, STORE_REQ_PROD, 1025);
    assert_eq!(store.reader.read(&mut [0; 8]), Err(Overrun { index: 1025, limit: 1024 }));
}

proptest! {
    /// Any interleaving of writes and reads moves bytes as a queue would.
    #[test]
    fn streams_are_queues(
        start in any::<u32>(),
        steps in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..900), 0..900usize), 1..40),
    ) {
        let pages = pages(1);
        poke(&pages[0], CONSOLE_OUT_CONS, start);
        poke(&pages[0], CONSOLE_OUT_PROD, start);
        let (mut guest, mut backend) = (console::guest(&pages[0]), console::backend(&pages[0]));
        let mut model: VecDeque<u8> = VecDeque::new();
        for (bytes, room) in steps {
            let count = guest.writer.write(&bytes).unwrap();
            prop_assert_eq!(count, bytes.len().min(2048 - model.len()));
            model.extend(&bytes[..count]);
            let mut buffer = std::vec![0; room];
            let count = backend.reader.read(&mut buffer).unwrap();
            prop_assert_eq!(count, room.min(model.len()));
            prop_assert!(model.drain(..count).eq(buffer[..count].iter().copied()));
            prop_assert_eq!(backend.reader.available(), Ok(model.len()));
        }
    }

    /// Whatever the shared words say, no end panics.
    #[test]
    fn garbage_harms_nobody(
        words in prop::collection::vec(any::<u32>(), 4),
        bytes in prop::collection::vec(any::<u8>(), 0..3000)
    ) {
        let pages = pages(1);
        let (mut guest, mut backend) = (console::guest(&pages[0]), console::backend(&pages[0]));
        for (n, value) in words.iter().enumerate() {
            poke(&pages[0], CONSOLE_IN_CONS + n, *value);
        }
        for ends in [&mut guest, &mut backend, &mut console::guest(&pages[0]), &mut console::backend(&pages[0])] {
            prop_assert!(ends.writer.write(&bytes).unwrap_or(0) <= 2048);
            prop_assert!(ends.reader.read(&mut [0; 4096]).unwrap_or(0) <= 2048);
        }
    }
}

#[test]
fn two_threads_pass_bytes_in_order() {
    // Miri is some hundred times slower than the machine.
    const BYTES: usize = if cfg!(miri) { 8_000 } else { 400_000 };
    let pages = pages(1);
    let (mut guest, mut store) = (xenstore::guest(&pages[0]), xenstore::store(&pages[0]));
    let pattern = |n: usize| (n * 31 + n / 251) as u8;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut sent = 0;
            while sent < BYTES {
                let chunk: Vec<u8> = (sent..BYTES.min(sent + 77)).map(pattern).collect();
                sent += guest.writer.write(&chunk).unwrap();
                std::thread::yield_now();
            }
        });
        let mut got = 0;
        while got < BYTES {
            let mut buffer = [0; 50];
            let count = store.reader.read(&mut buffer).unwrap();
            assert!(buffer[..count].iter().enumerate().all(|(n, byte)| *byte == pattern(got + n)));
            got += count;
            if count == 0 {
                std::thread::yield_now();
            }
        }
    });
}
