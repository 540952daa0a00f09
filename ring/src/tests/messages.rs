//! Request/response rings.

use super::pages;
use crate::{AttachError, BackRing, FrontRing, Full, Overrun, Page, TooSmall};
use core::sync::atomic::Ordering;
use oxen_abi::io::blkif::{BlkifRequest, BlkifRequestDiscard, BlkifResponse};
use oxen_abi::io::netif::{NetifExtraInfo, NetifTxRequest, NetifTxResponse};
use proptest::prelude::*;
use std::collections::VecDeque;
use zerocopy::FromZeros;

type BlkFront<'a> = FrontRing<'a, BlkifRequest, BlkifResponse>;
type BlkBack<'a> = BackRing<'a, BlkifRequest, BlkifResponse>;
type TxFront<'a> = FrontRing<'a, NetifTxRequest, NetifTxResponse>;
type TxBack<'a> = BackRing<'a, NetifTxRequest, NetifTxResponse>;

/// Places of the shared indices, as a hostile end finds them.
const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 1;
const RSP_PROD: usize = 2;
const RSP_EVENT: usize = 3;

fn poke(pages: &[Page], word: usize, value: u32) {
    pages[0][word].store(value, Ordering::Relaxed);
}

fn peek(pages: &[Page], word: usize) -> u32 {
    pages[0][word].load(Ordering::Relaxed)
}

fn request(id: u64) -> BlkifRequest {
    let mut request = BlkifRequest::new_zeroed();
    request.id = id;
    request.operation = 3;
    request.seg[10].gref = !(id as u32);
    request.seg[10].last_sect = 7;
    request
}

fn response(id: u64) -> BlkifResponse {
    let mut response = BlkifResponse::new_zeroed();
    (response.id, response.status) = (id, -1);
    response
}

fn tx(id: u16) -> NetifTxRequest {
    NetifTxRequest { gref: u32::from(id) << 8, offset: 1, flags: 2, id, size: 3 }
}

#[test]
fn a_fresh_ring_looks_as_the_protocol_says() {
    let pages = pages(1);
    poke(&pages, REQ_PROD, 77);
    let front = BlkFront::new(&pages).unwrap();
    assert_eq!((front.size(), front.free()), (32, 32));
    assert_eq!([REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT].map(|word| peek(&pages, word)), [0, 1, 0, 1]);
    assert_eq!(BlkBack::attach(&pages).unwrap().pending(), Ok(0));
}

#[test]
fn messages_lie_where_c_puts_them() {
    let pages = pages(1);
    let mut front = TxFront::new(&pages).unwrap();
    front.push(&tx(1)).unwrap();
    front.push(&NetifTxRequest { gref: 0x1122_3344, offset: 0x5566, flags: 0x7788, id: 0x99aa, size: 0xbbcc }).unwrap();
    // Slots of twelve bytes from byte 64 on.
    assert_eq!([19, 20, 21].map(|word| peek(&pages, word)), [0x1122_3344, 0x7788_5566, 0xbbcc_99aa]);
    assert_eq!(peek(&pages, REQ_PROD), 0, "not published yet");
    assert!(front.publish());
    assert_eq!(peek(&pages, REQ_PROD), 2);
}

#[test]
fn rings_have_the_protocols_sizes() {
    for (count, blk, net) in [(1, 32, 256), (2, 64, 512), (4, 128, 1024), (8, 256, 2048), (16, 512, 4096)] {
        let pages = pages(count);
        assert_eq!(BlkFront::new(&pages).unwrap().size(), blk);
        assert_eq!(TxFront::new(&pages).unwrap().size(), net);
    }
    assert_eq!(BlkFront::new(&[]).err(), Some(TooSmall));
    assert_eq!(BlkBack::attach(&[]).err(), Some(AttachError::TooSmall));
}

#[test]
fn a_full_ring_takes_no_more_until_responses_are_consumed() {
    let pages = pages(2);
    let mut front = BlkFront::new(&pages).unwrap();
    let mut back = BlkBack::attach(&pages).unwrap();
    for id in 0..64 {
        assert_eq!(front.push(&request(id)), Ok(id as u32));
    }
    assert_eq!(front.push(&request(64)), Err(Full));
    assert!(front.publish());
    assert_eq!(back.push(&response(0)), Err(Full), "nothing was asked yet");
    for id in 0..64 {
        assert_eq!(back.pop(), Ok(Some(request(id))), "messages across the page boundary are whole");
    }
    assert_eq!((back.pop(), back.unanswered()), (Ok(None), 64));
    back.push(&response(63)).unwrap();
    assert_eq!(front.pop(), Ok(None), "not published yet");
    assert!(back.publish());
    assert_eq!(front.push(&request(64)), Err(Full), "published but not consumed");
    assert_eq!(front.pop(), Ok(Some(response(63))));
    assert_eq!((front.pop(), front.free()), (Ok(None), 1));
    assert_eq!(front.push(&request(64)), Ok(64));
}

#[test]
fn other_layouts_share_the_slots() {
    let (blk, net) = (pages(1), pages(1));
    let mut front = BlkFront::new(&blk).unwrap();
    let mut discard = BlkifRequestDiscard::new_zeroed();
    (discard.operation, discard.nr_sectors) = (5, 99);
    front.push_as(&discard).unwrap();
    assert!(front.publish());
    assert_eq!(BlkBack::attach(&blk).unwrap().pop_as(), Ok(Some(discard)));

    let mut front = TxFront::new(&net).unwrap();
    let extra = NetifExtraInfo { r#type: 1, flags: 0, u: [1, 2, 3, 4, 5, 6] };
    front.push(&tx(7)).unwrap();
    front.push_as(&extra).unwrap();
    assert!(front.publish());
    let mut back = TxBack::attach(&net).unwrap();
    assert_eq!(back.pop(), Ok(Some(tx(7))));
    assert_eq!(back.pop_as(), Ok(Some(extra)));
    back.push_as(&NetifTxResponse { id: 7, status: 0 }).unwrap();
    back.push(&NetifTxResponse { id: 0, status: 1 }).unwrap();
    assert!(back.publish());
    assert_eq!(front.pop_as(), Ok(Some(NetifTxResponse { id: 7, status: 0 })));
}

#[test]
fn events_are_sent_only_when_wished() {
    let pages = pages(1);
    let mut front = TxFront::new(&pages).unwrap();
    let mut back = TxBack::attach(&pages).unwrap();
    let mut send = |n: u16| {
        for id in 0..n {
            front.push(&tx(id)).unwrap();
        }
        front.publish()
    };
    assert!(send(1), "a fresh ring wishes the first");
    assert!(!send(1), "the backend is awake");
    assert!(!send(0), "nothing to tell");
    assert_eq!(back.final_check(), Ok(true), "work is left: no wish");
    assert!(!send(1));
    while back.pop().unwrap().is_some() {}
    assert_eq!(back.final_check(), Ok(false));
    assert!(send(2));
    assert!(!send(1));
    while back.pop().unwrap().is_some() {}
    for id in 0..6 {
        back.push(&NetifTxResponse { id, status: 0 }).unwrap();
    }
    assert!(back.publish(), "a fresh ring wishes the first");
    assert!(!back.publish());
    assert_eq!(front.final_check(), Ok(true));
    while front.pop().unwrap().is_some() {}
    assert_eq!(front.final_check(), Ok(false));
}

#[test]
fn a_backend_takes_over_where_another_ended() {
    let pages = pages(1);
    let mut front = BlkFront::new(&pages).unwrap();
    for id in 0..5 {
        front.push(&request(id)).unwrap();
    }
    assert!(front.publish());
    let mut first = BlkBack::attach(&pages).unwrap();
    for _ in 0..3 {
        first.pop().unwrap();
    }
    first.push(&response(0)).unwrap();
    assert!(first.publish());
    let mut second = BlkBack::attach(&pages).unwrap();
    for id in 1..5 {
        assert_eq!(second.pop(), Ok(Some(request(id))), "unanswered requests come again");
    }
    assert_eq!(second.pop(), Ok(None));
}

#[test]
fn a_hostile_frontend_is_found_out() {
    let pages = pages(1);
    let mut front = BlkFront::new(&pages).unwrap();
    let mut back = BlkBack::attach(&pages).unwrap();
    front.push(&request(0)).unwrap();
    assert!(front.publish());
    back.pop().unwrap();
    for index in [33, 34, 1 << 31, u32::MAX, 0] {
        poke(&pages, REQ_PROD, index);
        let overrun = Overrun { index, limit: 32 };
        assert_eq!(back.pop(), Err(overrun), "{index}");
        assert_eq!(back.final_check(), Err(overrun));
        assert_eq!(back.pending(), Err(overrun));
    }
    poke(&pages, REQ_PROD, 32);
    assert_eq!(back.pending(), Ok(31), "as many as there are slots may be true");
    // Its own indices are never read back.
    poke(&pages, RSP_PROD, 1234);
    back.push(&response(0)).unwrap();
    let _ = back.publish();
    assert_eq!(peek(&pages, RSP_PROD), 1);
    poke(&pages, RSP_PROD, 500);
    assert_eq!(BlkBack::attach(&pages).err(), Some(AttachError::Overrun(Overrun { index: 32, limit: 532 })));
}

#[test]
fn a_hostile_backend_is_found_out() {
    let pages = pages(1);
    let mut front = BlkFront::new(&pages).unwrap();
    poke(&pages, RSP_PROD, 1);
    assert_eq!(front.pop(), Err(Overrun { index: 1, limit: 0 }), "nothing was asked");
    front.push(&request(0)).unwrap();
    assert_eq!(front.pop(), Err(Overrun { index: 1, limit: 0 }), "nothing was published");
    assert!(front.publish());
    assert!(front.pop().unwrap().is_some());
    for index in [2, 0, u32::MAX] {
        poke(&pages, RSP_PROD, index);
        assert_eq!(front.pop(), Err(Overrun { index, limit: 1 }));
        assert_eq!(front.final_check(), Err(Overrun { index, limit: 1 }));
    }
    poke(&pages, REQ_PROD, 99);
    front.push(&request(1)).unwrap();
    let _ = front.publish();
    assert_eq!(peek(&pages, REQ_PROD), 2, "its own index is never read back");
}

/// What either end may do.
#[derive(Clone, Debug)]
enum Step {
    Ask(u8),
    Publish,
    Take(u8),
    Answer(u8),
    PublishAnswers,
    Consume(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u8>().prop_map(Step::Ask),
        Just(Step::Publish),
        any::<u8>().prop_map(Step::Take),
        any::<u8>().prop_map(Step::Answer),
        Just(Step::PublishAnswers),
        any::<u8>().prop_map(Step::Consume),
    ]
}

proptest! {
    /// Any interleaving of both ends moves messages as queues would, wherever the indices start.
    #[test]
    fn rings_are_queues(count in 1..4usize, warm in 0..700u64, steps in prop::collection::vec(step(), 1..200)) {
        let pages = pages(count);
        let mut front = BlkFront::new(&pages).unwrap();
        let mut back = BlkBack::attach(&pages).unwrap();
        for id in 0..warm {
            front.push(&request(id)).unwrap();
            let _ = front.publish();
            back.pop().unwrap();
            back.push(&response(id)).unwrap();
            let _ = back.publish();
            front.pop().unwrap();
        }
        let size = front.size() as usize;
        let mut next = 0;
        let (mut added, mut asked, mut taken) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let (mut answered, mut done) = (VecDeque::new(), VecDeque::new());
        for step in steps {
            let under_way = added.len() + asked.len() + taken.len() + answered.len() + done.len();
            match step {
                Step::Ask(n) => for k in 0..usize::from(n) {
                    let pushed = front.push(&request(next));
                    prop_assert_eq!(pushed.is_ok(), under_way + k < size);
                    if pushed.is_ok() { added.push_back(next); next += 1; }
                },
                Step::Publish => { let _ = front.publish(); asked.append(&mut added); }
                Step::Take(n) => for _ in 0..n {
                    let expected = asked.pop_front();
                    prop_assert_eq!(back.pop(), Ok(expected.map(request)));
                    taken.extend(expected);
                },
                Step::Answer(n) => for _ in 0..n {
                    let oldest: Option<u64> = taken.pop_front();
                    prop_assert_eq!(back.push(&response(oldest.unwrap_or(0))).is_ok(), oldest.is_some());
                    answered.extend(oldest);
                },
                Step::PublishAnswers => { let _ = back.publish(); done.append(&mut answered); }
                Step::Consume(n) => for _ in 0..n {
                    prop_assert_eq!(front.pop(), Ok(done.pop_front().map(response)));
                },
            }
            prop_assert_eq!(back.pending(), Ok(asked.len() as u32));
            prop_assert_eq!(front.pending(), Ok(done.len() as u32));
        }
    }

    /// Whatever the shared words say, no end panics, and no more comes out than there is room for.
    #[test]
    fn garbage_harms_nobody(words in prop::collection::vec(any::<u32>(), 4), count in 1..3usize) {
        let pages = pages(count);
        let mut front = TxFront::new(&pages).unwrap();
        let mut back = TxBack::attach(&pages).unwrap();
        front.push(&tx(0)).unwrap();
        let _ = front.publish();
        for (word, value) in words.iter().enumerate() {
            poke(&pages, word, *value);
        }
        let taken = core::iter::from_fn(|| back.pop().ok().flatten()).take(5000).count();
        prop_assert!(taken <= back.size() as usize);
        let consumed = core::iter::from_fn(|| front.pop().ok().flatten()).take(5000).count();
        prop_assert!(consumed <= 1);
        let _ = (back.final_check(), front.final_check(), TxBack::attach(&pages).is_ok());
    }
}

/// Two threads that sleep whenever no event is due: a lost event would hang them, a torn message fail them.
#[test]
fn no_event_is_lost_and_no_message_torn() {
    // Miri is some hundred times slower than the machine.
    const MESSAGES: u64 = if cfg!(miri) { 200 } else { 60_000 };
    let pages = pages(2);
    let mut front = BlkFront::new(&pages).unwrap();
    let mut back = BlkBack::attach(&pages).unwrap();
    let (to_back, back_events) = std::sync::mpsc::channel();
    let (to_front, front_events) = std::sync::mpsc::channel();
    let patience = std::time::Duration::from_secs(20);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut served = 0;
            while served < MESSAGES {
                while let Some(message) = back.pop().unwrap() {
                    assert_eq!(message, request(served));
                    back.push(&response(served)).unwrap();
                    served += 1;
                    if served % 3 == 0 && back.publish() {
                        let _ = to_front.send(());
                    }
                }
                if back.publish() {
                    let _ = to_front.send(());
                }
                if served < MESSAGES && !back.final_check().unwrap() {
                    back_events.recv_timeout(patience).expect("an event for the backend was lost");
                }
            }
        });
        let (mut sent, mut got) = (0, 0);
        while got < MESSAGES {
            while sent < MESSAGES && front.push(&request(sent)).is_ok() {
                sent += 1;
                if sent % 5 == 0 && front.publish() {
                    to_back.send(()).unwrap();
                }
            }
            if front.publish() {
                let _ = to_back.send(());
            }
            while let Some(message) = front.pop().unwrap() {
                assert_eq!(message, response(got));
                got += 1;
            }
            if got < MESSAGES && (sent == MESSAGES || front.free() == 0) && !front.final_check().unwrap() {
                front_events.recv_timeout(patience).expect("an event for the frontend was lost");
            }
        }
    });
}

#[test]
fn a_backend_that_needs_several_requests_is_called_with_the_last() {
    let pages = pages(1);
    let mut front = TxFront::new(&pages).unwrap();
    let mut back = TxBack::attach(&pages).unwrap();
    front.push(&tx(0)).unwrap();
    assert!(front.publish());
    assert_eq!(back.final_check_for(3), Ok(false));
    front.push(&tx(1)).unwrap();
    assert!(!front.publish(), "two are not enough");
    front.push(&tx(2)).unwrap();
    assert!(front.publish());
    assert_eq!(back.final_check_for(3), Ok(true));
    assert_eq!(back.final_check_for(4), Ok(false));
}
