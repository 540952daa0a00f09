//! Judging block requests. A request is a private copy by now: what is judged here is what is done.

use alloc::vec::Vec;

use oxen_abi::io::blkif::{
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST, BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT, BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BlkifRequest,
    BlkifRequestDiscard, BlkifRequestIndirect, BlkifRequestSegment, BlkifResponse,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::device::transfer::Direction;

/// Sectors of a page.
const SECTORS_PER_PAGE: u8 = 8;
/// Segments of one request with indirect pages, as advertised.
pub const MAX_INDIRECT_SEGMENTS: u16 = 256;
/// Segment descriptions in one indirect page.
const SEGMENTS_PER_PAGE: usize = 512;

/// What requests are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Writes and discards are allowed.
    pub writable: bool,
    /// Discards are offered.
    pub discard: bool,
}

/// A part of one granted page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The granted page.
    pub gref: u32,
    /// First byte in the page.
    pub offset: u16,
    /// Bytes, a multiple of 512.
    pub bytes: u16,
}

/// What a judged request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Move data; the segments lie within the disk, one after the other from `sector` on.
    Transfer {
        /// Which way.
        direction: Direction,
        /// First sector.
        sector: u64,
        /// At least one.
        segments: Vec<Segment>,
    },
    /// As a transfer, but its segments stand in these granted pages and are not judged yet.
    Indirect {
        /// Which way.
        direction: Direction,
        /// First sector.
        sector: u64,
        /// How many segments.
        count: u16,
        /// The pages with their descriptions, as many as `count` needs.
        pages: Vec<u32>,
    },
    /// Make everything that was answered before durable.
    Flush,
    /// Sectors whose contents nobody needs.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        count: u64,
    },
}

/// A request with what its answer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The frontend's name for it.
    pub id: u64,
    /// What its answer calls the operation.
    pub operation: u8,
    /// What to do.
    pub work: Work,
}

/// The answer to a request.
pub fn answer(id: u64, operation: u8, status: i16) -> BlkifResponse {
    BlkifResponse { id, operation, _pad0: 0, status, _pad1: 0 }
}

/// Judges a request as it came off the ring; a refused one comes back as its answer.
///
/// # Errors
/// The answer that refuses it: the operation is unknown or not offered, or its segments leave their pages or the disk.
pub fn judge(raw: &BlkifRequest, disk: Limits) -> Result<Request, BlkifResponse> {
    let (id, operation, work) = match raw.operation {
        BLKIF_OP_READ | BLKIF_OP_WRITE => (raw.id, raw.operation, direct(raw, disk)),
        BLKIF_OP_FLUSH_DISKCACHE if raw.nr_segments == 0 => (raw.id, raw.operation, Ok(Work::Flush)),
        BLKIF_OP_FLUSH_DISKCACHE => (raw.id, raw.operation, Err(BLKIF_RSP_ERROR)),
        BLKIF_OP_DISCARD => match BlkifRequestDiscard::read_from_prefix(raw.as_bytes()) {
            Ok((discarding, _)) => (discarding.id, raw.operation, discard(&discarding, disk)),
            Err(_) => (raw.id, raw.operation, Err(BLKIF_RSP_ERROR)),
        },
        BLKIF_OP_INDIRECT => match BlkifRequestIndirect::read_from_prefix(raw.as_bytes()) {
            // Frontends take the answer for that of the operation inside.
            Ok((inner, _)) => (inner.id, inner.indirect_op, indirect(&inner, disk)),
            Err(_) => (raw.id, raw.operation, Err(BLKIF_RSP_ERROR)),
        },
        _ => (raw.id, raw.operation, Err(BLKIF_RSP_EOPNOTSUPP)),
    };
    match work {
        Ok(work) => Ok(Request { id, operation, work }),
        Err(status) => Err(answer(id, operation, status)),
    }
}

fn direction(operation: u8, disk: Limits) -> Result<Direction, i16> {
    match operation {
        BLKIF_OP_READ => Ok(Direction::Read),
        BLKIF_OP_WRITE if disk.writable => Ok(Direction::Write),
        _ => Err(BLKIF_RSP_ERROR),
    }
}

fn direct(raw: &BlkifRequest, disk: Limits) -> Result<Work, i16> {
    let direction = direction(raw.operation, disk)?;
    let count = usize::from(raw.nr_segments);
    if count > BLKIF_MAX_SEGMENTS_PER_REQUEST {
        return Err(BLKIF_RSP_ERROR);
    }
    let segments = judge_segments(raw.seg.get(..count).unwrap_or_default(), raw.sector_number, disk)?;
    Ok(Work::Transfer { direction, sector: raw.sector_number, segments })
}

/// Judges the segments of a transfer: each within its page, all of them within the disk.
///
/// # Errors
/// `BLKIF_RSP_ERROR`: a segment leaves its page, or the transfer the disk.
pub fn judge_segments(raw: &[BlkifRequestSegment], sector: u64, disk: Limits) -> Result<Vec<Segment>, i16> {
    let mut end = sector;
    let mut segments = Vec::with_capacity(raw.len());
    for one in raw {
        if one.first_sect > one.last_sect || one.last_sect >= SECTORS_PER_PAGE {
            return Err(BLKIF_RSP_ERROR);
        }
        let sectors = u16::from(one.last_sect - one.first_sect) + 1;
        end = end.checked_add(sectors.into()).ok_or(BLKIF_RSP_ERROR)?;
        segments.push(Segment { gref: one.gref, offset: u16::from(one.first_sect) * 512, bytes: sectors * 512 });
    }
    if segments.is_empty() || end > disk.sectors { Err(BLKIF_RSP_ERROR) } else { Ok(segments) }
}

fn indirect(raw: &BlkifRequestIndirect, disk: Limits) -> Result<Work, i16> {
    let direction = direction(raw.indirect_op, disk)?;
    if raw.nr_segments == 0 || raw.nr_segments > MAX_INDIRECT_SEGMENTS {
        return Err(BLKIF_RSP_ERROR);
    }
    let pages = usize::from(raw.nr_segments).div_ceil(SEGMENTS_PER_PAGE).min(BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST);
    let pages = raw.indirect_grefs.get(..pages).unwrap_or_default().to_vec();
    Ok(Work::Indirect { direction, sector: raw.sector_number, count: raw.nr_segments, pages })
}

fn discard(raw: &BlkifRequestDiscard, disk: Limits) -> Result<Work, i16> {
    // Erasing beyond recovery is not offered, so every flag is one that is not known.
    if !disk.discard || raw.flag != 0 {
        return Err(BLKIF_RSP_EOPNOTSUPP);
    }
    let within = raw.sector_number.checked_add(raw.nr_sectors).is_some_and(|end| end <= disk.sectors);
    if !disk.writable || raw.nr_sectors == 0 || !within {
        return Err(BLKIF_RSP_ERROR);
    }
    Ok(Work::Discard { sector: raw.sector_number, count: raw.nr_sectors })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISK: Limits = Limits { sectors: 100, writable: true, discard: true };

    fn transfer(operation: u8, sector: u64, parts: &[(u8, u8)]) -> BlkifRequest {
        let mut raw = BlkifRequest::new_zeroed_for_test();
        raw.operation = operation;
        raw.nr_segments = u8::try_from(parts.len()).unwrap();
        raw.id = 7;
        raw.sector_number = sector;
        for (to, &(first_sect, last_sect)) in raw.seg.iter_mut().zip(parts) {
            *to = BlkifRequestSegment { gref: 5, first_sect, last_sect, _pad0: 0 };
        }
        raw
    }

    trait ZeroedForTest {
        fn new_zeroed_for_test() -> Self;
    }

    impl ZeroedForTest for BlkifRequest {
        fn new_zeroed_for_test() -> Self {
            Self::read_from_bytes(&[0; 112]).unwrap()
        }
    }

    fn status(raw: &BlkifRequest, disk: Limits) -> i16 {
        judge(raw, disk).map_or_else(|answer| answer.status, |_| 0)
    }

    #[test]
    fn good_transfers_pass() {
        let Work::Transfer { direction, sector, segments } =
            judge(&transfer(BLKIF_OP_READ, 91, &[(0, 7), (7, 7)]), DISK).unwrap().work
        else {
            panic!()
        };
        assert_eq!((direction, sector), (Direction::Read, 91));
        let want = [Segment { gref: 5, offset: 0, bytes: 4096 }, Segment { gref: 5, offset: 3584, bytes: 512 }];
        assert_eq!(segments, want);
    }

    #[test]
    fn transfers_beyond_anything_are_refused() {
        for raw in [
            transfer(BLKIF_OP_READ, 93, &[(0, 7)]),
            transfer(BLKIF_OP_READ, u64::MAX, &[(0, 7)]),
            transfer(BLKIF_OP_READ, 0, &[(5, 4)]),
            transfer(BLKIF_OP_READ, 0, &[(0, 8)]),
            transfer(BLKIF_OP_READ, 0, &[]),
        ] {
            assert_eq!(status(&raw, DISK), BLKIF_RSP_ERROR);
        }
        let mut many = transfer(BLKIF_OP_READ, 0, &[(0, 0); 11]);
        assert_eq!(status(&many, DISK), 0);
        many.nr_segments = 12;
        assert_eq!(status(&many, DISK), BLKIF_RSP_ERROR);
        let locked = Limits { writable: false, ..DISK };
        assert_eq!(status(&transfer(BLKIF_OP_WRITE, 0, &[(0, 0)]), locked), BLKIF_RSP_ERROR);
        assert_eq!(status(&transfer(2, 0, &[(0, 0)]), DISK), BLKIF_RSP_EOPNOTSUPP);
        assert_eq!(status(&transfer(99, 0, &[(0, 0)]), DISK), BLKIF_RSP_EOPNOTSUPP);
        assert_eq!(status(&transfer(BLKIF_OP_FLUSH_DISKCACHE, 0, &[(0, 0)]), DISK), BLKIF_RSP_ERROR);
        assert_eq!(status(&transfer(BLKIF_OP_FLUSH_DISKCACHE, 0, &[]), DISK), 0);
    }

    fn as_request<T: IntoBytes + zerocopy::Immutable>(raw: &T) -> BlkifRequest {
        let mut bytes = [0; 112];
        bytes[..size_of::<T>()].copy_from_slice(raw.as_bytes());
        BlkifRequest::read_from_bytes(&bytes).unwrap()
    }

    #[test]
    fn discards_are_judged() {
        let raw = BlkifRequestDiscard {
            operation: BLKIF_OP_DISCARD,
            flag: 0,
            handle: 0,
            _pad0: 0,
            id: 9,
            sector_number: 90,
            nr_sectors: 10,
        };
        let good = judge(&as_request(&raw), DISK).unwrap();
        assert_eq!((good.id, good.work), (9, Work::Discard { sector: 90, count: 10 }));
        let over = BlkifRequestDiscard { nr_sectors: 11, ..raw };
        assert_eq!(status(&as_request(&over), DISK), BLKIF_RSP_ERROR);
        let secure = BlkifRequestDiscard { flag: 1, ..raw };
        assert_eq!(status(&as_request(&secure), DISK), BLKIF_RSP_EOPNOTSUPP);
        assert_eq!(status(&as_request(&raw), Limits { discard: false, ..DISK }), BLKIF_RSP_EOPNOTSUPP);
    }

    #[test]
    fn indirect_requests_name_their_pages() {
        let raw = BlkifRequestIndirect {
            operation: BLKIF_OP_INDIRECT,
            indirect_op: BLKIF_OP_WRITE,
            nr_segments: 256,
            _pad0: 0,
            id: 3,
            sector_number: 4,
            handle: 0,
            _pad1: 0,
            indirect_grefs: [8; 8],
            _pad2: 0,
        };
        let good = judge(&as_request(&raw), DISK).unwrap();
        let want = Work::Indirect { direction: Direction::Write, sector: 4, count: 256, pages: Vec::from([8]) };
        assert_eq!((good.id, good.operation, good.work), (3, BLKIF_OP_WRITE, want));
        for bad in [
            BlkifRequestIndirect { nr_segments: 257, ..raw },
            BlkifRequestIndirect { nr_segments: 0, ..raw },
            BlkifRequestIndirect { indirect_op: BLKIF_OP_INDIRECT, ..raw },
        ] {
            assert_eq!(status(&as_request(&bad), DISK), BLKIF_RSP_ERROR);
        }
    }

    proptest! {
        #[test]
        fn whatever_passes_lies_within_page_and_disk(
            bytes in proptest::collection::vec(any::<u8>(), 112), op in 0u8..8
        ) {
            let mut raw = BlkifRequest::read_from_bytes(&bytes).unwrap();
            raw.operation = op;
            raw.sector_number %= 200;
            raw.seg.iter_mut().for_each(|s| { s.first_sect %= 10; s.last_sect %= 10; });
            if let Ok(Request { work: Work::Transfer { sector, segments, .. }, .. }) = judge(&raw, DISK) {
                prop_assert!(segments.iter().all(|s| s.bytes > 0 && s.offset + s.bytes <= 4096));
                let sum: u64 = segments.iter().map(|s| u64::from(s.bytes) / crate::device::transfer::SECTOR).sum();
                prop_assert!(sector + sum <= DISK.sectors);
            }
        }
    }
}
