//! Checksums of transport headers: verified, filled in, or left to whoever sends the packet out of the machine.
//!
//! A packet between guests never meets a wire, so nobody need sum it up: a sender leaves the field blank, which in
//! Xen's protocol means that it holds the sum of the pseudo header alone, and the flags say so.

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where a packet's transport header and its checksum are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Transport {
    /// First byte of the transport header.
    start: usize,
    /// First byte of the checksum.
    field: usize,
    /// The byte behind the payload.
    end: usize,
    /// The sum of the pseudo header, not folded.
    pseudo: u64,
    is_udp: bool,
    is_ipv6: bool,
}

/// Sums up 16-bit words, in the machine's byte order and not folded; an odd byte at the end counts as a low one.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let whole: u64 = words.iter().map(|word| u64::from(u32::from_le_bytes(*word))).sum();
    whole + rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// Folds a sum to 16 bits, in the machine's byte order.
const fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// Finds the transport header of a TCP or UDP packet; none in fragments and behind IPv6 extension headers.
fn locate(frame: &[u8]) -> Option<Transport> {
    let head = *frame.get(ETHERNET)?;
    let (start, end, protocol, addresses, is_ipv6) = match word(frame, 12)? {
        IPV4 if head >> 4 == 4 => {
            // More fragments, or not the first one.
            if word(frame, ETHERNET + 6)? & 0x3fff != 0 {
                return None;
            }
            let start = ETHERNET + usize::from(head & 15) * 4;
            let end = ETHERNET + usize::from(word(frame, ETHERNET + 2)?);
            (start, end, *frame.get(ETHERNET + 9)?, frame.get(ETHERNET + 12..ETHERNET + 20)?, false)
        }
        IPV6 if head >> 4 == 6 => {
            let start = ETHERNET + 40;
            let end = start + usize::from(word(frame, ETHERNET + 4)?);
            (start, end, *frame.get(ETHERNET + 6)?, frame.get(ETHERNET + 8..start)?, true)
        }
        _ => return None,
    };
    let (field, is_udp) = match protocol {
        TCP => (start + 16, false),
        UDP => (start + 6, true),
        _ => return None,
    };
    if start < ETHERNET + 20 || field + 2 > end || end > frame.len() {
        return None;
    }
    let length = (end - start) as u32;
    let pseudo = sum(addresses) + sum(&length.to_be_bytes()) + sum(&u16::from(protocol).to_be_bytes());
    Some(Transport { start, field, end, pseudo, is_udp, is_ipv6 })
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}

/// Whether the packet's checksum is right. One that has none, or none that this room knows, is.
pub fn verify(frame: &[u8]) -> bool {
    let Some(transport) = locate(frame) else { return true };
    let Some(covered) = frame.get(transport.start..transport.end) else { return true };
    let none = transport.is_udp && !transport.is_ipv6 && word(frame, transport.field) == Some(0);
    none || fold(transport.pseudo + sum(covered)) == 0xffff
}

/// Fills the packet's checksum in; nothing where it has none.
pub fn complete(frame: &mut [u8]) {
    let Some(transport) = locate(frame) else { return };
    put(frame, transport.field, 0);
    let covered = frame.get(transport.start..transport.end).map_or(0, sum);
    let value = !fold(transport.pseudo + covered);
    // Zero would mean that there is none.
    put(frame, transport.field, if value == 0 && transport.is_udp { 0xffff } else { value });
}

/// Leaves the packet's checksum to a backend; says whether it may stay blank. `ipv6` tells whether the backend fills in
/// those of IPv6 packets.
pub(super) fn leave_blank(frame: &mut [u8], ipv6: bool) -> bool {
    let Some(transport) = locate(frame) else { return false };
    if transport.is_ipv6 && !ipv6 {
        complete(frame);
        return false;
    }
    put(frame, transport.field, fold(transport.pseudo));
    true
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::vec::Vec;

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
        assert_eq!(word(&frame, 40), Some(expected));
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
                assert!(!verify(&changed) || locate(&changed).is_none(), "byte {at}");
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
        let field = !fold(sum(&frame[34..end]));
        assert_eq!(field.to_le_bytes(), whole[40..42]);
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
        frame.extend((0..32).chain([0; 20]));
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
            let found = locate(&frame).is_some();
            complete(&mut frame);
            proptest::prop_assert!(sound || found);
            proptest::prop_assert!(verify(&frame));
            leave_blank(&mut frame, true);
        }
    }
}
