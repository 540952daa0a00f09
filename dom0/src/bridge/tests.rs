//! The bridge as its ports see it, and frames that are finished or cut for a receiver.

use oxen_domu_lib::packet::{Headers, Sum};
use proptest::prelude::*;

use super::*;

const GROUP: Mac = Mac([0xff; 6]);

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

fn frame(to: Mac, from: Mac, rest: &[u8]) -> Packet {
    Packet::plain([&to.0[..], &from.0, &[0x12, 0x34], rest].concat())
}

/// A TCP frame over IP, from port 1 to port 2, its checksum left blank.
fn tcp(network: Network, payload: &[u8]) -> Packet {
    let mut bytes = [mac(2).0, mac(1).0].concat();
    let length = payload.len() as u16 + 20;
    match network {
        Network::V4 => {
            bytes.extend([0x08, 0, 0x45, 0]);
            bytes.extend((length + 20).to_be_bytes());
            bytes.extend([0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        Network::V6 => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([6, 64]);
            bytes.extend([0xfd; 16]);
            bytes.extend([0xfe; 16]);
        }
    }
    // Ports, sequence number, acknowledgement, header length, CWR ACK PSH FIN, window, checksum, urgent pointer.
    bytes.extend([0, 1, 0, 2, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0x50, 0x99, 1, 0, 0xaa, 0xaa, 0, 0]);
    bytes.extend(payload);
    let mut packet = Packet::plain(bytes);
    packet.blank_checksum().unwrap();
    packet
}

fn at16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Whether the checksums of a finished frame are right, by the rule for who verifies: everything sums up to zero.
fn sums_up(packet: &Packet) -> bool {
    let headers = Headers::parse(&packet.bytes).unwrap();
    let rest = &packet.bytes[headers.transport_at..];
    let transport = headers.pseudo_sum(&packet.bytes, rest.len()).over(rest).result() == 0;
    let network = &packet.bytes[headers.network_at..headers.transport_at];
    transport && (headers.network == Network::V6 || Sum::default().over(network).result() == 0)
}

#[test]
fn an_interface_that_comes_is_announced_to_the_network_by_its_own_address_alone() {
    let bridge = Bridge::new(|| 0, usize::MAX);
    let network = bridge.attach("eth0");
    let [guest, other] = [1, 2].map(|n| bridge.attach_interface("vif", mac(n)));
    guest.announce(mac(1));
    let frame = network.try_receive().unwrap();
    assert_eq!((frame.destination(), frame.source(), frame.bytes.len()), (GROUP, mac(1), 60));
    assert_eq!(at16(&frame.bytes, 12), 0x8035, "reverse ARP");
    assert_eq!((at16(&frame.bytes, 20), &frame.bytes[22..28]), (3, &mac(1).0[..]));
    other.announce(mac(1));
    assert!(network.try_receive().is_none(), "another one's address");
}

#[test]
fn what_is_for_all_goes_to_all_but_its_sender() {
    let bridge = Bridge::new(|| 0, usize::MAX);
    let ports: Vec<_> = ["a", "b", "c"].iter().map(|name| bridge.attach(name)).collect();
    ports[0].send(frame(GROUP, mac(1), b"x")).unwrap();
    assert!(ports[0].try_receive().is_none());
    assert!(ports[1].try_receive().is_some() && ports[2].try_receive().is_some());
}

#[test]
fn what_is_for_one_goes_to_where_it_was_seen() {
    let bridge = Bridge::new(|| 0, usize::MAX);
    let [a, b, c] = ["a", "b", "c"].map(|name| bridge.attach(name));
    b.send(frame(GROUP, mac(2), b"here")).unwrap();
    assert!(a.try_receive().is_some() && c.try_receive().is_some());
    a.send(frame(mac(2), mac(1), b"x")).unwrap();
    assert_eq!(b.try_receive().unwrap(), frame(mac(2), mac(1), b"x"));
    assert!(c.try_receive().is_none());
    // To itself, or to a neighbour at the same port: nothing comes back.
    a.send(frame(mac(1), mac(3), b"x")).unwrap();
    assert!([&a, &b, &c].iter().all(|port| port.try_receive().is_none()));
    // Who leaves is forgotten: it may come back elsewhere.
    drop(b);
    a.send(frame(mac(2), mac(1), b"x")).unwrap();
    assert!(c.try_receive().is_some());
    let left = bridge.ports();
    assert_eq!(left.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!((left[0].sent, left[1].received), ((3, 45), (2, 33)));
    assert_eq!(bridge.addresses().iter().map(|seen| seen.address).collect::<Vec<_>>(), [mac(1), mac(3)]);
}

#[test]
fn no_guest_gets_what_is_for_another_by_its_address() {
    let bridge = Bridge::new(|| 0, usize::MAX);
    let [victim, thief] = [1, 2].map(|n| bridge.attach_interface("vif", mac(n)));
    let network = bridge.attach("eth0");
    let nothing = || [&victim, &thief, &network].iter().all(|port| port.try_receive().is_none());
    // Before the victim has spoken, and after.
    for round in 1..=2 {
        assert_eq!(thief.send(frame(GROUP, mac(1), b"I am 1")), Err(Malformed));
        assert!(nothing());
        assert_eq!(thief.counts().malformed.get(), round);
        network.send(frame(mac(1), mac(9), b"for 1")).unwrap();
        assert!(victim.try_receive().is_some() && nothing());
        victim.send(frame(mac(9), mac(1), b"from 1")).unwrap();
        assert!(network.try_receive().is_some() && nothing());
    }
    // The gateway's address is no guest's.
    assert_eq!(thief.send(frame(GROUP, mac(9), b"I am the gateway")), Err(Malformed));
    victim.send(frame(mac(9), mac(1), b"for the gateway")).unwrap();
    assert!(network.try_receive().is_some() && nothing());
    // Behind a guest there may be others, which may move.
    for port in [&thief, &victim] {
        port.send(frame(mac(9), mac(20), b"nested")).unwrap();
        network.send(frame(mac(20), mac(9), b"for the nested")).unwrap();
        assert!(port.try_receive().is_some() && network.try_receive().is_some() && nothing());
    }
}

#[test]
fn a_port_that_takes_nothing_holds_a_bounded_queue_and_nobody_up() {
    let bridge = Bridge::new(|| 0, usize::MAX);
    let [a, slow, quick] = ["a", "slow", "quick"].map(|name| bridge.attach(name));
    for _ in 0..2 * MAX_FRAMES {
        a.send(frame(GROUP, mac(1), &[0; 100])).unwrap();
        assert!(quick.try_receive().is_some());
    }
    assert_eq!(slow.counts().dropped.get(), MAX_FRAMES as u64);
    for _ in 0..MAX_FRAMES {
        assert!(slow.try_receive().is_some());
    }
    assert!(slow.try_receive().is_none());
    let long = vec![0; 60_000];
    (0..100).for_each(|_| a.send(frame(GROUP, mac(1), &long)).unwrap());
    let waiting = core::iter::from_fn(|| slow.try_receive()).map(|packet| packet.bytes.len()).sum::<usize>();
    assert!(waiting <= MAX_BYTES && waiting > MAX_BYTES - 61_000);
}

#[test]
fn many_ports_share_what_may_wait() {
    let bridge = Bridge::new(|| 0, 8 << 20);
    let ports: Vec<_> = (0..16).map(|_| bridge.attach("a")).collect();
    (0..100).for_each(|_| ports[0].send(frame(GROUP, mac(1), &vec![0; 60_000])).unwrap());
    for port in &ports[1..] {
        let waiting = core::iter::from_fn(|| port.try_receive()).map(|packet| packet.bytes.len()).sum::<usize>();
        assert!(waiting <= 512 << 10 && waiting > (512 << 10) - 61_000);
    }
}

#[test]
fn a_blank_checksum_is_filled_in_for_who_cannot() {
    for network in [Network::V4, Network::V6] {
        for length in [0, 1, 2, 999] {
            let bridge = Bridge::new(|| 0, usize::MAX);
            let [a, b] = ["a", "b"].map(|name| bridge.attach(name));
            let packet = tcp(network, &vec![7; length]);
            b.set_offload(Offload { checksum_v4: true, checksum_v6: true, ..Offload::default() });
            a.send(packet.clone()).unwrap();
            assert_eq!(b.try_receive().unwrap(), packet, "left as it is for who can");
            b.set_offload(Offload { checksum_v4: network == Network::V6, ..Offload::default() });
            a.send(packet).unwrap();
            let finished = b.try_receive().unwrap();
            assert_eq!(finished.checksum, Checksum::Validated);
            let headers = Headers::parse(&finished.bytes).unwrap();
            let rest = &finished.bytes[headers.transport_at..];
            assert_eq!(headers.pseudo_sum(&finished.bytes, rest.len()).over(rest).result(), 0);
        }
    }
}

#[test]
fn a_checksum_of_zero_is_written_as_all_ones() {
    let mut packet = frame(mac(2), mac(1), &[0xff, 0xff, 0, 0]);
    packet.checksum = Checksum::Partial { start: 14, offset: 2 };
    packet.finish_checksum();
    assert_eq!(at16(&packet.bytes, 16), 0xffff);
}

#[test]
fn a_long_frame_comes_whole_or_in_segments() {
    for (network, fixed) in [(Network::V4, 54), (Network::V6, 74)] {
        let payload: Vec<u8> = (0..60_000_u32).map(|n| (n * 7) as u8).collect();
        let mut packet = tcp(network, &payload);
        packet.segmentation = Some(Segmentation { network, size: 1448 });
        let bridge = Bridge::new(|| 0, usize::MAX);
        let [a, b] = ["a", "b"].map(|name| bridge.attach(name));
        b.set_offload(Offload { checksum_v4: true, checksum_v6: true, segmentation_v4: true, segmentation_v6: true });
        a.send(packet.clone()).unwrap();
        assert_eq!(b.try_receive().unwrap(), packet);
        b.set_offload(Offload::default());
        a.send(packet).unwrap();
        let segments: Vec<_> = core::iter::from_fn(|| b.try_receive()).collect();
        assert_eq!(segments.len(), 60_000_usize.div_ceil(1448));
        let mut joined = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            assert!(sums_up(segment), "{network:?} {index}");
            let (bytes, transport) = (&segment.bytes, fixed - 20);
            let sequence = u32::from_be_bytes(bytes[transport + 4..transport + 8].try_into().unwrap());
            assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(joined.len() as u32));
            let last = index + 1 == segments.len();
            let flags = if last {
                0x19
            } else if index == 0 {
                0x90
            } else {
                0x10
            };
            assert_eq!(bytes[transport + 13], flags);
            match network {
                Network::V4 => {
                    assert_eq!(usize::from(at16(bytes, 16)), bytes.len() - 14);
                    assert_eq!(at16(bytes, 18), 0xffff_u16.wrapping_add(index as u16));
                }
                Network::V6 => assert_eq!(usize::from(at16(bytes, 18)), bytes.len() - 54),
            }
            joined.extend_from_slice(&bytes[fixed..]);
        }
        assert_eq!(joined, payload);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let bridge = Bridge::new(|| 0, usize::MAX);
    let port = bridge.attach("a");
    let good = tcp(Network::V4, &[0; 100]);
    let size = 10;
    let mut tiny = tcp(Network::V4, &[0; 60_000]);
    tiny.segmentation = Some(Segmentation { network: Network::V4, size: 20 });
    let wrong = [
        tiny,
        Packet::plain(vec![0; ETHERNET_HEADER - 1]),
        Packet::plain(vec![0; LONGEST + 1]),
        Packet { checksum: Checksum::Partial { start: 0, offset: 0 }, ..good.clone() },
        Packet { checksum: Checksum::Partial { start: 150, offset: 4 }, ..good.clone() },
        Packet { checksum: Checksum::Partial { start: u16::MAX, offset: u16::MAX }, ..good.clone() },
        Packet { segmentation: Some(Segmentation { network: Network::V4, size: 0 }), ..good.clone() },
        Packet { segmentation: Some(Segmentation { network: Network::V6, size }), ..good.clone() },
        Packet {
            segmentation: Some(Segmentation { network: Network::V4, size }),
            checksum: Checksum::Complete,
            ..good.clone()
        },
        Packet {
            segmentation: Some(Segmentation { network: Network::V4, size }),
            checksum: Checksum::Partial { start: 34, offset: 16 },
            ..frame(mac(1), mac(2), &[0; 100])
        },
    ];
    let count = wrong.len() as u64;
    for packet in wrong {
        assert_eq!(port.send(packet), Err(Malformed));
    }
    assert_eq!(port.counts().malformed.get(), count);
    assert_eq!(port.send(good), Ok(()));
}

proptest! {
    /// Whatever bytes come, with whatever wishes: nothing panics, and what comes out is finished.
    #[test]
    fn no_frame_is_too_strange(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        real in any::<bool>(),
        blank in any::<bool>(),
        (start, offset) in (0..320_u16, 0..40_u16),
        size in proptest::option::of(0..40_u16),
        v6 in any::<bool>(),
    ) {
        let network = if v6 { Network::V6 } else { Network::V4 };
        if real {
            // Headers that are nearly right reach further.
            for (to, from) in bytes.iter_mut().zip(tcp(network, &[]).bytes.to_vec()) {
                if *to % 8 != 0 {
                    *to = from;
                }
            }
        }
        let mut packet = Packet::plain(bytes);
        packet.checksum = Checksum::Partial { start, offset };
        packet.segmentation = size.map(|size| Segmentation { network, size });
        if blank {
            let _ = packet.blank_checksum();
        }
        if packet.judge().is_ok() {
            let bound = packet.bytes.len();
            for piece in packet.convert(Offload::default()) {
                prop_assert!(piece.suits(Offload::default()));
                prop_assert!(piece.bytes.len() <= bound);
            }
        }
    }
}
