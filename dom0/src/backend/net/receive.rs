//! From the bridge to the guest: as many frames at a time as the guest has given pages for, put there with one call.

use alloc::vec::Vec;

use oxen_abi::domid::DomId;
use oxen_abi::io::netif::{
    NETIF_RSP_ERROR, NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED, NETRXF_EXTRA_INFO, NETRXF_MORE_DATA, NetifExtraGso,
    NetifExtraInfo, NetifRxRequest, NetifRxResponse, XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_GSO_TYPE_TCPV4,
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
    /// The frame that waits for pages.
    head: Option<Packet>,
    frames: Vec<Packet>,
    pages: Vec<NetifRxRequest>,
}

/// Slots that a frame takes.
fn slots(packet: &Packet) -> usize {
    packet.bytes.pieces().len() + usize::from(packet.segmentation.is_some())
}

impl Receiver {
    /// A receiver for `domain`, for which a frame may wait already.
    pub const fn new(domain: DomId, scatter: bool, head: Option<Packet>) -> Self {
        Self { domain, scatter, head, frames: Vec::new(), pages: Vec::new() }
    }

    /// Requests without which nothing can go on, if a frame waits for them.
    pub fn wanted(&self) -> Option<u32> {
        self.head.as_ref().map(|head| slots(head) as u32)
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
            let needed = slots(&packet);
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
        let good = put(self.domain, &self.frames, &self.pages);
        self.answer(ring, &good);
        self.frames.clear();
        Ok(self.pages.len())
    }

    fn answer(&self, ring: &mut ReceiveRing<'_>, good: &[bool]) {
        let mut slots = self.pages.iter().zip(good);
        for packet in &self.frames {
            let count = packet.bytes.pieces().len();
            for (index, piece) in packet.bytes.pieces().enumerate() {
                let Some((page, &good)) = slots.next() else { return };
                let more = if index + 1 == count { 0 } else { NETRXF_MORE_DATA };
                let first = if index == 0 { first_flags(packet) } else { 0 };
                let status = if good { piece.len() as i16 } else { NETIF_RSP_ERROR };
                // There is a place for each: its request was taken off the ring.
                let _ = ring.push(&NetifRxResponse { id: page.id, offset: 0, flags: first | more, status });
                if index == 0
                    && let Some(segmentation) = packet.segmentation
                {
                    slots.next();
                    let _ = ring.push_as(&extra(segmentation));
                }
            }
        }
    }
}

/// What the first slot of a frame says about all of it.
const fn first_flags(packet: &Packet) -> u16 {
    let checksum = match packet.checksum {
        Checksum::Complete => 0,
        Checksum::Validated => NETRXF_DATA_VALIDATED,
        Checksum::Partial { .. } => NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED,
    };
    if packet.segmentation.is_some() { checksum | NETRXF_EXTRA_INFO } else { checksum }
}

fn extra(segmentation: Segmentation) -> NetifExtraInfo {
    let kind = match segmentation.network {
        Network::V4 => XEN_NETIF_GSO_TYPE_TCPV4,
        Network::V6 => XEN_NETIF_GSO_TYPE_TCPV6,
    };
    let gso = NetifExtraGso { size: segmentation.size, r#type: kind, pad: 0, features: 0 };
    let mut u = [0; 6];
    for (to, from) in u.iter_mut().zip(gso.as_bytes()) {
        *to = *from;
    }
    NetifExtraInfo { r#type: XEN_NETIF_EXTRA_TYPE_GSO, flags: 0, u }
}

/// Puts frames into the guest's pages; says of each page whether it holds what it should.
fn put(domain: DomId, frames: &[Packet], pages: &[NetifRxRequest]) -> Vec<bool> {
    let mut copies: Vec<Copy<'_>> = Vec::with_capacity(pages.len() * 2);
    let mut ends = Vec::with_capacity(pages.len());
    let mut rest = pages.iter();
    for packet in frames {
        for (index, piece) in packet.bytes.pieces().enumerate() {
            let Some(page) = rest.next() else { break };
            Copy::put(&mut copies, piece, (domain, page.gref, 0));
            ends.push(copies.len());
            if index == 0 && packet.segmentation.is_some() {
                // The slot behind the first tells about segments; its page stays as it is.
                rest.next();
                ends.push(copies.len());
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
    use oxen_ring::{FrontRing, Page};

    type Front<'a> = FrontRing<'a, NetifRxRequest, NetifRxResponse>;

    fn give(front: &mut Front<'_>, ids: core::ops::Range<u16>) {
        for id in ids {
            front.push(&NetifRxRequest { id, pad: 0, gref: 8 }).unwrap();
        }
        let _ = front.publish();
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
        let page: [Page; 1] = [[const { AtomicU32::new(0) }; 1024]];
        let mut front = Front::new(&page).unwrap();
        let mut back = ReceiveRing::attach(&page).unwrap();
        let bridge = Bridge::new(|| 0, usize::MAX);
        let (port, sender) = (bridge.attach("a"), bridge.attach("b"));
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

    #[test]
    fn who_takes_one_page_gets_no_longer_frame() {
        let page: [Page; 1] = [[const { AtomicU32::new(0) }; 1024]];
        let mut front = Front::new(&page).unwrap();
        let mut back = ReceiveRing::attach(&page).unwrap();
        let bridge = Bridge::new(|| 0, usize::MAX);
        let (port, sender) = (bridge.attach("a"), bridge.attach("b"));
        sender.send(Packet::plain(alloc::vec![0xff; 4097])).unwrap();
        sender.send(Packet::plain(alloc::vec![0xff; 4096])).unwrap();
        give(&mut front, 0..8);
        assert_eq!(Receiver::new(DomId(1), false, None).turn(&mut back, &port), Ok(1));
        assert_eq!(port.counts().dropped.get(), 1);
    }
}
