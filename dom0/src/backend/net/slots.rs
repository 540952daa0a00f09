//! Frames as a guest describes them: chains of slots on its transmit ring, judged whole before anything is done.

use alloc::vec::Vec;

use oxen_abi::io::netif::{
    NetifExtraGso, NetifExtraInfo, NetifTxRequest, NetifTxResponse, TransmitFlags, XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_EXTRA_TYPE_HASH, XEN_NETIF_EXTRA_TYPE_MAX, XEN_NETIF_EXTRA_TYPE_NONE,
    XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6, XEN_NETIF_NR_SLOTS_MIN,
};
use oxen_domu_lib::memory::PAGE_SIZE;
use oxen_ring::{BackRing, Overrun};
use zerocopy::FromBytes;

use crate::bridge::{ETHERNET_HEADER, Network, Segmentation};

/// The transmit ring as the frontend made it.
pub type TransmitRing<'a> = BackRing<'a, NetifTxRequest, NetifTxResponse>;

/// Slots of one frame that are sent.
const MAX_SLOTS: usize = XEN_NETIF_NR_SLOTS_MIN as usize;
/// Slots of one frame with which a frontend is merely wrong; one that chains more is hostile.
const ENDURED_SLOTS: usize = MAX_SLOTS + 2;
/// Extra slots of one frame: one of each type.
const MAX_EXTRAS: usize = XEN_NETIF_EXTRA_TYPE_MAX as usize - 1;

/// What makes a ring impossible to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// More requests than there are slots.
    Overrun,
    /// A frame goes on behind the last request.
    Unfinished,
    /// A frame has more slots than any frontend makes.
    Endless,
    /// An extra slot is of no type, or there are too many of them.
    Extras,
}

impl From<Overrun> for ProtocolError {
    fn from(_: Overrun) -> Self {
        Self::Overrun
    }
}

/// What a frontend says about the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is there.
    Complete,
    /// It is there and right.
    Validated,
    /// It is left out.
    Blank,
}

/// A frame that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes of all pieces.
    pub length: usize,
    /// About the checksum.
    pub checksum: Claim,
    /// How to cut it.
    pub segmentation: Option<Segmentation>,
}

/// The slots of one frame, taken off the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// How many of them are pieces; each gets an answer with its id.
    pub pieces: usize,
    /// How many are not; they get an empty answer behind the first piece's.
    pub extras: usize,
    /// What they make up, if that is anything.
    pub frame: Option<Frame>,
}

/// Takes the oldest frame's slots off the ring and adds its pieces to `pieces`, the first with its own size instead of
/// the whole frame's.
///
/// # Errors
/// [`ProtocolError`]: the ring makes no sense from here on.
pub fn take(ring: &mut TransmitRing<'_>, pieces: &mut Vec<NetifTxRequest>) -> Result<Option<Chain>, ProtocolError> {
    let Some(first) = ring.pop()? else { return Ok(None) };
    let start = pieces.len();
    pieces.push(first);
    let mut flags = TransmitFlags::from_bits_retain(first.flags);
    let extras = if flags.contains(TransmitFlags::EXTRA_INFO) { Extras::take(ring)? } else { Extras::default() };
    while flags.contains(TransmitFlags::MORE_DATA) {
        if pieces.len() - start == ENDURED_SLOTS {
            return Err(ProtocolError::Endless);
        }
        let next = ring.pop()?.ok_or(ProtocolError::Unfinished)?;
        flags = TransmitFlags::from_bits_retain(next.flags);
        pieces.push(next);
    }
    let mine = pieces.get_mut(start..).unwrap_or_default();
    let frame = judge(mine, &extras);
    Ok(Some(Chain { pieces: mine.len(), extras: extras.count, frame }))
}

/// What the slots of a frame make up. The size of the first is made its own.
fn judge(pieces: &mut [NetifTxRequest], extras: &Extras) -> Option<Frame> {
    let count = pieces.len();
    let (first, rest) = pieces.split_first_mut()?;
    let length = usize::from(first.size);
    let others: usize = rest.iter().map(|piece| usize::from(piece.size)).sum();
    let own = length.checked_sub(others)?;
    first.size = u16::try_from(own).ok()?;
    let flags = TransmitFlags::from_bits_retain(first.flags);
    let inside = |piece: &NetifTxRequest| usize::from(piece.offset) + usize::from(piece.size) <= PAGE_SIZE;
    let good = length >= ETHERNET_HEADER && count <= MAX_SLOTS && pieces.iter().all(inside) && !extras.refused;
    let segmentation = match extras.segmentation {
        Some(gso) => Some(segmentation(gso)?),
        None => None,
    };
    // A frame that is to be cut has no checksum of its own yet, whatever its flags say.
    let checksum = if flags.contains(TransmitFlags::CSUM_BLANK) || segmentation.is_some() {
        Claim::Blank
    } else if flags.contains(TransmitFlags::DATA_VALIDATED) {
        Claim::Validated
    } else {
        Claim::Complete
    };
    good.then_some(Frame { length, checksum, segmentation })
}

fn segmentation(gso: NetifExtraGso) -> Option<Segmentation> {
    let network = match gso.r#type {
        XEN_NETIF_GSO_TYPE_TCPV4 => Network::V4,
        XEN_NETIF_GSO_TYPE_TCPV6 => Network::V6,
        _ => return None,
    };
    (gso.size != 0).then_some(Segmentation { network, size: gso.size })
}

/// What extra slots say.
#[derive(Default)]
struct Extras {
    count: usize,
    segmentation: Option<NetifExtraGso>,
    /// There is one whose feature is not offered.
    refused: bool,
}

impl Extras {
    fn take(ring: &mut TransmitRing<'_>) -> Result<Self, ProtocolError> {
        let mut extras = Self::default();
        loop {
            let extra: NetifExtraInfo = ring.pop_as()?.ok_or(ProtocolError::Unfinished)?;
            extras.count += 1;
            match extra.r#type {
                XEN_NETIF_EXTRA_TYPE_GSO => {
                    extras.segmentation = NetifExtraGso::read_from_bytes(&extra.u).ok();
                }
                // Of no use here, and no harm.
                XEN_NETIF_EXTRA_TYPE_HASH => {}
                XEN_NETIF_EXTRA_TYPE_NONE | XEN_NETIF_EXTRA_TYPE_MAX.. => return Err(ProtocolError::Extras),
                _ => extras.refused = true,
            }
            if extra.flags & XEN_NETIF_EXTRA_FLAG_MORE == 0 {
                return Ok(extras);
            }
            if extras.count == MAX_EXTRAS {
                return Err(ProtocolError::Extras);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU32;
    use oxen_abi::io::netif::{
        NETTXF_CSUM_BLANK, NETTXF_DATA_VALIDATED, NETTXF_EXTRA_INFO, NETTXF_MORE_DATA, XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
    };
    use oxen_ring::{FrontRing, Page};
    use proptest::prelude::*;

    /// One slot, of either layout.
    #[derive(Clone, Copy, Debug)]
    enum Slot {
        Piece(NetifTxRequest),
        Extra(NetifExtraInfo),
    }

    fn piece(size: u16, offset: u16, flags: u16) -> Slot {
        Slot::Piece(NetifTxRequest { gref: 9, offset, flags, id: 3, size })
    }

    fn extra(r#type: u8, flags: u8, u: [u8; 6]) -> Slot {
        Slot::Extra(NetifExtraInfo { r#type, flags, u })
    }

    /// Puts slots on a ring; returns what is taken off it, and the first pieces' sizes.
    fn run(slots: &[Slot]) -> Result<(Vec<Chain>, Vec<u16>), ProtocolError> {
        let page: [Page; 1] = [[const { AtomicU32::new(0) }; 1024]];
        let mut front = FrontRing::<NetifTxRequest, NetifTxResponse>::new(&page).unwrap();
        for slot in slots {
            match slot {
                Slot::Piece(piece) => _ = front.push(piece).unwrap(),
                Slot::Extra(extra) => _ = front.push_as(extra).unwrap(),
            }
        }
        let _ = front.publish();
        let mut back = TransmitRing::attach(&page).unwrap();
        let (mut chains, mut pieces) = (Vec::new(), Vec::new());
        while let Some(chain) = take(&mut back, &mut pieces)? {
            chains.push(chain);
        }
        let taken: usize = chains.iter().map(|chain| chain.pieces + chain.extras).sum();
        assert_eq!(back.unanswered() as usize, taken, "every slot gets its answer");
        Ok((chains, pieces.iter().map(|piece| piece.size).collect()))
    }

    fn only(slots: &[Slot]) -> Option<Frame> {
        let (chains, _) = run(slots).unwrap();
        assert_eq!(chains.len(), 1);
        chains[0].frame
    }

    const MORE: u16 = NETTXF_MORE_DATA;

    #[test]
    fn a_frame_of_several_pieces_is_one() {
        let slots = [piece(9000, 96, MORE), piece(4096, 0, MORE), piece(1000, 3000, 0), piece(60, 4036, 0)];
        let (chains, sizes) = run(&slots).unwrap();
        assert_eq!(sizes, [3904, 4096, 1000, 60]);
        assert_eq!(chains.iter().map(|chain| chain.frame.unwrap().length).collect::<Vec<_>>(), [9000, 60]);
    }

    #[test]
    fn flags_tell_of_the_checksum() {
        let claim = |flags| only(&[piece(60, 0, flags)]).unwrap().checksum;
        assert_eq!(claim(0), Claim::Complete);
        assert_eq!(claim(NETTXF_DATA_VALIDATED), Claim::Validated);
        assert_eq!(claim(NETTXF_DATA_VALIDATED | NETTXF_CSUM_BLANK), Claim::Blank);
    }

    #[test]
    fn an_extra_slot_tells_how_to_cut() {
        let gso = |size: u16, kind| {
            let [low, high] = size.to_le_bytes();
            extra(XEN_NETIF_EXTRA_TYPE_GSO, 0, [low, high, kind, 0, 0, 0])
        };
        let frame = |slot| only(&[piece(6000, 0, MORE | NETTXF_EXTRA_INFO), slot, piece(2000, 0, 0)]);
        let good = frame(gso(1448, XEN_NETIF_GSO_TYPE_TCPV6)).unwrap();
        assert_eq!(good.segmentation, Some(Segmentation { network: Network::V6, size: 1448 }));
        assert_eq!(good.checksum, Claim::Blank);
        assert_eq!(frame(gso(0, XEN_NETIF_GSO_TYPE_TCPV4)), None);
        assert_eq!(frame(gso(1448, 3)), None);
        assert_eq!(frame(extra(XEN_NETIF_EXTRA_TYPE_MCAST_ADD, 0, [0; 6])), None);
        assert_eq!(frame(extra(XEN_NETIF_EXTRA_TYPE_HASH, 0, [0; 6])).unwrap().segmentation, None);
    }

    #[test]
    fn what_cannot_be_a_frame_is_refused_alone() {
        let good = piece(60, 0, 0);
        for bad in [
            &[piece(13, 0, 0)][..],
            &[piece(60, 4037, 0)],
            &[piece(60, 0xffff, 0)],
            &[piece(4097, 0, 0)],
            &[piece(0xffff, 0xffff, 0)],
            &[piece(100, 0, MORE), piece(101, 0, 0)],
            &[piece(5000, 0, MORE), piece(1000, 3097, 0)],
            &[piece(5000, 97, MORE), piece(1000, 0, 0)],
        ] {
            let (chains, _) = run(&[bad, &[good]].concat()).unwrap();
            assert_eq!(chains.iter().map(|chain| chain.frame.is_some()).collect::<Vec<_>>(), [false, true], "{bad:?}");
        }
        let chain = |count: usize| [vec![piece(1000, 0, MORE); count - 1], vec![piece(10, 0, 0)]].concat();
        assert!(only(&chain(MAX_SLOTS)).is_none(), "the sizes do not add up");
        let fits = |count: usize| {
            let mut slots = vec![piece(10, 0, MORE); count - 1];
            slots.push(piece(10, 0, 0));
            slots[0] = piece(1000, 0, MORE);
            only(&slots)
        };
        assert!(fits(MAX_SLOTS).is_some());
        assert!(fits(MAX_SLOTS + 1).is_none() && fits(ENDURED_SLOTS).is_none());
    }

    #[test]
    fn a_ring_that_makes_no_sense_is_given_up() {
        assert_eq!(run(&[piece(60, 0, MORE)]), Err(ProtocolError::Unfinished));
        assert_eq!(run(&[piece(60, 0, NETTXF_EXTRA_INFO)]), Err(ProtocolError::Unfinished));
        assert_eq!(run(&vec![piece(60, 0, MORE); ENDURED_SLOTS + 1]), Err(ProtocolError::Endless));
        let with = |slot| run(&[piece(60, 0, NETTXF_EXTRA_INFO), slot]);
        assert_eq!(with(extra(0, 0, [0; 6])), Err(ProtocolError::Extras));
        assert_eq!(with(extra(XEN_NETIF_EXTRA_TYPE_MAX, 0, [0; 6])), Err(ProtocolError::Extras));
        let more = extra(XEN_NETIF_EXTRA_TYPE_HASH, XEN_NETIF_EXTRA_FLAG_MORE, [0; 6]);
        assert_eq!(with(more), Err(ProtocolError::Unfinished));
        let many = [vec![piece(60, 0, NETTXF_EXTRA_INFO)], vec![more; 50]].concat();
        assert_eq!(run(&many), Err(ProtocolError::Extras));
    }

    fn any_slot() -> impl Strategy<Value = Slot> {
        let small = prop_oneof![0..8_u16, Just(60), Just(4096), Just(5000), any::<u16>()];
        let a_piece = (small.clone(), small, 0..16_u16).prop_map(|(size, offset, flags)| piece(size, offset, flags));
        let an_extra = (0..7_u8, 0..2_u8, any::<[u8; 6]>()).prop_map(|(kind, flags, u)| extra(kind, flags, u));
        prop_oneof![4 => a_piece, 1 => an_extra]
    }

    proptest! {
        #[test]
        fn whatever_is_let_through_lies_in_its_pages(slots in proptest::collection::vec(any_slot(), 0..80)) {
            let page: [Page; 1] = [[const { AtomicU32::new(0) }; 1024]];
            let mut front = FrontRing::<NetifTxRequest, NetifTxResponse>::new(&page).unwrap();
            for slot in &slots {
                match slot {
                    Slot::Piece(piece) => _ = front.push(piece).unwrap(),
                    Slot::Extra(extra) => _ = front.push_as(extra).unwrap(),
                }
            }
            let _ = front.publish();
            let mut back = TransmitRing::attach(&page).unwrap();
            let mut pieces = Vec::new();
            loop {
                let start = pieces.len();
                let Ok(Some(chain)) = take(&mut back, &mut pieces) else { break };
                prop_assert_eq!(pieces.len() - start, chain.pieces);
                if let Some(frame) = chain.frame {
                    let mine = &pieces[start..];
                    prop_assert!(mine.len() <= MAX_SLOTS);
                    prop_assert!(mine.iter().all(|p| usize::from(p.offset) + usize::from(p.size) <= PAGE_SIZE));
                    prop_assert_eq!(mine.iter().map(|p| usize::from(p.size)).sum::<usize>(), frame.length);
                    prop_assert!(frame.length >= ETHERNET_HEADER);
                }
            }
        }
    }
}
