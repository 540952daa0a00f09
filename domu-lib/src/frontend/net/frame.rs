//! A frame on its way, and what the two ends tell each other of it beside its bytes.

use alloc::vec::Vec;

use super::checksum;

/// What is known of the checksum in a frame's transport header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is filled in and not verified.
    #[default]
    Unknown,
    /// It was right when the other end looked, or the frame never left the machine.
    Verified,
    /// It is not filled in: the sender to a real wire does that.
    Blank,
}

/// An Ethernet frame without its check sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// From the destination's address on.
    pub bytes: Vec<u8>,
    /// The transport header's checksum.
    pub checksum: Checksum,
    /// The payload of each segment that a large TCP packet is to be cut into, in bytes; none for a packet that goes as
    /// it is.
    pub segment: Option<u16>,
}

impl Frame {
    /// A frame whose checksums are all there.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, checksum: Checksum::Unknown, segment: None }
    }

    /// A frame whose transport checksum the backend fills in, if it is one of TCP or UDP.
    pub const fn blank(bytes: Vec<u8>) -> Self {
        Self { bytes, checksum: Checksum::Blank, segment: None }
    }

    /// Whether the transport checksum is right, as far as it can be told: those who know it need not sum up.
    pub fn is_sound(&self) -> bool {
        self.checksum != Checksum::Unknown || checksum::verify(&self.bytes)
    }

    /// Whether it carries IPv6.
    pub(super) fn is_ipv6(&self) -> bool {
        self.bytes.get(12..14) == Some(&[0x86, 0xdd])
    }
}
