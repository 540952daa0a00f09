//! Where the headers of a frame are. Frames come from guests: nothing is believed that the bytes do not bear out.

use super::Sum;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_HEADER: usize = 14;

const TYPE_V4: u16 = 0x0800;
const TYPE_V6: u16 = 0x86dd;
const TYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// IPv6: headers that stand between the fixed one and the transport's, and say their length in units of 8 bytes.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
/// Tags and extension headers that are followed at most.
const MAX_HOPS: usize = 8;

/// A version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What the Internet Protocol carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, with the length of its header in bytes.
    Tcp {
        /// Options included.
        header: usize,
    },
    /// UDP.
    Udp,
}

/// Where the headers of an unfragmented TCP or UDP frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The network header's version.
    pub network: Network,
    /// Its first byte.
    pub network_at: usize,
    /// What follows it.
    pub transport: Transport,
    /// The first byte of that.
    pub transport_at: usize,
    /// The byte behind the payload, as the network header tells: short frames are filled up behind it.
    pub end: usize,
}

fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// A number in the network's byte order.
pub fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|&pair| u16::from_be_bytes(pair))
}

/// The type behind all tags, and where what it names begins.
fn ether_type(bytes: &[u8]) -> Option<(u16, usize)> {
    let mut at = ETHERNET_HEADER;
    for _ in 0..MAX_HOPS {
        let kind = half(bytes, at - 2)?;
        if !TYPES_VLAN.contains(&kind) {
            return Some((kind, at));
        }
        at += 4;
    }
    None
}

impl Headers {
    /// The version of the network header that the frame's type names.
    pub fn network_of(bytes: &[u8]) -> Option<Network> {
        match ether_type(bytes)?.0 {
            TYPE_V4 => Some(Network::V4),
            TYPE_V6 => Some(Network::V6),
            _ => None,
        }
    }

    /// Finds the headers, all of them and the payload inside the frame.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, at) = ether_type(bytes)?;
        let (network, protocol, transport_at, end) = match kind {
            TYPE_V4 => v4(bytes, at)?,
            TYPE_V6 => v6(bytes, at)?,
            _ => return None,
        };
        let (transport, header) = match protocol {
            PROTOCOL_TCP => {
                let header = usize::from(byte(bytes, transport_at + 12)? >> 4) * 4;
                (Transport::Tcp { header }, header)
            }
            PROTOCOL_UDP => (Transport::Udp, 8),
            _ => return None,
        };
        let least = if transport == Transport::Udp { 8 } else { 20 };
        let whole = header >= least && transport_at + header <= end && end <= bytes.len();
        whole.then_some(Self { network, network_at: at, transport, transport_at, end })
    }

    /// The first byte of the transport's checksum.
    pub const fn checksum_at(&self) -> usize {
        self.transport_at
            + match self.transport {
                Transport::Tcp { .. } => 16,
                Transport::Udp => 6,
            }
    }

    /// The sum over the transport's header and payload, the checksum's field included, and the pseudo header.
    pub fn sum(&self, bytes: &[u8]) -> Sum {
        let covered = bytes.get(self.transport_at..self.end).unwrap_or_default();
        self.pseudo_sum(bytes, self.end - self.transport_at).over(covered)
    }

    /// The sum of the pseudo header over `length` bytes of transport header and payload.
    pub fn pseudo_sum(&self, bytes: &[u8], length: usize) -> Sum {
        let (addresses, count) = match self.network {
            Network::V4 => (self.network_at + 12, 8),
            Network::V6 => (self.network_at + 8, 32),
        };
        let protocol = match self.transport {
            Transport::Tcp { .. } => PROTOCOL_TCP,
            Transport::Udp => PROTOCOL_UDP,
        };
        let addresses = bytes.get(addresses..addresses + count).unwrap_or_default();
        Sum::default().over(addresses).plus(protocol.into()).plus(u32::try_from(length).unwrap_or(0))
    }
}

/// Stores a number in the network's byte order; `None` outside the frame.
#[must_use]
pub fn put16(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}

/// The protocol behind the network header, where that begins, and where all ends.
fn v4(bytes: &[u8], at: usize) -> Option<(Network, u8, usize, usize)> {
    let first = byte(bytes, at)?;
    let header = usize::from(first & 0xf) * 4;
    // More fragments, or not the first: the transport's header is not whole.
    let fragment = half(bytes, at + 6)? & 0x3fff != 0;
    let protocol = byte(bytes, at + 9)?;
    if first >> 4 != 4 || header < 20 || fragment {
        return None;
    }
    let end = at + usize::from(half(bytes, at + 2)?);
    Some((Network::V4, protocol, at + header, end))
}

/// As [`v4`].
fn v6(bytes: &[u8], at: usize) -> Option<(Network, u8, usize, usize)> {
    if byte(bytes, at)? >> 4 != 6 {
        return None;
    }
    let mut protocol = byte(bytes, at + 6)?;
    let mut next = at + 40;
    let end = next + usize::from(half(bytes, at + 4)?);
    for _ in 0..MAX_HOPS {
        if !EXTENSIONS.contains(&protocol) {
            return Some((Network::V6, protocol, next, end));
        }
        protocol = byte(bytes, next)?;
        next += (usize::from(byte(bytes, next + 1)?) + 1) * 8;
    }
    None
}
