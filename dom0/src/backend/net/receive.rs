//! From the bridge to the guest: as many frames at a time as the guest has given pages for, put there with one call.

use alloc::vec::Vec;

use oxen_abi::domid::DomId;
use oxen_abi::io::netif::{
    NETIF_RSP_ERROR, NetifExtraGso, NetifExtraInfo, NetifExtraXdp, NetifRxRequest, NetifRxResponse, ReceiveFlags,
    XEN_NETIF_EXTRA_FLAG_MORE, XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_EXTRA_TYPE_XDP, XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6,
};
use oxen_domu_lib::grant::{self, Copy};
use oxen_ring::{BackRing, Overrun};
use zerocopy::IntoBytes;

use crate::bridge::{BridgePort, Checksum, Network, Packet, Segmentation};

/// The receive ring as the frontend made it.
pub type ReceiveRing<'a> = BackRing<'a, NetifRxRequest, NetifRxResponse>;

/// This direction's state.
pub struct Receiver {
    /// Who receives.
    domain: DomId,
    /// Whether a frame may have more than one page.
    scatter: bool,
    /// Bytes that are left free in the first page of a frame, before it.
    headroom: u16,
    /// The frame that waits for pages.
    head: Option<Packet>,
    frames: Vec<Packet>,
    pages: Vec<NetifRxRequest>,
}

/// The greatest room before a frame: the other half of the page takes all headers.
pub const MAX_HEADROOM: u16 = 2048;

/// Slots that a frame takes.
fn slots(packet: &Packet, headroom: u16) -> usize {
    packet.bytes.pieces(headroom).len() + extras(packet, headroom).count()
}

/// What is told of a frame in slots of their own, behind its first.
fn extras(packet: &Packet, headroom: u16) -> impl Iterator<Item = NetifExtraInfo> {
    let room = (headroom != 0).then(|| {
        let room = NetifExtraXdp { headroom, pad: [0; 2] };
        extra(XEN_NETIF_EXTRA_TYPE_XDP, 0, room.as_bytes())
    });
    let more = if room.is_some() { XEN_NETIF_EXTRA_FLAG_MORE } else { 0 };
    packet.segmentation.map(|segmentation| segments(segmentation, more)).into_iter().chain(room)
}

impl Receiver {
    /// A receiver for `domain`, for which a frame may wait already.
    pub const fn new(domain: DomId, scatter: bool, head: Option<Packet>) -> Self {
        Self { domain, scatter, headroom: 0, head, frames: Vec::new(), pages: Vec::new() }
    }

    /// Leaves so many bytes free before each frame, [`MAX_HEADROOM`] at most.
    pub const fn set_headroom(&mut self, bytes: u16) {
        self.headroom = if bytes < MAX_HEADROOM { bytes } else { MAX_HEADROOM };
    }

    /// Requests without which nothing can go on, if a frame waits for them.
    pub fn wanted(&self) -> Option<u32> {
        self.head.as_ref().map(|head| slots(head, self.headroom) as u32)
    }

    /// Gives the frame up that waits for pages, and returns it.
    pub const fn give_up(&mut self) -> Option<Packet> {
        self.head.take()
    }

    /// Hands over as many frames as there are pages for; returns how many slots those took.
    ///
    /// # Errors
    /// [`Overrun`]: the frontend claims more requests than there are slots.
    pub fn turn(&mut self, ring: &mut ReceiveRing<'_>, port: &BridgePort) -> Result<usize, Overrun> {
        self.frames.clear();
        self.pages.clear();
        let mut room = ring.pending()? as usize;
        while let Some(packet) = self.head.take().or_else(|| port.try_receive()) {
            let needed = slots(&packet, self.headroom);
            if needed > ring.size() as usize || needed > 1 && !self.scatter {
                port.count_dropped();
                continue;
            }
            if needed > room {
                self.head = Some(packet);
                break;
            }
            room -= needed;
            for _ in 0..needed {
                self.pages.extend(ring.pop()?);
            }
            self.frames.push(packet);
        }
        let good = put(self.domain, self.headroom, &self.frames, &self.pages);
        self.answer(ring, &good);
        self.frames.clear();
        Ok(self.pages.len())
    }

    fn answer(&self, ring: &mut ReceiveRing<'_>, good: &[bool]) {
        let mut slots = self.pages.iter().zip(good);
        for packet in &self.frames {
            let pieces = packet.bytes.pieces(self.headroom);
            let count = pieces.len();
            for (index, piece) in pieces.enumerate() {
                let Some((page, &good)) = slots.next() else { return };
                let more = if index + 1 == count { ReceiveFlags::empty() } else { ReceiveFlags::MORE_DATA };
                let first = if index == 0 { first_flags(packet, self.headroom) } else { ReceiveFlags::empty() };
                let offset = if index == 0 { self.headroom } else { 0 };
                let status = if good { piece.len() as i16 } else { NETIF_RSP_ERROR };
                // There is a place for each: its request was taken off the ring.
                let _ = ring.push(&NetifRxResponse { id: page.id, offset, flags: (first | more).bits(), status });
                if index == 0 {
                    for extra in extras(packet, self.headroom) {
                        slots.next();
                        let _ = ring.push_as(&extra);
                    }
                }
            }
        }
    }
}

/// What the first slot of a frame says about all of it.
const fn first_flags(packet: &Packet, headroom: u16) -> ReceiveFlags {
    let checksum = match packet.checksum {
        Checksum::Complete => ReceiveFlags::empty(),
        Checksum::Validated => ReceiveFlags::DATA_VALIDATED,
        Checksum::Partial { .. } => ReceiveFlags::CSUM_BLANK.union(ReceiveFlags::DATA_VALIDATED),
    };
    if packet.segmentation.is_some() || headroom != 0 { checksum.union(ReceiveFlags::EXTRA_INFO) } else { checksum }
}

fn segments(segmentation: Segmentation, flags: u8) -> NetifExtraInfo {
    let kind = match segmentation.network {
        Network::V4 => XEN_NETIF_GSO_TYPE_TCPV4,
        Network::V6 => XEN_NETIF_GSO_TYPE_TCPV6,
    };
    let gso = NetifExtraGso { size: segmentation.size, r#type: kind, pad: 0, features: 0 };
    extra(XEN_NETIF_EXTRA_TYPE_GSO, flags, gso.as_bytes())
}

fn extra(kind: u8, flags: u8, about: &[u8]) -> NetifExtraInfo {
    let mut u = [0; 6];
    for (to, from) in u.iter_mut().zip(about) {
        *to = *from;
    }
    NetifExtraInfo { r#type: kind, flags, u }
}

/// Puts frames into the guest's pages; says of each page whether it holds what it should.
fn put(domain: DomId, headroom: u16, frames: &[Packet], pages: &[NetifRxRequest]) -> Vec<bool> {
    let mut copies: Vec<Copy<'_>> = Vec::with_capacity(pages.len() * 2);
    let mut ends = Vec::with_capacity(pages.len());
    let mut rest = pages.iter();
    for packet in frames {
        for (index, piece) in packet.bytes.pieces(headroom).enumerate() {
            let Some(page) = rest.next() else { break };
            let offset = if index == 0 { headroom } else { 0 };
            Copy::put(&mut copies, piece, (domain, page.gref, offset));
            ends.push(copies.len());
            if index == 0 {
                // The slots behind the first tell about the frame; their pages stay as they are.
                for _ in extras(packet, headroom) {
                    rest.next();
                    ends.push(copies.len());
                }
            }
        }
    }
    let called = copies.is_empty() || grant::copy(&mut copies).is_ok();
    let mut start = 0;
    ends.into_iter()
        .map(|end| {
            let mine = copies.get(start..end).unwrap_or_default();
            start = end;
            called && mine.iter().all(|copy| copy.result().is_ok())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::{Bridge, Offload};
    use core::sync::atomic::AtomicU32;
    use oxen_abi::io::netif::{NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED, NETRXF_EXTRA_INFO, NETRXF_MORE_DATA};
    use oxen_ring::{FrontRing, Page};

    type Front<'a> = FrontRing<'a, NetifRxRequest, NetifRxResponse>;

    fn give(front: &mut Front<'_>, ids: core::ops::Range<u16>) {
        for id in ids {
            front.push(&NetifRxRequest { id, pad: 0, gref: 8 }).unwrap();
        }
        let _ = front.publish();
    }

    /// A ring's page without requests yet.
    fn blank() -> [Page; 1] {
        [[const { AtomicU32::new(0) }; 1024]]
    }

    /// Both ends of a ring, and of a bridge: the interface's port, and another's.
    struct Ends<'a> {
        front: Front<'a>,
        back: ReceiveRing<'a>,
        port: BridgePort,
        sender: BridgePort,
    }

    fn ends(page: &[Page; 1]) -> Ends<'_> {
        let bridge = Bridge::new(|| 0, usize::MAX);
        Ends {
            front: Front::new(page).unwrap(),
            back: ReceiveRing::attach(page).unwrap(),
            port: bridge.attach("a"),
            sender: bridge.attach("b"),
        }
    }

    /// A TCP frame over IPv4 with this many bytes of payload, not cut yet.
    fn long(payload: usize) -> Packet {
        let mut bytes = alloc::vec![0xff; 12];
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend((payload as u16 + 40).to_be_bytes());
        bytes.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        bytes.resize(54 + payload, 1);
        let mut packet = Packet::plain(bytes);
        packet.blank_checksum().unwrap();
        packet.segmentation = Some(Segmentation { network: Network::V4, size: 1448 });
        packet
    }

    /// On the host no grant holds: each slot says so, and all else is as for a frame that came through.
    #[test]
    fn a_long_frame_takes_a_slot_for_each_page_and_one_that_tells_of_segments() {
        let page = blank();
        let Ends { mut front, mut back, port, sender } = ends(&page);
        port.set_offload(Offload { checksum_v4: true, segmentation_v4: true, ..Offload::default() });
        sender.send(long(9000)).unwrap();
        sender.send(Packet::plain(alloc::vec![0xff; 60])).unwrap();
        let mut receiver = Receiver::new(DomId(1), true, None);
        give(&mut front, 10..13);
        assert_eq!(receiver.turn(&mut back, &port), Ok(0));
        assert_eq!(receiver.wanted(), Some(4));
        give(&mut front, 13..16);
        assert_eq!(receiver.turn(&mut back, &port), Ok(5));
        assert_eq!(receiver.wanted(), None);
        assert_eq!(back.unanswered(), 0);
        let _ = back.publish();
        let blank = NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED;
        let mut slot = || front.pop().unwrap().map(|r| (r.id, r.flags, r.status));
        assert_eq!(slot(), Some((10, blank | NETRXF_EXTRA_INFO | NETRXF_MORE_DATA, NETIF_RSP_ERROR)));
        let extra = front.pop_as::<NetifExtraInfo>().unwrap().unwrap();
        assert_eq!((extra.r#type, extra.flags), (XEN_NETIF_EXTRA_TYPE_GSO, 0));
        assert_eq!(extra.u, [0xa8, 0x05, XEN_NETIF_GSO_TYPE_TCPV4, 0, 0, 0]);
        let mut slot = || front.pop().unwrap().map(|r| (r.id, r.flags, r.status));
        assert_eq!(slot(), Some((12, NETRXF_MORE_DATA, NETIF_RSP_ERROR)));
        assert_eq!(slot(), Some((13, 0, NETIF_RSP_ERROR)));
        assert_eq!(slot(), Some((14, 0, NETIF_RSP_ERROR)));
        assert_eq!(slot(), None);
    }

    /// Linux's frontend gives a program frames behind 256 bytes, and says so while it is connected.
    #[test]
    fn before_a_frame_stays_the_room_that_the_frontend_wants() {
        let page = blank();
        let Ends { mut front, mut back, port, sender } = ends(&page);
        port.set_offload(Offload { checksum_v4: true, segmentation_v4: true, ..Offload::default() });
        let mut receiver = Receiver::new(DomId(1), true, None);
        receiver.set_headroom(256);
        sender.send(Packet::plain(alloc::vec![0xff; 3840])).unwrap();
        sender.send(Packet::plain(alloc::vec![0xff; 3841])).unwrap();
        sender.send(long(9000)).unwrap();
        give(&mut front, 10..20);
        assert_eq!(receiver.turn(&mut back, &port), Ok(10));
        let _ = back.publish();
        let slot = |front: &mut Front<'_>| front.pop().unwrap().map(|r| (r.id, r.offset, r.flags));
        let extra = |front: &mut Front<'_>| {
            let extra = front.pop_as::<NetifExtraInfo>().unwrap().unwrap();
            (extra.r#type, extra.flags, u16::from_le_bytes([extra.u[0], extra.u[1]]))
        };
        let room = (XEN_NETIF_EXTRA_TYPE_XDP, 0, 256);
        assert_eq!(slot(&mut front), Some((10, 256, NETRXF_EXTRA_INFO)));
        assert_eq!(extra(&mut front), room);
        assert_eq!(slot(&mut front), Some((12, 256, NETRXF_EXTRA_INFO | NETRXF_MORE_DATA)));
        assert_eq!(extra(&mut front), room);
        assert_eq!(slot(&mut front), Some((14, 0, 0)));
        let blank = NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED;
        assert_eq!(slot(&mut front), Some((15, 256, blank | NETRXF_EXTRA_INFO | NETRXF_MORE_DATA)));
        assert_eq!(extra(&mut front), (XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_EXTRA_FLAG_MORE, 1448));
        assert_eq!(extra(&mut front), room);
        assert_eq!(slot(&mut front), Some((18, 0, NETRXF_MORE_DATA)));
        assert_eq!(slot(&mut front), Some((19, 0, 0)));
        assert_eq!((slot(&mut front), back.unanswered()), (None, 0));
        // It may change its mind, and want more than there can be.
        for (wanted, given) in [(0, 0), (u16::MAX, MAX_HEADROOM)] {
            receiver.set_headroom(wanted);
            sender.send(Packet::plain(alloc::vec![0xff; 60])).unwrap();
            give(&mut front, 0..2);
            assert_eq!(receiver.turn(&mut back, &port), Ok(1 + usize::from(wanted != 0)));
            let _ = back.publish();
            assert_eq!(slot(&mut front).map(|(_, offset, _)| offset), Some(given));
        }
    }

    #[test]
    fn who_takes_one_page_gets_no_longer_frame() {
        let page = blank();
        let Ends { mut front, mut back, port, sender } = ends(&page);
        sender.send(Packet::plain(alloc::vec![0xff; 4097])).unwrap();
        sender.send(Packet::plain(alloc::vec![0xff; 4096])).unwrap();
        give(&mut front, 0..8);
        assert_eq!(Receiver::new(DomId(1), false, None).turn(&mut back, &port), Ok(1));
        assert_eq!(port.counts().dropped.get(), 1);
    }
}
