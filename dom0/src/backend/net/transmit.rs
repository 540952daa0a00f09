//! From the guest to the bridge: a batch of frames at a time, fetched with one call.

use alloc::vec::Vec;

use oxen_abi::domid::DomId;
use oxen_abi::io::netif::{NETIF_RSP_ERROR, NETIF_RSP_NULL, NETIF_RSP_OKAY, NetifTxRequest, NetifTxResponse};
use oxen_domu_lib::grant::{self, Copy};
use oxen_domu_lib::memory::PAGE_SIZE;

use super::rate::Budget;
use super::slots::{self, Broken, Chain, Claim, Frame, TransmitRing};
use crate::bridge::{BridgePort, Buffer, Checksum, Packet};

/// Bytes that are fetched at a time.
const BATCH: usize = 512 << 10;

/// This direction's state.
pub struct Transmitter {
    /// Who sends.
    domain: DomId,
    /// How much it may send, where that is limited.
    budget: Option<Budget>,
    pieces: Vec<NetifTxRequest>,
    chains: Vec<Chain>,
}

impl Transmitter {
    /// A transmitter of `domain`'s frames.
    pub const fn new(domain: DomId, budget: Option<Budget>) -> Self {
        Self { domain, budget, pieces: Vec::new(), chains: Vec::new() }
    }

    /// Takes a batch of frames off the ring, sends them and answers their slots; says how many slots those were.
    ///
    /// # Errors
    /// [`Broken`]: the ring makes no sense.
    pub fn turn(&mut self, ring: &mut TransmitRing<'_>, port: &BridgePort, now: u64) -> Result<usize, Broken> {
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
    fn answer(&self, ring: &mut TransmitRing<'_>, fetched: Vec<Option<Packet>>, port: &BridgePort) {
        let mut pieces = self.pieces.iter();
        for (chain, packet) in self.chains.iter().zip(fetched) {
            // A frame that its headers belie counts there.
            let sent = packet.is_some_and(|packet| port.send(packet).is_ok());
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

/// Room for a frame, if there is memory: the second piece lies in its page as it does in the guest's, and with it those
/// that go on where others end.
fn room(frame: Frame, pieces: &[NetifTxRequest]) -> Option<Packet> {
    let start = match pieces {
        [first, second, ..] => (usize::from(second.offset) + PAGE_SIZE).saturating_sub(first.size.into()),
        _ => 0,
    };
    Buffer::zeroed(frame.length, start).map(Packet::plain)
}

/// Fetches the frames of all chains; none where a chain makes up no frame or the guest's grants do not hold.
fn fetch(domain: DomId, chains: &[Chain], pieces: &[NetifTxRequest]) -> Vec<Option<Packet>> {
    let mut left = pieces;
    let empty = |chain: &Chain| {
        let (mine, others) = left.split_at_checked(chain.pieces)?;
        left = others;
        room(chain.frame?, mine)
    };
    let mut packets: Vec<Option<Packet>> = chains.iter().map(empty).collect();
    let mut copies: Vec<Copy<'_>> = Vec::with_capacity(pieces.len() * 2);
    let mut ends = Vec::with_capacity(chains.len());
    let mut rest = pieces;
    for (chain, packet) in chains.iter().zip(&mut packets) {
        let (mine, others) = rest.split_at_checked(chain.pieces).unwrap_or_default();
        rest = others;
        let mut room = packet.as_mut().map(|packet| &mut *packet.bytes).unwrap_or_default();
        for piece in mine {
            // Judged: the pieces of a frame are as long as the frame.
            let Some((into, left)) = room.split_at_mut_checked(piece.size.into()) else { break };
            room = left;
            Copy::fetch(&mut copies, (domain, piece.gref, piece.offset), into);
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
        let finished = packet.as_mut().zip(chain.frame).is_some_and(|(packet, frame)| finish(packet, &frame));
        if !good || !finished {
            *packet = None;
        }
    }
    packets
}

/// Writes down what the frontend said of the checksum, as far as the frame bears it out.
fn finish(packet: &mut Packet, frame: &Frame) -> bool {
    packet.segmentation = frame.segmentation;
    match frame.checksum {
        Claim::Complete => true,
        Claim::Validated => {
            packet.checksum = Checksum::Validated;
            true
        }
        Claim::Blank => packet.blank_checksum().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::Bridge;
    use core::sync::atomic::AtomicU32;
    use oxen_abi::io::netif::{
        NETTXF_EXTRA_INFO, NETTXF_MORE_DATA, NetifExtraInfo, XEN_NETIF_EXTRA_FLAG_MORE, XEN_NETIF_EXTRA_TYPE_HASH,
    };
    use oxen_ring::{FrontRing, Page};

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
        let rate = crate::backend::net::rate::Rate { bytes: 4000, interval: 1000 };
        let mut transmitter = Transmitter::new(DomId(1), Some(Budget::new(rate, 0)));
        // What was saved up, then as much as time allows.
        assert_eq!(transmitter.turn(&mut back, &port, 0), Ok(33));
        assert_eq!(transmitter.turn(&mut back, &port, 0), Ok(0));
        assert_eq!(transmitter.pause(0), Some(1_000_000));
        assert_eq!(transmitter.turn(&mut back, &port, 1_000_000), Ok(1));
    }
}
