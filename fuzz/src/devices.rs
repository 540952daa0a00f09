//! What frontends put on their rings, and what goes over the bridge.

use core::sync::atomic::{AtomicU32, Ordering};

use oxen_abi::io::blkif::{BlkifRequest, BlkifRequestSegment};
use oxen_dom0::backend::block::request::{Limits, Request, Work, judge, judge_segments};
use oxen_dom0::backend::net::slots;
use oxen_dom0::bridge::{Checksum, ETHERNET_HEADER, Network, Offload, Packet, Segmentation};
use oxen_dom0::device::transfer::SECTOR;
use oxen_ring::{BackRing, PAGE_WORDS, Page};
use zerocopy::{FromZeros, IntoBytes};

use crate::bytes::take;

const PAGE_SIZE: u16 = 4096;

/// A block request, and an indirect one's page of segments: what passes lies within its pages and the disk.
pub(crate) fn block(mut input: &[u8]) {
    let [sectors, flags] = take(&mut input);
    let disk = Limits { sectors: u64::from(sectors) << 3, writable: flags & 1 != 0, discard: flags & 2 != 0 };
    let bytes: [u8; size_of::<BlkifRequest>()] = take(&mut input);
    let raw = &zerocopy::transmute!(bytes);
    let within = |sector: u64, segments: &[oxen_dom0::backend::block::request::Segment]| {
        assert!(segments.iter().all(|s| s.bytes > 0 && s.offset + s.bytes <= PAGE_SIZE), "{segments:?}");
        let sum: u64 = segments.iter().map(|s| u64::from(s.bytes) / SECTOR).sum();
        assert!(
            sector.checked_add(sum).is_some_and(|end| end <= disk.sectors),
            "{sum} sectors at {sector} of {disk:?}"
        );
    };
    match judge(raw, disk) {
        Ok(Request { work: Work::Transfer { sector, segments, .. }, .. }) => within(sector, &segments),
        Ok(Request { work: Work::Discard { sector, count, .. }, .. }) => {
            assert!(sector.checked_add(count).is_some_and(|end| end <= disk.sectors));
        }
        _ => {}
    }
    let mut segments = [BlkifRequestSegment::new_zeroed(); 32];
    let bytes = segments.as_mut_bytes();
    bytes.iter_mut().zip(input).for_each(|(to, from)| *to = *from);
    let count = (input.len() / size_of::<BlkifRequestSegment>()).min(segments.len());
    if let Ok(judged) = judge_segments(segments.get(..count).unwrap_or_default(), u64::from(flags), disk) {
        within(u64::from(flags), &judged);
    }
}

/// A transmit ring of any contents: frames that lie within their pages, or the end of the connection.
pub(crate) fn transmit(input: &[u8]) {
    let page: Page = [const { AtomicU32::new(0) }; PAGE_WORDS];
    for (word, bytes) in page.iter().zip(input.chunks(4)) {
        let mut value = [0; 4];
        value.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        word.store(u32::from_le_bytes(value), Ordering::Relaxed);
    }
    let pages = [page];
    let Ok(mut ring) = BackRing::attach(&pages) else { return };
    let mut pieces = Vec::new();
    while let Ok(Some(chain)) = slots::take(&mut ring, &mut pieces) {
        let own = pieces.split_off(pieces.len() - chain.pieces);
        let Some(frame) = chain.frame else { continue };
        let inside = own.iter().all(|piece| u32::from(piece.offset) + u32::from(piece.size) <= PAGE_SIZE.into());
        let sum: usize = own.iter().map(|piece| usize::from(piece.size)).sum();
        assert!(inside && sum == frame.length && frame.length >= ETHERNET_HEADER, "{frame:?} of {own:?}");
    }
}

/// A frame with any wishes: refused, or cut and finished for who can do nothing by itself.
pub(crate) fn bridge(mut input: &[u8]) {
    let [flags, size, start, offset] = take(&mut input);
    let network = if flags & 1 == 0 { Network::V4 } else { Network::V6 };
    let mut packet = Packet::plain(input.to_vec());
    packet.checksum = match flags >> 1 & 3 {
        0 => Checksum::Complete,
        1 => Checksum::Validated,
        _ => Checksum::Partial { start: start.into(), offset: offset.into() },
    };
    packet.segmentation = (flags & 8 != 0).then_some(Segmentation { network, size: size.into() });
    if flags & 16 != 0 {
        let _ = packet.blank_checksum();
    }
    if packet.judge().is_err() {
        return;
    }
    let length = packet.bytes.len();
    for piece in packet.convert(Offload::default()) {
        assert!(piece.suits(Offload::default()) && piece.bytes.len() <= length);
    }
}
