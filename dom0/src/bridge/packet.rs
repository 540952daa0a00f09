//! One Ethernet frame on its way, with what is left to be done to it: a checksum to fill in, a cut into segments.

use alloc::vec::Vec;

use super::buffer::Buffer;

use oxen_domu_lib::packet::{ETHERNET_HEADER, Headers, Network, Sum, Transport, put16};

/// Longest frame that is carried: what the 16-bit lengths of network frontends can say.
pub const LONGEST: usize = 0xffff;
/// Segments that one frame is cut into at most: those of TCP's least segment size. More only cost time.
const MAX_SEGMENTS: usize = 2048;

/// The address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// As a number, which is compared faster than six bytes are.
    const fn number(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// Reads the usual notation: six pairs of hexadecimal digits, parted by colons.
    pub fn parse(text: &str) -> Option<Self> {
        let mut pairs = text.split(':');
        let mut bytes = [0; 6];
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        pairs.next().is_none().then_some(Self(bytes))
    }

    /// Whether it means a group of interfaces, or all of them.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl Ord for Mac {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.number().cmp(&other.number())
    }
}

impl PartialOrd for Mac {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl core::fmt::Debug for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// What is known of the checksum of the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// It is filled in and not verified.
    Complete,
    /// It is there and right.
    Validated,
    /// Whoever sends the frame on has to sum everything from `start` and store the result `offset` bytes behind it; the
    /// field holds the sum of the pseudo header.
    Partial {
        /// First byte of the transport header.
        start: u16,
        /// Where its checksum is, from `start`.
        offset: u16,
    },
}

/// How a frame that is longer than the network's is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// What it carries.
    pub network: Network,
    /// Bytes of payload of each segment but the last.
    pub size: u16,
}

/// What a receiver can take; all else is done for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Frames over IPv4 without their checksum.
    pub checksum_v4: bool,
    /// Frames over IPv6 without their checksum.
    pub checksum_v6: bool,
    /// TCP over IPv4 that is not cut yet.
    pub segmentation_v4: bool,
    /// TCP over IPv6 that is not cut yet.
    pub segmentation_v6: bool,
}

impl Offload {
    /// Whether frames of this network may come uncut.
    pub const fn segmentation(self, network: Network) -> bool {
        match network {
            Network::V4 => self.segmentation_v4,
            Network::V6 => self.segmentation_v6,
        }
    }

    /// Whether frames of this network may come without their checksum.
    pub const fn checksum(self, network: Network) -> bool {
        match network {
            Network::V4 => self.checksum_v4,
            Network::V6 => self.checksum_v6,
        }
    }
}

/// An Ethernet frame, from its destination address to the end of its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The frame.
    pub bytes: Buffer,
    /// What is known of its checksum.
    pub checksum: Checksum,
    /// How to cut it, where it is too long for a wire.
    pub segmentation: Option<Segmentation>,
}

impl Packet {
    /// A frame as it is on a wire.
    pub fn plain(bytes: impl Into<Buffer>) -> Self {
        Self { bytes: bytes.into(), checksum: Checksum::Complete, segmentation: None }
    }

    fn address(&self, at: usize) -> Mac {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        Mac(bytes.copied().unwrap_or_default())
    }

    /// Who it is for.
    pub fn destination(&self) -> Mac {
        self.address(0)
    }

    /// Who it is from.
    pub fn source(&self) -> Mac {
        self.address(6)
    }

    /// Takes a checksum that its sender left blank for [`Checksum::Partial`]: finds the place by the frame's own
    /// headers and stores the sum of the pseudo header there, whatever was there before.
    ///
    /// # Errors
    /// [`Malformed`] for a frame that is no unfragmented TCP or UDP over IP.
    pub fn blank_checksum(&mut self) -> Result<(), Malformed> {
        let headers = Headers::parse(&self.bytes).ok_or(Malformed)?;
        let pseudo = headers.pseudo_sum(&self.bytes, headers.end - headers.transport_at).not_inverted();
        put16(&mut self.bytes, headers.checksum_at(), pseudo).ok_or(Malformed)?;
        let start = u16::try_from(headers.transport_at).map_err(|_| Malformed)?;
        let offset = headers.checksum_at() - headers.transport_at;
        self.checksum = Checksum::Partial { start, offset: offset as u16 };
        Ok(())
    }

    /// Fills in a checksum that was left blank.
    pub fn finish_checksum(&mut self) {
        if let Checksum::Partial { start, offset } = self.checksum {
            let start = usize::from(start);
            let sum = Sum::default().over(self.bytes.get(start..).unwrap_or_default()).result();
            if let Some(field) =
                self.bytes.get_mut(start + usize::from(offset)..).and_then(|rest| rest.first_chunk_mut())
            {
                // Zero would say "none" in UDP, and is the same number.
                *field = if sum == 0 { 0xffff_u16 } else { sum }.to_be_bytes();
            }
            self.checksum = Checksum::Validated;
        }
    }

    /// Judges what somebody else made: lengths, the place of the checksum, and that a frame to be cut can be.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn judge(&self) -> Result<(), Malformed> {
        if !(ETHERNET_HEADER..=LONGEST).contains(&self.bytes.len()) {
            return Err(Malformed);
        }
        if let Checksum::Partial { start, offset } = self.checksum {
            let end = usize::from(start) + usize::from(offset) + 2;
            if usize::from(start) < ETHERNET_HEADER || end > self.bytes.len() {
                return Err(Malformed);
            }
        }
        let Some(segmentation) = self.segmentation else { return Ok(()) };
        let headers = Headers::parse(&self.bytes).ok_or(Malformed)?;
        let tcp = matches!(headers.transport, Transport::Tcp { .. });
        let few = self.bytes.len() <= usize::from(segmentation.size) * MAX_SEGMENTS;
        let at = headers.transport_at;
        let partial = matches!(self.checksum, Checksum::Partial { start, offset: 16 } if usize::from(start) == at);
        if tcp && partial && few && headers.network == segmentation.network { Ok(()) } else { Err(Malformed) }
    }

    /// Whether a receiver that can do `offload` takes the frame as it is.
    pub fn suits(&self, offload: Offload) -> bool {
        if let Some(segmentation) = self.segmentation {
            return offload.segmentation(segmentation.network);
        }
        matches!(self.checksum, Checksum::Complete | Checksum::Validated) || self.checksum_suits(offload)
    }

    fn checksum_suits(&self, offload: Offload) -> bool {
        match Headers::network_of(&self.bytes) {
            Some(network) => offload.checksum(network),
            None => offload.checksum_v4 && offload.checksum_v6,
        }
    }

    /// The frame as a receiver that can do `offload` takes it: one, or its segments.
    pub fn convert(mut self, offload: Offload) -> Vec<Self> {
        if self.suits(offload) {
            return Vec::from([self]);
        }
        if self.segmentation.is_some() {
            let suits = self.checksum_suits(offload);
            let mut segments = self.segments();
            if !suits {
                segments.iter_mut().for_each(Self::finish_checksum);
            }
            return segments;
        }
        self.finish_checksum();
        Vec::from([self])
    }
}

/// A frame that cannot be what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;
