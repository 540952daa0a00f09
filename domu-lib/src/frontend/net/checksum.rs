//! Checksums of transport headers: verified, filled in, or left to whoever sends the packet out of the machine.
//!
//! A packet between guests never meets a wire, so nobody need sum it up: a sender leaves the field blank, which in
//! Xen's protocol means that it holds the sum of the pseudo header alone, and the flags say so.
//!
//! # Example
//!
//! ```
//! use oxen_domu_lib::frontend::net::checksum;
//!
//! // UDP over IPv4 from 10.0.0.1 to 10.0.0.2, four bytes of data, no checksum yet.
//! let mut frame = vec![0; 14];
//! frame[12] = 8;
//! frame.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
//! frame.extend([0, 7, 0, 7, 0, 12, 0, 0, 1, 2, 3, 4]);
//! checksum::complete(&mut frame);
//! assert!(checksum::verify(&frame));
//! ```

use crate::packet::{Headers, Network, Transport, half, put16};

/// Whether the packet's checksum is right. One that has none, or none that this room knows, is.
pub fn verify(frame: &[u8]) -> bool {
    let Some(headers) = Headers::parse(frame) else { return true };
    let may_lack = (headers.network, headers.transport) == (Network::V4, Transport::Udp);
    may_lack && half(frame, headers.checksum_at()) == Some(0) || headers.sum(frame).result() == 0
}

/// Fills the packet's checksum in; nothing where it has none.
pub fn complete(frame: &mut [u8]) {
    let Some(headers) = Headers::parse(frame) else { return };
    let _ = put16(frame, headers.checksum_at(), 0);
    let sum = headers.sum(frame).result();
    // Zero would say "none" in UDP, and is the same number.
    let _ = put16(frame, headers.checksum_at(), if sum == 0 { 0xffff } else { sum });
}

/// Leaves the packet's checksum to a backend; returns whether it may stay blank. `ipv6` tells whether the backend fills
/// in those of IPv6 packets.
pub(super) fn leave_blank(frame: &mut [u8], ipv6: bool) -> bool {
    let Some(headers) = Headers::parse(frame) else { return false };
    if headers.network == Network::V6 && !ipv6 {
        complete(frame);
        return false;
    }
    let pseudo = headers.pseudo_sum(frame, headers.end - headers.transport_at).not_inverted();
    put16(frame, headers.checksum_at(), pseudo).is_some()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::packet::Sum;
    use std::vec::Vec;

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    /// A UDP packet over IPv4, its checksum blank, with bytes behind its end as short frames have.
    pub(crate) fn udp(payload: &[u8]) -> Vec<u8> {
        packet(UDP, &[&[0x12, 0x34, 0, 80], &(8 + payload.len() as u16).to_be_bytes()[..], &[0, 0], payload].concat())
    }

    fn packet(protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut frame = std::vec![0u8; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + transport.len() as u16).to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        frame.extend(transport);
        frame.extend([0xaa; 3]);
        frame
    }

    #[test]
    fn a_known_packet_sums_up() {
        // Summed by hand: the pseudo header, then the packet.
        let mut frame = udp(&[0, 1, 2, 3, 4]);
        complete(&mut frame);
        let expected = !{
            let words: [u32; 16] =
                [0x0a00, 0x020f, 0x0a00, 0x0202, 17, 13, 0x1234, 80, 13, 0, 0x0001, 0x0203, 0x0400, 0, 0, 0];
            let total: u32 = words.iter().sum();
            (total & 0xffff) + (total >> 16)
        } as u16;
        assert_eq!(half(&frame, 40), Some(expected));
        assert!(verify(&frame));
    }

    #[test]
    fn a_changed_bit_is_noticed() {
        for payload in [&[][..], &[1], &[1, 2, 3, 4, 5, 6, 7]] {
            let mut frame = udp(payload);
            complete(&mut frame);
            // From the source address to the payload's end; the bits of the field are among them.
            for at in 26..frame.len() - 3 {
                let mut changed = frame.clone();
                changed[at] ^= 0x10;
                // A length that no longer fits has no packet to verify.
                assert!(!verify(&changed) || Headers::parse(&changed).is_none(), "byte {at}");
            }
        }
    }

    #[test]
    fn what_was_left_blank_is_completed_by_summing_up_the_rest() {
        let mut frame = udp(b"left to the backend");
        assert!(leave_blank(&mut frame, false));
        let mut whole = frame.clone();
        complete(&mut whole);
        // What a backend does: it sums up from the transport header on, the field included.
        let end = frame.len() - 3;
        let field = Sum::default().over(&frame[34..end]).result();
        assert_eq!(Some(field), half(&whole, 40));
    }

    #[test]
    fn fragments_and_other_protocols_are_left_alone() {
        let mut fragment = udp(b"part");
        fragment[20] |= 0x20;
        let before = fragment.clone();
        assert!(!leave_blank(&mut fragment, true) && verify(&fragment));
        complete(&mut fragment);
        assert_eq!(fragment, before);
        assert!(!leave_blank(&mut packet(1, &[8, 0, 0, 0, 0, 0, 0, 0]), true));
        assert!(!leave_blank(&mut packet(TCP, &[0; 8]), true), "too short for its field");
    }

    #[test]
    fn ipv6_is_filled_in_where_the_backend_does_not() {
        let mut frame = std::vec![0u8; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, TCP, 64]);
        frame.extend((0..32).chain([0; 12]).chain([0x50]).chain([0; 7]));
        let mut blank = frame.clone();
        assert!(leave_blank(&mut blank, true) && !verify(&blank));
        assert!(!leave_blank(&mut frame, false) && verify(&frame));
    }

    proptest::proptest! {
        #[test]
        fn no_packet_breaks_the_search(frame: Vec<u8>, kind in 0..3usize) {
            let mut frame = frame;
            if let (Some(field), Some(kind)) = (frame.get_mut(12..14), [[8, 0], [0x86, 0xdd]].get(kind)) {
                field.copy_from_slice(kind);
            }
            let sound = verify(&frame);
            let found = Headers::parse(&frame).is_some();
            complete(&mut frame);
            proptest::prop_assert!(sound || found);
            proptest::prop_assert!(verify(&frame));
            leave_blank(&mut frame, true);
        }
    }
}
