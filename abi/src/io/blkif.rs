//! Block devices: requests and responses of the 64-bit layout (`io/blkif.h`).

use core::mem::offset_of;

/// Read sectors into granted pages.
pub const BLKIF_OP_READ: u8 = 0;
/// Write sectors from granted pages.
pub const BLKIF_OP_WRITE: u8 = 1;
/// Write, ordered against everything before and after (`feature-barrier`).
pub const BLKIF_OP_WRITE_BARRIER: u8 = 2;
/// Make finished writes durable (`feature-flush-cache`).
pub const BLKIF_OP_FLUSH_DISKCACHE: u8 = 3;
/// Not used.
pub const BLKIF_OP_RESERVED_1: u8 = 4;
/// The sectors' contents are no longer needed (`feature-discard`).
pub const BLKIF_OP_DISCARD: u8 = 5;
/// A read or write whose segments lie in pages of their own (`feature-max-indirect-segments`).
pub const BLKIF_OP_INDIRECT: u8 = 6;

/// Segments in a request itself.
pub const BLKIF_MAX_SEGMENTS_PER_REQUEST: usize = 11;
/// Pages of segments an indirect request names.
pub const BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: usize = 8;

/// Discard: erase beyond recovery.
pub const BLKIF_DISCARD_SECURE: u8 = 1;

/// Status: the device does not know the operation.
pub const BLKIF_RSP_EOPNOTSUPP: i16 = -2;
/// Status: failed.
pub const BLKIF_RSP_ERROR: i16 = -1;
/// Status: done.
pub const BLKIF_RSP_OKAY: i16 = 0;

/// `info` bit: a CD-ROM drive.
pub const VDISK_CDROM: u32 = 1;
/// `info` bit: removable.
pub const VDISK_REMOVABLE: u32 = 2;
/// `info` bit: for reading only.
pub const VDISK_READONLY: u32 = 4;

abi_struct! {
    /// One run of 512-byte sectors within a granted page (`blkif_request_segment`).
    pub struct BlkifRequestSegment [8] {
        /// The page.
        pub gref: u32,
        /// First sector within the page, 0 to 7.
        pub first_sect: u8,
        /// Last sector within the page, inclusive.
        pub last_sect: u8,
        /// Padding.
        pub _pad0: u16,
    }
    /// Read, write, barrier or flush; also the size of every ring entry (`blkif_request`).
    pub struct BlkifRequest [112] {
        /// `BLKIF_OP_*`: tells which of the request structures this is.
        pub operation: u8,
        /// Segments used.
        pub nr_segments: u8,
        /// The virtual device.
        pub handle: u16,
        /// Padding.
        pub _pad0: u32,
        /// The frontend's own; the response carries it back.
        pub id: u64,
        /// First 512-byte sector on the device.
        pub sector_number: u64,
        /// Where the data lie.
        pub seg: [BlkifRequestSegment; BLKIF_MAX_SEGMENTS_PER_REQUEST],
    }
}
const _: () = assert!(offset_of!(BlkifRequest, seg) == 24);

abi_struct! {
    /// A [`BLKIF_OP_DISCARD`] request (`blkif_request_discard`).
    pub struct BlkifRequestDiscard [32] {
        /// [`BLKIF_OP_DISCARD`].
        pub operation: u8,
        /// 0 or [`BLKIF_DISCARD_SECURE`].
        pub flag: u8,
        /// The virtual device.
        pub handle: u16,
        /// Padding.
        pub _pad0: u32,
        /// The frontend's own; the response carries it back.
        pub id: u64,
        /// First 512-byte sector on the device.
        pub sector_number: u64,
        /// How many sectors.
        pub nr_sectors: u64,
    }
    /// A [`BLKIF_OP_INDIRECT`] request (`blkif_request_indirect`).
    pub struct BlkifRequestIndirect [64] {
        /// [`BLKIF_OP_INDIRECT`].
        pub operation: u8,
        /// [`BLKIF_OP_READ`] or [`BLKIF_OP_WRITE`].
        pub indirect_op: u8,
        /// Segments used.
        pub nr_segments: u16,
        /// Padding.
        pub _pad0: u32,
        /// The frontend's own; the response carries it back.
        pub id: u64,
        /// First 512-byte sector on the device.
        pub sector_number: u64,
        /// The virtual device.
        pub handle: u16,
        /// Padding.
        pub _pad1: u16,
        /// Pages holding arrays of [`BlkifRequestSegment`], 512 each.
        pub indirect_grefs: [u32; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
        /// Padding.
        pub _pad2: u32,
    }
}
const _: () = assert!(offset_of!(BlkifRequestIndirect, indirect_grefs) == 28);

abi_struct! {
    /// The backend's answer (`blkif_response`).
    pub struct BlkifResponse [16] {
        /// Of the request.
        pub id: u64,
        /// Of the request.
        pub operation: u8,
        /// Padding.
        pub _pad0: u8,
        /// `BLKIF_RSP_*`.
        pub status: i16,
        /// Padding.
        pub _pad1: u32,
    }
}
const _: () = assert!(offset_of!(BlkifResponse, status) == 10);
