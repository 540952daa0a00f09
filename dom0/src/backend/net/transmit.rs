//! From the guest to the bridge: a batch of frames at a time, fetched with one call.

use alloc::vec::Vec;

use oxen_abi::domid::DomId;
use oxen_abi::io::netif::{NETIF_RSP_ERROR, NETIF_RSP_NULL, NETIF_RSP_OKAY, NetifTxRequest, NetifTxResponse};
use oxen_domu_lib::grant::{self, Copy};

use super::rate::RateLimiter;
use super::slots::{self, Chain, Claim, Frame, ProtocolError, TransmitRing};
use crate::bridge::{BridgePort, Buffer, Checksum, Malformed, Packet};

/// Bytes that are fetched at a time.
const BATCH: usize = 512 << 10;

/// This direction's state.
pub struct Transmitter {
    /// Who sends.
    domain: DomId,
    /// How much it may send, where that is limited.
    budget: Option<RateLimiter>,
    pieces: Vec<NetifTxRequest>,
    chains: Vec<Chain>,
}

impl Transmitter {
    /// A transmitter of `domain`'s frames.
    pub const fn new(domain: DomId, budget: Option<RateLimiter>) -> Self {
        Self { domain, budget, pieces: Vec::new(), chains: Vec::new() }
    }

    /// Takes a batch of frames off the ring, sends them and answers their slots; returns how many slots those were.
    ///
    /// # Errors
    /// [`ProtocolError`]: the ring makes no sense.
    pub fn turn(&mut self, ring: &mut TransmitRing<'_>, port: &BridgePort, now: u64) -> Result<usize, ProtocolError> {
        self.pieces.clear();
        self.chains.clear();
        let mut bytes = 0;
        while bytes < BATCH && self.budget.as_mut().is_none_or(|budget| budget.admits(now)) {
            let Some(chain) = slots::take(ring, &mut self.pieces)? else { break };
            let length = chain.frame.map_or(0, |frame| frame.length);
            bytes += length;
            if let Some(budget) = &mut self.budget {
                budget.spend(length);
            }
            self.chains.push(chain);
        }
        let fetched = fetch(self.domain, &self.chains, &self.pieces);
        self.answer(ring, fetched, port);
        Ok(self.pieces.len())
    }

    /// Nanoseconds from `now` until another frame may be sent, where none may be now.
    pub fn pause(&mut self, now: u64) -> Option<u64> {
        let budget = self.budget.as_mut()?;
        if budget.admits(now) { None } else { Some(budget.pause(now)) }
    }

    /// Sends what came and answers every slot.
    fn answer(&self, ring: &mut TransmitRing<'_>, fetched: Vec<Result<Packet, Lost>>, port: &BridgePort) {
        let mut pieces = self.pieces.iter();
        for (chain, packet) in self.chains.iter().zip(fetched) {
            if packet.as_ref().is_err_and(|why| *why == Lost::Malformed) {
                port.count_malformed();
            }
            // A frame that its headers belie counts there.
            let sent = packet.is_ok_and(|packet| port.send(packet).is_ok());
            let status = if sent { NETIF_RSP_OKAY } else { NETIF_RSP_ERROR };
            for (index, piece) in pieces.by_ref().take(chain.pieces).enumerate() {
                // There is a place for each: its request was taken off the ring.
                let _ = ring.push(&NetifTxResponse { id: piece.id, status });
                let extras = if index == 0 { chain.extras } else { 0 };
                for _ in 0..extras {
                    let _ = ring.push(&NetifTxResponse { id: 0, status: NETIF_RSP_NULL });
                }
            }
        }
    }
}

/// Why a frame goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// It could not be what its slots say.
    Malformed,
    /// There was no memory for it.
    NoMemory,
}

/// Room for the frame that a chain makes up.
fn room(chain: &Chain) -> Result<Packet, Lost> {
    let frame = chain.frame.ok_or(Lost::Malformed)?;
    Buffer::zeroed(frame.length).map(Packet::plain).ok_or(Lost::NoMemory)
}

/// The pieces of a frame, each with the place of its bytes: one behind the other.
fn places<'a>(
    mut frame: &'a mut [u8],
    pieces: &'a [NetifTxRequest],
) -> impl Iterator<Item = (&'a NetifTxRequest, &'a mut [u8])> {
    pieces.iter().map_while(move |piece| {
        // Judged: the pieces of a frame are as long as the frame.
        let (into, left) = core::mem::take(&mut frame).split_at_mut_checked(piece.size.into())?;
        frame = left;
        Some((piece, into))
    })
}

/// Fetches the frames of all chains.
fn fetch(domain: DomId, chains: &[Chain], pieces: &[NetifTxRequest]) -> Vec<Result<Packet, Lost>> {
    let mut packets: Vec<_> = chains.iter().map(room).collect();
    let mut copies: Vec<Copy<'_>> = Vec::with_capacity(pieces.len() * 2);
    let mut ends = Vec::with_capacity(chains.len());
    let mut rest = pieces;
    for (chain, packet) in chains.iter().zip(&mut packets) {
        let (mine, others) = rest.split_at_checked(chain.pieces).unwrap_or_default();
        rest = others;
        if let Ok(packet) = packet {
            for (piece, into) in places(&mut packet.bytes, mine) {
                Copy::fetch(&mut copies, (domain, piece.gref, piece.offset), into);
            }
        }
        ends.push(copies.len());
    }
    let called = copies.is_empty() || grant::copy(&mut copies).is_ok();
    let mut start = 0;
    let mut good = Vec::with_capacity(chains.len());
    for end in ends {
        let mine = copies.get(start..end).unwrap_or_default();
        good.push(called && mine.iter().all(|copy| copy.result().is_ok()));
        start = end;
    }
    for ((packet, chain), good) in packets.iter_mut().zip(chains).zip(good) {
        let Ok(fetched) = packet else { continue };
        let frame = chain.frame.filter(|_| good).ok_or(Lost::Malformed);
        if let Err(lost) = frame.and_then(|frame| finish(fetched, &frame)) {
            *packet = Err(lost);
        }
    }
    packets
}

/// Writes down what the frontend said of the checksum, as far as the frame bears it out.
fn finish(packet: &mut Packet, frame: &Frame) -> Result<(), Lost> {
    packet.segmentation = frame.segmentation;
    match frame.checksum {
        Claim::Complete => Ok(()),
        Claim::Validated => {
            packet.checksum = Checksum::Validated;
            Ok(())
        }
        Claim::Blank => packet.blank_checksum().map_err(|Malformed| Lost::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::{Bridge, ETHERNET_HEADER, LONGEST};
    use core::sync::atomic::AtomicU32;
    use oxen_abi::io::netif::{
        NETTXF_EXTRA_INFO, NETTXF_MORE_DATA, NetifExtraInfo, XEN_NETIF_EXTRA_FLAG_MORE, XEN_NETIF_EXTRA_TYPE_HASH,
    };
    use oxen_ring::{FrontRing, Page};
    use proptest::prelude::*;

    /// On the host no grant holds: every frame fails, each slot has its answer all the same.
    #[test]
    fn every_slot_is_answered_in_its_place() {
        let page: [Page; 1] = [[const { AtomicU32::new(0) }; 1024]];
        let mut front = FrontRing::<NetifTxRequest, NetifTxResponse>::new(&page).unwrap();
        let piece = |id, size, flags| NetifTxRequest { gref: 8, offset: 4000, flags, id, size };
        let extra = |flags| NetifExtraInfo { r#type: XEN_NETIF_EXTRA_TYPE_HASH, flags, u: [0; 6] };
        front.push(&piece(7, 190, NETTXF_EXTRA_INFO | NETTXF_MORE_DATA)).unwrap();
        front.push_as(&extra(XEN_NETIF_EXTRA_FLAG_MORE)).unwrap();
        front.push_as(&extra(0)).unwrap();
        front.push(&piece(9, 95, 0)).unwrap();
        front.push(&piece(11, 60, 0)).unwrap();
        let _ = front.publish();
        let bridge = Bridge::new(|| 0, usize::MAX);
        let (port, other) = (bridge.attach("a"), bridge.attach("b"));
        let mut back = TransmitRing::attach(&page).unwrap();
        let mut transmitter = Transmitter::new(DomId(1), None);
        assert_eq!(transmitter.turn(&mut back, &port, 0), Ok(3));
        assert_eq!(back.unanswered(), 0);
        let _ = back.publish();
        let answers: Vec<_> = core::iter::from_fn(|| front.pop().unwrap()).map(|a| (a.id, a.status)).collect();
        let error = NETIF_RSP_ERROR;
        assert_eq!(answers, [(7, error), (0, NETIF_RSP_NULL), (0, NETIF_RSP_NULL), (9, error), (11, error)]);
        assert!(other.try_receive().is_none());
        assert_eq!(port.counts().malformed.get(), 2);
    }

    /// Sends a frame in pieces of these sizes, each in a page of its own; says what stands in the receiver's pages.
    fn hand_on(frame: &[u8], sizes: &[usize]) -> Option<Vec<Vec<u8>>> {
        let page: [Page; 1] = [[const { AtomicU32::new(0) }; 1024]];
        let mut front = FrontRing::<NetifTxRequest, NetifTxResponse>::new(&page).unwrap();
        let (mut memory, mut rest) = (Vec::new(), frame);
        for (index, &size) in sizes.iter().enumerate() {
            let (mine, others) = rest.split_at(size);
            rest = others;
            let offset = index * 1000 % (4097 - size);
            memory.push([&vec![0xee; offset], mine].concat());
            let size = if index == 0 { frame.len() } else { size } as u16;
            let flags = if index + 1 < sizes.len() { NETTXF_MORE_DATA } else { 0 };
            front.push(&NetifTxRequest { gref: index as u32, offset: offset as u16, flags, id: 0, size }).unwrap();
        }
        let _ = front.publish();
        let mut pieces = Vec::new();
        let chain = slots::take(&mut TransmitRing::attach(&page).unwrap(), &mut pieces).unwrap().unwrap();
        let mut packet = room(&chain).ok()?;
        for (piece, into) in places(&mut packet.bytes, &pieces) {
            into.copy_from_slice(&memory[piece.gref as usize][piece.offset.into()..]);
        }
        let bridge = Bridge::new(|| 0, usize::MAX);
        let (from, to) = (bridge.attach("a"), bridge.attach("b"));
        finish(&mut packet, &chain.frame?).unwrap();
        from.send(packet).unwrap();
        Some(to.try_receive().unwrap().bytes.pieces(0).map(<[u8]>::to_vec).collect())
    }

    /// However a frame is cut, the receiver has each of its pages full but the last, and no empty one: so all headers
    /// are in the first.
    fn check_form(sizes: &[usize]) {
        let length = sizes.iter().sum();
        let frame: Vec<u8> = (0..length).map(|at| (at * 7 + at / 256) as u8).collect();
        let Some(pages) = hand_on(&frame, sizes) else {
            assert!(length < ETHERNET_HEADER, "{sizes:?} is no frame");
            return;
        };
        assert!(length >= ETHERNET_HEADER, "{sizes:?} is a frame");
        let full: Vec<_> = frame.chunks(4096).collect();
        assert_eq!(pages, full, "{sizes:?}");
    }

    #[test]
    fn a_small_frame_may_be_cut_anywhere() {
        for length in 0..=200 {
            (0..=length).for_each(|cut| check_form(&[cut, length - cut]));
        }
        for length in [64, 200] {
            for first in 0..=length {
                (first..=length).for_each(|second| check_form(&[first, second - first, length - second]));
            }
        }
    }

    #[test]
    fn a_large_frame_may_be_cut_anywhere() {
        for cut in 0..=4096 {
            check_form(&[cut, 4096, 100]);
        }
        check_form(&[[4096; 15].as_slice(), &[4095]].concat());
        check_form(&[[0].as_slice(), &[4096; 15], &[0], &[4095]].concat());
    }

    proptest! {
        #[test]
        fn any_frame_may_be_cut_anywhere(
            sizes in proptest::collection::vec(prop_oneof![0..80_usize, 0..=4096_usize, Just(4096)], 1..=18),
        ) {
            prop_assume!(sizes.iter().sum::<usize>() <= LONGEST);
            check_form(&sizes);
        }
    }

    #[test]
    fn who_has_no_budget_left_keeps_its_frames() {
        let page: [Page; 1] = [[const { AtomicU32::new(0) }; 1024]];
        let mut front = FrontRing::<NetifTxRequest, NetifTxResponse>::new(&page).unwrap();
        for id in 0..100 {
            front.push(&NetifTxRequest { gref: 8, offset: 0, flags: 0, id, size: 4000 }).unwrap();
        }
        let _ = front.publish();
        let port = Bridge::new(|| 0, usize::MAX).attach("a");
        let mut back = TransmitRing::attach(&page).unwrap();
        let rate = crate::config::vif::Rate { bytes: 4000, interval: 1000 };
        let mut transmitter = Transmitter::new(DomId(1), Some(RateLimiter::new(rate, 0)));
        // What was saved up, then as much as time allows.
        assert_eq!(transmitter.turn(&mut back, &port, 0), Ok(33));
        assert_eq!(transmitter.turn(&mut back, &port, 0), Ok(0));
        assert_eq!(transmitter.pause(0), Some(1_000_000));
        assert_eq!(transmitter.turn(&mut back, &port, 1_000_000), Ok(1));
    }
}
