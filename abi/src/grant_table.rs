//! Grant tables: a domain's offers of its pages to others (`grant_table.h`).

use crate::domid::DomId;
use core::mem::offset_of;

/// Index of an entry in a domain's grant table (`grant_ref_t`).
pub type GrantRef = u32;
/// Name of one live mapping, private to the mapping domain (`grant_handle_t`).
pub type GrantHandle = u32;

/// Marks of one version 2 entry, [`GTF_READING`] and [`GTF_WRITING`], in the status frames (`grant_status_t`).
pub type GrantStatus = u16;

/// The first entries are kept for the toolstack, and survive resume and changes of the version.
pub const GNTTAB_NR_RESERVED_ENTRIES: u32 = 8;
/// Entry the toolstack fills for the console page.
pub const GNTTAB_RESERVED_CONSOLE: GrantRef = 0;
/// Entry the toolstack fills for the XenStore page.
pub const GNTTAB_RESERVED_XENSTORE: GrantRef = 1;

/// Entry type: offers nothing.
pub const GTF_INVALID: u16 = 0;
/// Entry type: `domid` may map and access `frame`.
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// Entry type: `domid` may transfer a page into `frame`.
pub const GTF_ACCEPT_TRANSFER: u16 = 2;
/// Entry type: passes on another domain's grant (version 2 tables only).
pub const GTF_TRANSITIVE: u16 = 3;
/// The bits of `flags` that hold the type.
pub const GTF_TYPE_MASK: u16 = 3;
/// Access is for reading only. Set by the guest.
pub const GTF_READONLY: u16 = 1 << 2;
/// The page is currently mapped for reading. Set by the hypervisor.
pub const GTF_READING: u16 = 1 << 3;
/// The page is currently mapped for writing. Set by the hypervisor.
pub const GTF_WRITING: u16 = 1 << 4;
/// Cache attribute bit PWT wanted by the granter.
pub const GTF_PWT: u16 = 1 << 5;
/// Cache attribute bit PCD wanted by the granter.
pub const GTF_PCD: u16 = 1 << 6;
/// Cache attribute bit PAT wanted by the granter.
pub const GTF_PAT: u16 = 1 << 7;
/// Only a part of the page is offered (version 2 tables only).
pub const GTF_SUB_PAGE: u16 = 1 << 8;
/// Transfer type: the hypervisor is committed to the transfer.
pub const GTF_TRANSFER_COMMITTED: u16 = 1 << 2;
/// Transfer type: the transfer is finished and `frame` holds the new page.
pub const GTF_TRANSFER_COMPLETED: u16 = 1 << 3;

abi_consts! {
    /// A command of `grant_table_op`.
    u32:
    /// Map foreign pages by grant: [`GnttabMapGrantRef`]s. The handle undoes the mapping.
    GNTTABOP_MAP_GRANT_REF = 0,
    /// Undo mappings, and flush them: [`GnttabUnmapGrantRef`]s.
    GNTTABOP_UNMAP_GRANT_REF = 1,
    /// Grow a table, and learn its frames: one [`GnttabSetupTable`].
    GNTTABOP_SETUP_TABLE = 2,
    /// Print a table on the hypervisor's console: one [`GnttabDumpTable`].
    GNTTABOP_DUMP_TABLE = 3,
    /// Give pages away to domains that accept them: [`GnttabTransfer`]s.
    GNTTABOP_TRANSFER = 4,
    /// Have the hypervisor copy bytes between pages, each named by grant or by frame: [`GnttabCopy`]s.
    GNTTABOP_COPY = 5,
    /// Ask for a table's size, and the greatest that it may have: one [`GnttabQuerySize`].
    GNTTABOP_QUERY_SIZE = 6,
    /// Undo a mapping, and move another entry into its place: [`GnttabUnmapAndReplace`]s.
    GNTTABOP_UNMAP_AND_REPLACE = 7,
    /// Choose the format of the table's entries: one [`GnttabSetVersion`]. `EBUSY` while entries are in use; `EINVAL`
    /// for a version that there is not.
    GNTTABOP_SET_VERSION = 8,
    /// The frames of the status words of version 2: one [`GnttabGetStatusFrames`].
    GNTTABOP_GET_STATUS_FRAMES = 9,
    /// Ask for the format: one [`GnttabGetVersion`].
    GNTTABOP_GET_VERSION = 10,
    /// Exchange two entries of the caller's: [`GnttabSwapGrantRef`]s.
    GNTTABOP_SWAP_GRANT_REF = 11,
    /// Write back or drop cached lines of a granted page: [`GnttabCacheFlush`]s.
    GNTTABOP_CACHE_FLUSH = 12,
}

/// Map for access by devices; the bus address is returned.
pub const GNTMAP_DEVICE_MAP: u32 = 1 << 0;
/// Map for access by the processor.
pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
/// Map for reading only.
pub const GNTMAP_READONLY: u32 = 1 << 2;
/// The processor mapping is usable by applications too.
pub const GNTMAP_APPLICATION_MAP: u32 = 1 << 3;
/// `host_addr` is the machine address of the page-table entry to write.
pub const GNTMAP_CONTAINS_PTE: u32 = 1 << 4;
/// First of the sixteen flag bits that name software-available page-table bits to set.
pub const GNTMAP_GUEST_AVAIL0: u32 = 16;
/// The flag bits that name software-available page-table bits.
pub const GNTMAP_GUEST_AVAIL_MASK: u32 = 0xffff_0000;

/// The source of the copy is a grant reference, not a frame of the caller.
pub const GNTCOPY_SOURCE_GREF: u16 = 1 << 0;
/// The destination of the copy is a grant reference, not a frame of the caller.
pub const GNTCOPY_DEST_GREF: u16 = 1 << 1;

/// Write dirty lines back.
pub const GNTTAB_CACHE_CLEAN: u32 = 1 << 0;
/// Drop cached lines.
pub const GNTTAB_CACHE_INVAL: u32 = 1 << 1;
/// [`GnttabCacheFlush::a`] is a grant reference, not a bus address.
pub const GNTTAB_CACHE_SOURCE_GREF: u32 = 1 << 31;

abi_flags! {
    /// `flags` of an entry: its type, which is a number in two bits, and what goes with it.
    pub struct GrantFlags: u16 {
        TYPE = GTF_TYPE_MASK,
        PERMIT_ACCESS = GTF_PERMIT_ACCESS,
        ACCEPT_TRANSFER = GTF_ACCEPT_TRANSFER,
        TRANSITIVE = GTF_TRANSITIVE,
        READONLY = GTF_READONLY,
        READING = GTF_READING,
        WRITING = GTF_WRITING,
        SUB_PAGE = GTF_SUB_PAGE,
        TRANSFER_COMMITTED = GTF_TRANSFER_COMMITTED,
        TRANSFER_COMPLETED = GTF_TRANSFER_COMPLETED,
    }
    /// `flags` of [`GnttabMapGrantRef`].
    pub struct MapFlags: u32 {
        DEVICE_MAP = GNTMAP_DEVICE_MAP,
        HOST_MAP = GNTMAP_HOST_MAP,
        READONLY = GNTMAP_READONLY,
        APPLICATION_MAP = GNTMAP_APPLICATION_MAP,
        CONTAINS_PTE = GNTMAP_CONTAINS_PTE,
        GUEST_AVAIL = GNTMAP_GUEST_AVAIL_MASK,
    }
    /// `flags` of [`GnttabCopy`].
    pub struct CopyFlags: u16 {
        SOURCE_GREF = GNTCOPY_SOURCE_GREF,
        DEST_GREF = GNTCOPY_DEST_GREF,
    }
    /// `op` of [`GnttabCacheFlush`].
    pub struct CacheFlags: u32 {
        CLEAN = GNTTAB_CACHE_CLEAN,
        INVAL = GNTTAB_CACHE_INVAL,
        SOURCE_GREF = GNTTAB_CACHE_SOURCE_GREF,
    }
}

impl GrantFlags {
    /// Both marks of use.
    pub const IN_USE: Self = Self::READING.union(Self::WRITING);
}

/// Status: done.
pub const GNTST_OKAY: i16 = 0;
/// Status: an error without a name of its own.
pub const GNTST_GENERAL_ERROR: i16 = -1;
/// Status: no such domain.
pub const GNTST_BAD_DOMAIN: i16 = -2;
/// Status: no such grant, or one that does not allow this.
pub const GNTST_BAD_GNTREF: i16 = -3;
/// Status: no such mapping, or one of another kind.
pub const GNTST_BAD_HANDLE: i16 = -4;
/// Status: nothing can be mapped at this address.
pub const GNTST_BAD_VIRT_ADDR: i16 = -5;
/// Status: this bus address is not mapped.
pub const GNTST_BAD_DEV_ADDR: i16 = -6;
/// Status: no room in the I/O MMU.
pub const GNTST_NO_DEVICE_SPACE: i16 = -7;
/// Status: the caller may not do this.
pub const GNTST_PERMISSION_DENIED: i16 = -8;
/// Status: the page does not suit the operation.
pub const GNTST_BAD_PAGE: i16 = -9;
/// Status: a copy would cross the end of a page.
pub const GNTST_BAD_COPY_ARG: i16 = -10;
/// Status: the receiver cannot address the page.
pub const GNTST_ADDRESS_TOO_BIG: i16 = -11;
/// Status: not done; try again.
pub const GNTST_EAGAIN: i16 = -12;
/// Status: no room for another handle.
pub const GNTST_NO_SPACE: i16 = -13;

abi_struct! {
    /// One entry of a version 1 grant table (`grant_entry_v1`).
    pub struct GrantEntryV1 [8] {
        /// Type and `GTF_*` flags. The granter writes it last, the hypervisor marks use in it.
        pub flags: u16,
        /// Who is granted.
        pub domid: DomId,
        /// The granter's frame: a machine frame for a PV guest.
        pub frame: u32,
    }
    /// One entry of a version 2 grant table (`grant_entry_v2`). What it offers decides what its fields mean.
    pub struct GrantEntryV2 [16] {
        /// Type and `GTF_*` flags. The granter writes it last; marks of use stand in its [`GrantStatus`].
        pub flags: u16,
        /// Who is granted.
        pub domid: DomId,
        /// With [`GTF_SUB_PAGE`] the first byte that is offered (`page_off`), with [`GTF_TRANSITIVE`] the domain whose
        /// offer is passed on (`trans_domid`).
        pub page_off: u16,
        /// With [`GTF_SUB_PAGE`] how many bytes are offered.
        pub length: u16,
        /// The granter's frame: a machine frame for a PV guest. With [`GTF_TRANSITIVE`] the reference that is passed on
        /// (`gref`), in the lower half.
        pub frame: u64,
    }
    /// Map one grant (`gnttab_map_grant_ref`).
    pub struct GnttabMapGrantRef [32] {
        /// IN: virtual address, or machine address of an entry with [`GNTMAP_CONTAINS_PTE`].
        pub host_addr: u64,
        /// IN: `GNTMAP_*`.
        pub flags: u32,
        /// IN: entry in the granter's table.
        pub r#ref: GrantRef,
        /// IN: the granter.
        pub dom: DomId,
        /// OUT: `GNTST_*`.
        pub status: i16,
        /// OUT: name of the mapping.
        pub handle: GrantHandle,
        /// OUT: bus address of the page.
        pub dev_bus_addr: u64,
    }
}
const _: () = assert!(offset_of!(GnttabMapGrantRef, status) == 18);

abi_struct! {
    /// Undo one mapping (`gnttab_unmap_grant_ref`).
    pub struct GnttabUnmapGrantRef [24] {
        /// IN: where the processor mapping is; 0 for none.
        pub host_addr: u64,
        /// IN: bus address of the device mapping; 0 for none.
        pub dev_bus_addr: u64,
        /// IN: name of the mapping.
        pub handle: GrantHandle,
        /// OUT: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad0: u16,
    }
}
const _: () = assert!(offset_of!(GnttabUnmapGrantRef, status) == 20);

abi_struct! {
    /// Size a table and list its frames (`gnttab_setup_table`).
    pub struct GnttabSetupTable [24] {
        /// IN: whose table.
        pub dom: DomId,
        /// Padding.
        pub _pad0: u16,
        /// IN: frames wanted.
        pub nr_frames: u32,
        /// OUT: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad1: [u16; 3],
        /// Guest address of `nr_frames` u64 frame numbers to fill.
        pub frame_list: u64,
    }
}
const _: () = assert!(offset_of!(GnttabSetupTable, frame_list) == 16);

abi_struct! {
    /// Print a table (`gnttab_dump_table`).
    pub struct GnttabDumpTable [4] {
        /// IN: whose table.
        pub dom: DomId,
        /// OUT: `GNTST_*`.
        pub status: i16,
    }
    /// Give one page away (`gnttab_transfer`).
    pub struct GnttabTransfer [24] {
        /// IN: the page.
        pub mfn: u64,
        /// IN: the receiver.
        pub domid: DomId,
        /// Padding.
        pub _pad0: u16,
        /// IN: entry in the receiver's table.
        pub r#ref: GrantRef,
        /// OUT: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad1: [u16; 3],
    }
    /// One end of a copy (`gnttab_copy_ptr`).
    pub struct GnttabCopyPtr [16] {
        /// Grant reference (low 32 bits) or frame number, as `flags` of the copy tells.
        pub u: u64,
        /// Whose page.
        pub domid: DomId,
        /// First byte within the page.
        pub offset: u16,
        /// Padding.
        pub _pad0: u32,
    }
    /// Copy within two pages (`gnttab_copy`).
    pub struct GnttabCopy [40] {
        /// IN: where from.
        pub source: GnttabCopyPtr,
        /// IN: where to.
        pub dest: GnttabCopyPtr,
        /// IN: bytes.
        pub len: u16,
        /// IN: `GNTCOPY_*`.
        pub flags: u16,
        /// OUT: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad0: u16,
    }
    /// Ask for a table's size (`gnttab_query_size`).
    pub struct GnttabQuerySize [16] {
        /// IN: whose table.
        pub dom: DomId,
        /// Padding.
        pub _pad0: u16,
        /// OUT: frames in use.
        pub nr_frames: u32,
        /// OUT: frames allowed.
        pub max_nr_frames: u32,
        /// OUT: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad1: u16,
    }
    /// Undo a mapping and move another one into its place (`gnttab_unmap_and_replace`).
    pub struct GnttabUnmapAndReplace [24] {
        /// IN: virtual address of the mapping to undo.
        pub host_addr: u64,
        /// IN: virtual address whose page-table entry moves to `host_addr`.
        pub new_addr: u64,
        /// IN: name of the mapping to undo.
        pub handle: GrantHandle,
        /// OUT: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad0: u16,
    }
    /// Choose the entry format (`gnttab_set_version`).
    pub struct GnttabSetVersion [4] {
        /// IN: wanted; OUT: in force.
        pub version: u32,
    }
    /// List the frames of version 2 status words (`gnttab_get_status_frames`).
    pub struct GnttabGetStatusFrames [16] {
        /// IN: frames wanted.
        pub nr_frames: u32,
        /// IN: whose table.
        pub dom: DomId,
        /// OUT: `GNTST_*`.
        pub status: i16,
        /// Guest address of `nr_frames` u64 frame numbers to fill.
        pub frame_list: u64,
    }
    /// Ask for the entry format (`gnttab_get_version`).
    pub struct GnttabGetVersion [8] {
        /// IN: whose table.
        pub dom: DomId,
        /// Padding.
        pub pad: u16,
        /// OUT: 1 or 2.
        pub version: u32,
    }
    /// Exchange two entries (`gnttab_swap_grant_ref`).
    pub struct GnttabSwapGrantRef [12] {
        /// IN: one entry.
        pub ref_a: GrantRef,
        /// IN: the other entry.
        pub ref_b: GrantRef,
        /// OUT: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad0: u16,
    }
    /// Cache maintenance on a granted page (`gnttab_cache_flush`).
    pub struct GnttabCacheFlush [16] {
        /// IN: bus address, or grant reference (low 32 bits) with [`GNTTAB_CACHE_SOURCE_GREF`].
        pub a: u64,
        /// IN: first byte within the page.
        pub offset: u16,
        /// IN: bytes.
        pub length: u16,
        /// IN: `GNTTAB_CACHE_*`.
        pub op: u32,
    }
}
