//! Cutting a long TCP frame into segments, for receivers that take none uncut.

use alloc::vec::Vec;

use oxen_domu_lib::packet::{Headers, Network, Sum, Transport, half, put16};

use super::packet::{Checksum, Malformed, Packet};

/// TCP's flags that only the last segment keeps: FIN and PSH.
const LAST_ONLY: u8 = 0x01 | 0x08;
/// The one that only the first keeps: CWR.
const FIRST_ONLY: u8 = 0x80;

impl Packet {
    /// The segments of the frame, each with its checksum left blank; the frame itself where it is not to be cut.
    pub fn segments(self) -> Vec<Self> {
        // What does not bear cutting did not come past `judge`.
        match (self.segmentation, Headers::parse(&self.bytes)) {
            (Some(segmentation), Some(headers)) => match headers.transport {
                Transport::Tcp { header } => {
                    Cut { packet: &self, headers, length: headers.transport_at + header }.all(segmentation.size.into())
                }
                Transport::Udp => Vec::new(),
            },
            (None, _) => Vec::from([self]),
            (Some(_), None) => Vec::new(),
        }
    }
}

/// A frame that is being cut.
struct Cut<'a> {
    packet: &'a Packet,
    headers: Headers,
    /// Bytes of all headers.
    length: usize,
}

impl Cut<'_> {
    fn all(&self, size: usize) -> Vec<Packet> {
        let (headers, payload) = self.packet.bytes.split_at(self.length);
        let count = payload.len().div_ceil(size.max(1)).max(1);
        let mut segments = Vec::with_capacity(count);
        for index in 0..count {
            let start = index * size;
            let piece = payload.get(start..payload.len().min(start + size)).unwrap_or_default();
            let mut bytes = Vec::with_capacity(headers.len() + piece.len());
            bytes.extend_from_slice(headers);
            bytes.extend_from_slice(piece);
            if self.adjust(&mut bytes, index, start, index + 1 == count).is_ok()
                && let Ok(start) = u16::try_from(self.headers.transport_at)
            {
                let checksum = Checksum::Partial { start, offset: 16 };
                segments.push(Packet { bytes: bytes.into(), checksum, segmentation: None });
            }
        }
        segments
    }

    /// Makes copied headers those of segment `index`, whose payload was at `start`.
    fn adjust(&self, bytes: &mut [u8], index: usize, start: usize, last: bool) -> Result<(), Malformed> {
        let headers = &self.headers;
        let (network, transport) = (headers.network_at, headers.transport_at);
        let length = bytes.len();
        match headers.network {
            Network::V4 => {
                put16(bytes, network + 2, narrow(length - network)?).ok_or(Malformed)?;
                let id = half(bytes, network + 4).ok_or(Malformed)?.wrapping_add(narrow(index)?);
                put16(bytes, network + 4, id).ok_or(Malformed)?;
                put16(bytes, network + 10, 0).ok_or(Malformed)?;
                let sum = Sum::default().over(bytes.get(network..transport).ok_or(Malformed)?).result();
                put16(bytes, network + 10, sum).ok_or(Malformed)?;
            }
            Network::V6 => put16(bytes, network + 4, narrow(length - network - 40)?).ok_or(Malformed)?,
        }
        let field = bytes.get_mut(transport + 4..).and_then(|rest| rest.first_chunk_mut()).ok_or(Malformed)?;
        let sequence = u32::from_be_bytes(*field).wrapping_add(u32::try_from(start).map_err(|_| Malformed)?);
        *field = sequence.to_be_bytes();
        let flags = bytes.get_mut(transport + 13).ok_or(Malformed)?;
        *flags &= !(if last { 0 } else { LAST_ONLY } | if index == 0 { 0 } else { FIRST_ONLY });
        let pseudo = headers.pseudo_sum(bytes, length - transport).not_inverted();
        put16(bytes, transport + 16, pseudo).ok_or(Malformed)
    }
}

fn narrow(value: usize) -> Result<u16, Malformed> {
    u16::try_from(value).map_err(|_| Malformed)
}
