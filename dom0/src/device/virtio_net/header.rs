//! What stands before each frame in a card's buffers: checksum to fill in, segmentation, number of buffers.

use crate::bridge::{Checksum, ETHERNET_HEADER, Network, Packet, Segmentation};

/// Bytes of the header, in devices of version 1.
pub(super) const HEADER: usize = 12;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const SEGMENT_NONE: u8 = 0;
const SEGMENT_TCP4: u8 = 1;
const SEGMENT_TCP6: u8 = 4;
/// The sender marks congestion in the first segment alone; how a frame is cut it does not change.
const SEGMENT_ECN: u8 = 0x80;

/// The header's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    flags: u8,
    segment: u8,
    /// Bytes of all headers of a frame to be cut: a hint.
    headers: u16,
    segment_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
    /// Buffers that the frame fills, where they are merged.
    pub(super) buffers: u16,
}

impl Header {
    /// Reads a header, which may hold anything.
    pub(super) fn parse(bytes: [u8; HEADER]) -> Self {
        let [flags, segment, words @ ..] = bytes;
        let [headers, segment_size, checksum_start, checksum_offset, buffers] = {
            let (words, _) = words.as_chunks::<2>();
            let word = |index: usize| words.get(index).map_or(0, |word| u16::from_le_bytes(*word));
            [word(0), word(1), word(2), word(3), word(4)]
        };
        Self { flags, segment, headers, segment_size, checksum_start, checksum_offset, buffers }
    }

    /// The header as the device reads it.
    pub(super) fn bytes(self) -> [u8; HEADER] {
        let [[a, b], [c, d], [e, f], [g, h], [i, j]] =
            [self.headers, self.segment_size, self.checksum_start, self.checksum_offset, self.buffers]
                .map(u16::to_le_bytes);
        [self.flags, self.segment, a, b, c, d, e, f, g, h, i, j]
    }

    /// The header of a frame that is to be sent.
    pub(super) fn of(packet: &Packet) -> Self {
        let mut header = Self::default();
        if let Checksum::Partial { start, offset } = packet.checksum {
            (header.flags, header.checksum_start, header.checksum_offset) = (NEEDS_CHECKSUM, start, offset);
        }
        if let Some(Segmentation { network, size }) = packet.segmentation {
            header.segment = match network {
                Network::V4 => SEGMENT_TCP4,
                Network::V6 => SEGMENT_TCP6,
            };
            header.segment_size = size;
            // TCP's header says its length in its thirteenth byte.
            let tcp = usize::from(header.checksum_start);
            let words = packet.bytes.get(tcp + 12).map_or(0, |byte| byte >> 4);
            header.headers = header.checksum_start.saturating_add(u16::from(words) * 4);
        }
        header
    }

    /// The frame behind the header; `None` where they do not fit together.
    pub(super) fn packet(self, bytes: alloc::vec::Vec<u8>) -> Option<Packet> {
        let checksum = if self.flags & NEEDS_CHECKSUM != 0 {
            Checksum::Partial { start: self.checksum_start, offset: self.checksum_offset }
        } else if self.flags & DATA_VALID != 0 {
            Checksum::Validated
        } else {
            Checksum::Complete
        };
        let network = match self.segment & !SEGMENT_ECN {
            SEGMENT_NONE => None,
            SEGMENT_TCP4 => Some(Network::V4),
            SEGMENT_TCP6 => Some(Network::V6),
            _ => return None,
        };
        let segmentation = network.map(|network| Segmentation { network, size: self.segment_size });
        (bytes.len() >= ETHERNET_HEADER).then_some(Packet { bytes: bytes.into(), checksum, segmentation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(segmentation: Option<Segmentation>) -> Packet {
        let mut bytes = alloc::vec![7; 3000];
        bytes[34 + 12] = 0x80;
        Packet { bytes: bytes.into(), checksum: Checksum::Partial { start: 34, offset: 16 }, segmentation }
    }

    #[test]
    fn a_frame_to_be_cut_says_how_long_its_headers_are() {
        let header = Header::of(&frame(Some(Segmentation { network: Network::V4, size: 1448 })));
        assert_eq!(header.bytes(), [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
    }

    #[test]
    fn what_is_sent_comes_back_as_the_same() {
        let cut = |network| Some(Segmentation { network, size: 1448 });
        for segmentation in [None, cut(Network::V4), cut(Network::V6)] {
            let sent = frame(segmentation);
            let header = Header::parse(Header::of(&sent).bytes());
            assert_eq!(header.packet(sent.bytes.to_vec()), Some(sent));
        }
        let valid = Header { flags: DATA_VALID, segment: SEGMENT_ECN, ..Header::default() };
        let packet = valid.packet(alloc::vec![0; 60]).unwrap();
        assert_eq!((packet.checksum, packet.segmentation), (Checksum::Validated, None));
    }

    proptest! {
        #[test]
        fn any_header_is_a_frame_that_can_be_judged_or_none(bytes: [u8; HEADER], length in 0usize..100) {
            let header = Header::parse(bytes);
            prop_assert_eq!(header.bytes(), bytes);
            if let Some(packet) = header.packet(alloc::vec![0; length]) {
                prop_assert!(length >= ETHERNET_HEADER);
                // All bytes are zero: nothing that wants a cut can be TCP.
                prop_assert!(packet.segmentation.is_none() || packet.judge().is_err());
            }
        }
    }
}
