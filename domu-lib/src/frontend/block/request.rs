//! What a transfer becomes on the ring: chunks of segments, direct or indirect. No ring and no grants here.

use oxen_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_INDIRECT, BlkifRequest, BlkifRequestIndirect, BlkifRequestSegment,
};
use zerocopy::FromZeros;

use crate::memory::PAGE_SIZE;

/// Bytes of the sectors that the protocol counts in, whatever the device's are.
pub const SECTOR: usize = 512;
/// Sectors of a page.
pub(super) const SECTORS_PER_PAGE: usize = PAGE_SIZE / SECTOR;
/// Pages of data in one request, where the backend takes indirect segments.
pub(super) const MAX_PAGES: usize = 64;

/// How many pages a request may carry to a backend that takes `max_indirect` indirect segments (0: none).
pub(super) fn pages_per_request(max_indirect: u64) -> usize {
    let indirect = usize::try_from(max_indirect).unwrap_or(MAX_PAGES).min(MAX_PAGES);
    indirect.max(BLKIF_MAX_SEGMENTS_PER_REQUEST)
}

/// The segments of a transfer of `sectors` sectors through the pages granted by `references`, from their starts.
pub(super) fn segments(references: &[u32], sectors: usize) -> impl Iterator<Item = BlkifRequestSegment> {
    references.iter().enumerate().filter_map(move |(index, &gref)| {
        let left = sectors.checked_sub(index * SECTORS_PER_PAGE).filter(|&left| left > 0)?;
        let last_sect = left.min(SECTORS_PER_PAGE) as u8 - 1;
        Some(BlkifRequestSegment { gref, first_sect: 0, last_sect, _pad0: 0 })
    })
}

/// A request whose segments fit into it.
pub(super) fn direct(
    operation: u8,
    handle: u16,
    id: u64,
    sector: u64,
    segments: impl Iterator<Item = BlkifRequestSegment>,
) -> BlkifRequest {
    let mut request = BlkifRequest { operation, handle, id, sector_number: sector, ..BlkifRequest::new_zeroed() };
    for (slot, segment) in request.seg.iter_mut().zip(segments) {
        *slot = segment;
        request.nr_segments += 1;
    }
    request
}

/// A request whose segments stand in a page of their own, granted by `list`.
pub(super) fn indirect(
    operation: u8,
    handle: u16,
    id: u64,
    sector: u64,
    count: usize,
    list: u32,
) -> BlkifRequestIndirect {
    let mut request = BlkifRequestIndirect {
        operation: BLKIF_OP_INDIRECT,
        indirect_op: operation,
        nr_segments: count as u16,
        id,
        sector_number: sector,
        handle,
        ..BlkifRequestIndirect::new_zeroed()
    };
    if let Some(first) = request.indirect_grefs.first_mut() {
        *first = list;
    }
    request
}

/// A segment as the two words that it is in a page of segments.
pub(super) const fn words(segment: &BlkifRequestSegment) -> [u32; 2] {
    [segment.gref, segment.first_sect as u32 | (segment.last_sect as u32) << 8]
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxen_abi::io::blkif::BLKIF_OP_READ;
    use zerocopy::IntoBytes;

    #[test]
    fn the_last_segment_ends_with_the_transfer() {
        let all: Vec<_> = segments(&[7, 8, 9], 17).collect();
        let shape: Vec<_> = all.iter().map(|s| (s.gref, s.first_sect, s.last_sect)).collect();
        assert_eq!(shape, [(7, 0, 7), (8, 0, 7), (9, 0, 0)]);
        assert_eq!(segments(&[7, 8], 8).count(), 1);
        assert_eq!(segments(&[7], 1).next().unwrap().last_sect, 0);
    }

    #[test]
    fn a_request_counts_its_segments() {
        let request = direct(BLKIF_OP_READ, 1, 2, 3, segments(&[4; 11], 88));
        assert_eq!((request.nr_segments, request.seg[10].gref), (11, 4));
    }

    #[test]
    fn segments_in_a_page_look_as_they_do_in_a_request() {
        let segment = BlkifRequestSegment { gref: 0x1234_5678, first_sect: 1, last_sect: 7, _pad0: 0 };
        let words = words(&segment);
        assert_eq!(words.as_bytes(), segment.as_bytes());
    }

    #[test]
    fn a_backend_without_indirect_segments_gets_eleven() {
        assert_eq!(pages_per_request(0), 11);
        assert_eq!(pages_per_request(32), 32);
        assert_eq!(pages_per_request(u64::MAX), MAX_PAGES);
    }
}
