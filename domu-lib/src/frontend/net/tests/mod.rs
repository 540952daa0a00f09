//! Both halves against a backend of a few lines, over real rings.

mod hostile;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::vec;
use std::vec::Vec;

use oxen_abi::io::netif::{
    NETIF_RSP_ERROR, NETIF_RSP_NULL, NETIF_RSP_OKAY, NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED, NETRXF_EXTRA_INFO,
    NETRXF_MORE_DATA, NETTXF_CSUM_BLANK, NETTXF_DATA_VALIDATED, NETTXF_EXTRA_INFO, NETTXF_MORE_DATA, NetifExtraInfo,
    NetifRxRequest, NetifRxResponse, NetifTxRequest, NetifTxResponse,
};
use oxen_ring::{BackRing, FrontRing, Page};
use zerocopy::IntoBytes;

use super::receive::Receiver;
use super::transmit::{Sent, Transmitter};
use super::*;
use crate::memory::bytes;

type Words = [AtomicU64; 512];

/// A page that only tests know; its reference is its number.
struct Shared(u32, &'static Words);

impl Buffer for Shared {
    fn reference(&self) -> u32 {
        self.0
    }

    fn words(&self) -> &[AtomicU64] {
        self.1
    }
}

/// What the backend may use, by reference.
type Granted = Rc<RefCell<BTreeMap<u32, &'static Words>>>;

fn maker(granted: &Granted, most: usize) -> Maker<Shared> {
    let granted = granted.clone();
    Box::new(move || {
        let mut granted = granted.borrow_mut();
        if granted.len() == most {
            return None;
        }
        let reference = 100 + granted.len() as u32;
        let words: &'static Words = Box::leak(Box::new([const { AtomicU64::new(0) }; 512]));
        granted.insert(reference, words);
        Some(Shared(reference, words))
    })
}

fn ring_page() -> &'static Page {
    Box::leak(Box::new([const { AtomicU32::new(0) }; 1024]))
}

/// A frame: its bytes, its first flags, its extra information, the ids of its requests.
type Taken = (Vec<u8>, u16, Option<NetifExtraInfo>, Vec<u16>);

struct Sending {
    half: Transmitter<'static, Shared>,
    back: BackRing<'static, NetifTxRequest, NetifTxResponse>,
    granted: Granted,
    page: &'static Page,
}

impl Sending {
    fn new(most: usize) -> Self {
        let (page, granted) = (ring_page(), Granted::default());
        let front = FrontRing::new(core::slice::from_ref(page)).unwrap();
        let half = Transmitter::new(front, maker(&granted, most));
        let back = BackRing::attach(core::slice::from_ref(page)).unwrap();
        Self { half, back, granted, page }
    }

    /// Takes a whole frame as a backend does.
    fn take(&mut self) -> Option<Taken> {
        let _ = self.half.publish();
        let first = self.back.pop().unwrap()?;
        let extra = (first.flags & NETTXF_EXTRA_INFO != 0).then(|| self.back.pop_as().unwrap().unwrap());
        let mut pieces = vec![first];
        while pieces.last().unwrap().flags & NETTXF_MORE_DATA != 0 {
            pieces.push(self.back.pop().unwrap().unwrap());
        }
        let others: u16 = pieces[1..].iter().map(|piece| piece.size).sum();
        pieces[0].size = first.size - others;
        let mut frame = vec![];
        for piece in &pieces {
            let mut part = vec![0; piece.size.into()];
            bytes::read(self.granted.borrow()[&piece.gref], piece.offset.into(), &mut part);
            frame.extend(part);
        }
        Some((frame, first.flags & !NETTXF_MORE_DATA, extra, pieces.iter().map(|piece| piece.id).collect()))
    }

    fn answer(&mut self, id: u16, status: i16) {
        self.back.push(&NetifTxResponse { id, status }).unwrap();
        let _ = self.back.publish();
    }
}

/// Bytes that tell their place.
fn data(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn a_frame_of_any_length_is_sent_as_it_is() {
    let mut sending = Sending::new(usize::MAX);
    for length in [14, 60, 1514, 4095, 4096, 4097, 8192, 20_000, 65_535] {
        assert_eq!(sending.half.send(&Frame::new(data(length))), Sent::Queued);
        let (frame, flags, extra, ids) = sending.take().unwrap();
        assert_eq!((frame, flags, extra), (data(length), 0, None));
        assert_eq!(ids.len(), length.div_ceil(4096));
        ids.into_iter().for_each(|id| sending.answer(id, NETIF_RSP_OKAY));
        sending.half.reap().unwrap();
        assert!(sending.half.is_idle());
    }
    assert_eq!(sending.granted.borrow().len(), 16, "pages are used again");
}

#[test]
fn flags_and_extra_information_say_what_is_known_of_a_frame() {
    let mut sending = Sending::new(usize::MAX);
    let large = Frame { checksum: Checksum::Blank, segment: Some(1448), bytes: data(9000) };
    assert_eq!(sending.half.send(&large), Sent::Queued);
    let (frame, flags, extra, ids) = sending.take().unwrap();
    assert_eq!((frame, ids.len()), (data(9000), 3));
    assert_eq!(flags, NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED | NETTXF_EXTRA_INFO);
    assert_eq!(extra.unwrap().as_bytes(), [1, 0, 0xa8, 5, 1, 0, 0, 0]);
    // The answer to the extra slot has no id of its own.
    sending.answer(ids[0], NETIF_RSP_OKAY);
    sending.answer(0xdead, NETIF_RSP_NULL);
    sending.answer(ids[1], NETIF_RSP_OKAY);
    sending.answer(ids[2], NETIF_RSP_ERROR);
    sending.half.reap().unwrap();
    assert!(sending.half.is_idle());
    assert_eq!(sending.half.refused(), 1);
    sending.half.send(&Frame { checksum: Checksum::Verified, ..Frame::new(data(60)) });
    let (_, flags, _, ids) = sending.take().unwrap();
    assert_eq!(flags, NETTXF_DATA_VALIDATED);
    sending.answer(0, NETIF_RSP_NULL);
    assert_eq!(sending.half.reap(), Err(ProtocolError::Id(0)), "there is no extra slot any more, id {}", ids[0]);
}

#[test]
fn a_full_ring_takes_frames_again_when_the_backend_has_answered() {
    let mut sending = Sending::new(usize::MAX);
    let sent = (0..300).take_while(|_| sending.half.send(&Frame::new(data(60))) == Sent::Queued).count();
    assert_eq!(sent, 256);
    let (.., ids) = sending.take().unwrap();
    assert_eq!(sending.half.send(&Frame::new(data(60))), Sent::Later);
    sending.answer(ids[0], NETIF_RSP_OKAY);
    sending.half.reap().unwrap();
    assert_eq!(sending.half.send(&Frame::new(data(5000))), Sent::Later, "two slots, and one is free");
    assert_eq!(sending.half.send(&Frame::new(data(60))), Sent::Queued);
}

#[test]
fn without_memory_frames_wait_for_those_under_way_and_are_dropped_without_any() {
    let mut sending = Sending::new(2);
    assert_eq!(sending.half.send(&Frame::new(data(60))), Sent::Queued);
    assert_eq!(sending.half.send(&Frame::new(data(9000))), Sent::Later);
    let (.., ids) = sending.take().unwrap();
    sending.answer(ids[0], NETIF_RSP_OKAY);
    sending.half.reap().unwrap();
    assert_eq!(sending.half.send(&Frame::new(data(9000))), Sent::NoMemory);
    assert_eq!(sending.half.send(&Frame::new(data(60))), Sent::Queued);
}

#[test]
fn an_answer_that_comes_twice_breaks_the_protocol() {
    let mut sending = Sending::new(usize::MAX);
    sending.half.send(&Frame::new(data(60)));
    sending.half.send(&Frame::new(data(60)));
    let (.., ids) = sending.take().unwrap();
    let _ = sending.take();
    sending.answer(ids[0], NETIF_RSP_OKAY);
    sending.answer(ids[0], NETIF_RSP_OKAY);
    assert_eq!(sending.half.reap(), Err(ProtocolError::Id(ids[0])));
}

#[test]
fn what_a_backend_has_not_answered_is_sent_again_to_the_next_one() {
    let mut sending = Sending::new(usize::MAX);
    let large = Frame { checksum: Checksum::Blank, segment: Some(1448), bytes: data(9000) };
    let frames = [Frame::new(data(60)), Frame::new(data(70)), large, Frame::new(data(5000)), Frame::new(data(80))];
    for frame in &frames {
        assert_eq!(sending.half.send(frame), Sent::Queued);
    }
    // The second is answered whole, of the fourth only a piece; the last two have not even been seen.
    let taken: Vec<_> = (0..4).map(|_| sending.take().unwrap().3).collect();
    sending.answer(taken[1][0], NETIF_RSP_OKAY);
    sending.answer(taken[3][0], NETIF_RSP_OKAY);
    sending.half.reap().unwrap();
    let (page, granted) = (ring_page(), sending.granted.clone());
    let front = FrontRing::new(core::slice::from_ref(page)).unwrap();
    let offered = RefCell::new(Vec::new());
    let kept = sending.half.take_back();
    let half = Transmitter::resend(front, maker(&granted, usize::MAX), kept, |page| offered.borrow_mut().push(page.0));
    let mut sending = Sending { half, back: BackRing::attach(core::slice::from_ref(page)).unwrap(), granted, page };
    assert_eq!(offered.into_inner().len(), sending.granted.borrow().len(), "all pages are the new backend's to use");
    for frame in [&frames[0], &frames[2], &frames[4]] {
        let (bytes, flags, extra, ids) = sending.take().unwrap();
        assert_eq!((&bytes, extra.is_some()), (&frame.bytes, frame.segment.is_some()));
        assert_eq!(flags & NETTXF_CSUM_BLANK != 0, frame.checksum == Checksum::Blank);
        ids.into_iter().for_each(|id| sending.answer(id, NETIF_RSP_OKAY));
        if extra.is_some() {
            sending.answer(0, NETIF_RSP_NULL);
        }
    }
    assert_eq!(sending.take(), None);
    sending.half.reap().unwrap();
    assert!(sending.half.is_idle(), "no page is lost");
    assert_eq!(sending.half.send(&Frame::new(data(9000))), Sent::Queued);
    assert_eq!(sending.take().unwrap().0, data(9000));
}

struct Receiving {
    half: Receiver<'static, Shared>,
    back: BackRing<'static, NetifRxRequest, NetifRxResponse>,
    granted: Granted,
    page: &'static Page,
}

impl Receiving {
    fn new(most: usize) -> Self {
        let (page, granted) = (ring_page(), Granted::default());
        let front = FrontRing::new(core::slice::from_ref(page)).unwrap();
        let mut half = Receiver::new(front, maker(&granted, most));
        let _ = half.post();
        let back = BackRing::attach(core::slice::from_ref(page)).unwrap();
        Self { half, back, granted, page }
    }

    /// Fills one page from `offset` on.
    fn fill(&mut self, offset: u16, part: &[u8], flags: u16) {
        let request = self.back.pop().unwrap().unwrap();
        let whole = [&vec![0xee; offset.into()], part].concat();
        bytes::write(self.granted.borrow()[&request.gref], 0, &whole);
        self.back.push(&NetifRxResponse { id: request.id, offset, flags, status: part.len() as i16 }).unwrap();
    }

    /// Uses a slot up for extra information.
    fn extra(&mut self, bytes: [u8; 8]) {
        let _ = self.back.pop().unwrap().unwrap();
        let [kind, flags, u @ ..] = bytes;
        self.back.push_as(&NetifExtraInfo { r#type: kind, flags, u }).unwrap();
    }

    fn receive(&mut self) -> Result<Option<Frame>, ProtocolError> {
        let _ = self.back.publish();
        let frame = self.half.receive();
        let _ = self.half.post();
        frame
    }
}

#[test]
fn frames_are_put_together_from_their_pieces() {
    let mut receiving = Receiving::new(usize::MAX);
    for round in 0..100 {
        let whole = data(9000 + round);
        receiving.fill(
            5,
            &whole[..4000],
            NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED | NETRXF_MORE_DATA | NETRXF_EXTRA_INFO,
        );
        // A flow hash first, which nobody asked for, then how to cut.
        receiving.extra([4, 1, 0, 0, 9, 9, 9, 9]);
        receiving.extra([1, 0, 0xa8, 5, 1, 0, 0, 0]);
        receiving.fill(0, &whole[4000..8000], NETRXF_MORE_DATA);
        assert_eq!(receiving.receive(), Ok(None), "the end has not come");
        receiving.fill(96, &whole[8000..], 0);
        receiving.fill(0, &whole[..60], 0);
        let large = Frame { bytes: whole.clone(), checksum: Checksum::Blank, segment: Some(1448) };
        assert_eq!(receiving.receive(), Ok(Some(large)));
        assert_eq!(receiving.receive(), Ok(Some(Frame::new(whole[..60].to_vec()))));
        assert_eq!(receiving.receive(), Ok(None));
    }
    assert_eq!(receiving.granted.borrow().len(), 256, "pages are used again");
}

#[test]
fn a_frame_that_the_backend_failed_to_fill_is_lost_and_the_next_is_not() {
    let mut receiving = Receiving::new(usize::MAX);
    receiving.fill(0, &data(4096), NETRXF_MORE_DATA);
    let request = receiving.back.pop().unwrap().unwrap();
    let failed = NetifRxResponse { id: request.id, offset: 0, flags: NETRXF_MORE_DATA, status: NETIF_RSP_ERROR };
    receiving.back.push(&failed).unwrap();
    receiving.fill(0, &data(100), 0);
    receiving.fill(0, &data(13), 0);
    receiving.fill(0, &data(14), NETRXF_DATA_VALIDATED);
    let next = Frame { checksum: Checksum::Verified, ..Frame::new(data(14)) };
    assert_eq!(receiving.receive(), Ok(Some(next)));
    assert_eq!(receiving.half.lost(), 2, "one that failed, one shorter than its header");
}

#[test]
fn a_frame_is_as_long_as_frames_can_be() {
    let mut receiving = Receiving::new(usize::MAX);
    for piece in 0..16 {
        receiving.fill(0, &[piece; 4096], NETRXF_MORE_DATA);
    }
    receiving.fill(0, &[17; 19], 0);
    assert_eq!(receiving.receive(), Err(ProtocolError::Length(65_555)));
    let mut receiving = Receiving::new(usize::MAX);
    for _ in 0..30 {
        receiving.fill(0, &[], NETRXF_MORE_DATA);
    }
    assert_eq!(receiving.receive(), Err(ProtocolError::Slots));
}

#[test]
fn what_is_not_within_a_page_is_not_looked_at() {
    for (offset, status) in [(4096, 1), (1, 4096), (u16::MAX, i16::MAX), (0, 4097)] {
        let mut receiving = Receiving::new(usize::MAX);
        let request = receiving.back.pop().unwrap().unwrap();
        receiving.back.push(&NetifRxResponse { id: request.id, offset, flags: 0, status }).unwrap();
        let range = ProtocolError::Range { offset: offset.into(), size: status as usize };
        assert_eq!(receiving.receive(), Err(range));
    }
}

#[test]
fn answers_out_of_order_and_senseless_extras_break_the_protocol() {
    let mut receiving = Receiving::new(usize::MAX);
    let first = receiving.back.pop().unwrap().unwrap();
    let second = receiving.back.pop().unwrap().unwrap();
    assert_ne!(first.id, second.id);
    receiving.back.push(&NetifRxResponse { id: second.id, offset: 0, flags: 0, status: 60 }).unwrap();
    assert_eq!(receiving.receive(), Err(ProtocolError::Id(second.id)));
    for wrong in
        [[0, 0, 0, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0, 0], [1, 0, 9, 9, 3, 0, 0, 0]]
    {
        let mut receiving = Receiving::new(usize::MAX);
        receiving.fill(0, &data(60), NETRXF_EXTRA_INFO);
        receiving.extra(wrong);
        assert_eq!(receiving.receive(), Err(ProtocolError::Extra(wrong[0])));
    }
}

#[test]
fn whoever_waits_for_a_device_is_told_when_it_closes() {
    let queues = Rc::new(Queues::default());
    let violation = NetError::Protocol(ProtocolError::Slots);
    task::run(async {
        let settings = Settings { mac: [0; 6], mtu: 1500, features: Features::default() };
        queues.connected(settings);
        let net = Rc::new(Net { queues: queues.clone() });
        let (first, second) = (net.clone(), net.clone());
        let first = task::spawn(async move { first.receive().await });
        let second = task::spawn(async move { second.receive().await });
        while net.has_room() {
            net.try_send(Frame::new(data(1514))).unwrap();
        }
        assert_eq!(net.try_send(Frame::new(data(1514))), Err(NetError::Busy));
        assert_eq!(net.try_send(Frame::new(data(13))), Err(NetError::Length(13)));
        assert_eq!(net.try_send(Frame::new(data(4097))), Err(NetError::Length(4097)), "not without scatter-gather");
        task::yield_now().await;
        queues.deliver(Frame::new(data(60)));
        task::yield_now().await;
        queues.end(violation);
        assert_eq!(first.await.map(|frame| frame.bytes), Ok(data(60)));
        assert_eq!(second.await, Err(violation));
        assert_eq!(net.send(Frame::new(data(60))).await, Err(violation));
    });
}
