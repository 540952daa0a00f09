//! Grant tables, ELF notes, and the protocols between domains.
#![expect(clippy::too_many_lines, reason = "tables")]

use super::{List, constants, structures};

/// Adds all of them.
pub(crate) fn all(list: &mut List) {
    console_io(list);
    elfnote(list);
    grant_table(list);
    io_blkif(list);
    io_console(list);
    io_netif(list);
    io_xs_wire(list);
}

fn console_io(list: &mut List) {
    constants! {
        list, [oxen_abi::console_io];
        CONSOLEIO_WRITE = "CONSOLEIO_write", CONSOLEIO_READ = "CONSOLEIO_read",
    }
}

fn elfnote(list: &mut List) {
    constants! {
        list, [oxen_abi::elfnote];
        XEN_ELFNOTE_INFO = "XEN_ELFNOTE_INFO", XEN_ELFNOTE_ENTRY = "XEN_ELFNOTE_ENTRY",
        XEN_ELFNOTE_HYPERCALL_PAGE = "XEN_ELFNOTE_HYPERCALL_PAGE", XEN_ELFNOTE_VIRT_BASE = "XEN_ELFNOTE_VIRT_BASE",
        XEN_ELFNOTE_PADDR_OFFSET = "XEN_ELFNOTE_PADDR_OFFSET", XEN_ELFNOTE_XEN_VERSION = "XEN_ELFNOTE_XEN_VERSION",
        XEN_ELFNOTE_GUEST_OS = "XEN_ELFNOTE_GUEST_OS", XEN_ELFNOTE_GUEST_VERSION = "XEN_ELFNOTE_GUEST_VERSION",
        XEN_ELFNOTE_LOADER = "XEN_ELFNOTE_LOADER", XEN_ELFNOTE_PAE_MODE = "XEN_ELFNOTE_PAE_MODE",
        XEN_ELFNOTE_FEATURES = "XEN_ELFNOTE_FEATURES", XEN_ELFNOTE_BSD_SYMTAB = "XEN_ELFNOTE_BSD_SYMTAB",
        XEN_ELFNOTE_HV_START_LOW = "XEN_ELFNOTE_HV_START_LOW", XEN_ELFNOTE_L1_MFN_VALID = "XEN_ELFNOTE_L1_MFN_VALID",
        XEN_ELFNOTE_SUSPEND_CANCEL = "XEN_ELFNOTE_SUSPEND_CANCEL", XEN_ELFNOTE_INIT_P2M = "XEN_ELFNOTE_INIT_P2M",
        XEN_ELFNOTE_MOD_START_PFN = "XEN_ELFNOTE_MOD_START_PFN",
        XEN_ELFNOTE_SUPPORTED_FEATURES = "XEN_ELFNOTE_SUPPORTED_FEATURES",
        XEN_ELFNOTE_PHYS32_ENTRY = "XEN_ELFNOTE_PHYS32_ENTRY", XEN_ELFNOTE_MAX = "XEN_ELFNOTE_MAX",
        XEN_ELFNOTE_CRASH_INFO = "XEN_ELFNOTE_CRASH_INFO", XEN_ELFNOTE_CRASH_REGS = "XEN_ELFNOTE_CRASH_REGS",
        XEN_ELFNOTE_DUMPCORE_NONE = "XEN_ELFNOTE_DUMPCORE_NONE",
        XEN_ELFNOTE_DUMPCORE_HEADER = "XEN_ELFNOTE_DUMPCORE_HEADER",
        XEN_ELFNOTE_DUMPCORE_XEN_VERSION = "XEN_ELFNOTE_DUMPCORE_XEN_VERSION",
        XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION = "XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION",
    }
}

fn grant_table(list: &mut List) {
    constants! {
        list, [oxen_abi::grant_table];
        GNTTAB_NR_RESERVED_ENTRIES = "GNTTAB_NR_RESERVED_ENTRIES",
        GNTTAB_RESERVED_CONSOLE = "GNTTAB_RESERVED_CONSOLE", GNTTAB_RESERVED_XENSTORE = "GNTTAB_RESERVED_XENSTORE",
        GTF_INVALID = "GTF_invalid", GTF_PERMIT_ACCESS = "GTF_permit_access",
        GTF_ACCEPT_TRANSFER = "GTF_accept_transfer", GTF_TRANSITIVE = "GTF_transitive",
        GTF_TYPE_MASK = "GTF_type_mask", GTF_READONLY = "GTF_readonly", GTF_READING = "GTF_reading",
        GTF_WRITING = "GTF_writing", GTF_PWT = "GTF_PWT", GTF_PCD = "GTF_PCD", GTF_PAT = "GTF_PAT",
        GTF_SUB_PAGE = "GTF_sub_page", GTF_TRANSFER_COMMITTED = "GTF_transfer_committed",
        GTF_TRANSFER_COMPLETED = "GTF_transfer_completed", GNTTABOP_MAP_GRANT_REF = "GNTTABOP_map_grant_ref",
        GNTTABOP_UNMAP_GRANT_REF = "GNTTABOP_unmap_grant_ref", GNTTABOP_SETUP_TABLE = "GNTTABOP_setup_table",
        GNTTABOP_DUMP_TABLE = "GNTTABOP_dump_table", GNTTABOP_TRANSFER = "GNTTABOP_transfer",
        GNTTABOP_COPY = "GNTTABOP_copy", GNTTABOP_QUERY_SIZE = "GNTTABOP_query_size",
        GNTTABOP_UNMAP_AND_REPLACE = "GNTTABOP_unmap_and_replace", GNTTABOP_SET_VERSION = "GNTTABOP_set_version",
        GNTTABOP_GET_STATUS_FRAMES = "GNTTABOP_get_status_frames", GNTTABOP_GET_VERSION = "GNTTABOP_get_version",
        GNTTABOP_SWAP_GRANT_REF = "GNTTABOP_swap_grant_ref", GNTTABOP_CACHE_FLUSH = "GNTTABOP_cache_flush",
        GNTMAP_DEVICE_MAP = "GNTMAP_device_map", GNTMAP_HOST_MAP = "GNTMAP_host_map",
        GNTMAP_READONLY = "GNTMAP_readonly", GNTMAP_APPLICATION_MAP = "GNTMAP_application_map",
        GNTMAP_CONTAINS_PTE = "GNTMAP_contains_pte", GNTMAP_GUEST_AVAIL0 = "_GNTMAP_guest_avail0",
        GNTMAP_GUEST_AVAIL_MASK = "GNTMAP_guest_avail_mask", GNTCOPY_SOURCE_GREF = "GNTCOPY_source_gref",
        GNTCOPY_DEST_GREF = "GNTCOPY_dest_gref", GNTTAB_CACHE_CLEAN = "GNTTAB_CACHE_CLEAN",
        GNTTAB_CACHE_INVAL = "GNTTAB_CACHE_INVAL", GNTTAB_CACHE_SOURCE_GREF = "GNTTAB_CACHE_SOURCE_GREF",
        GNTST_OKAY = "GNTST_okay", GNTST_GENERAL_ERROR = "GNTST_general_error",
        GNTST_BAD_DOMAIN = "GNTST_bad_domain", GNTST_BAD_GNTREF = "GNTST_bad_gntref",
        GNTST_BAD_HANDLE = "GNTST_bad_handle", GNTST_BAD_VIRT_ADDR = "GNTST_bad_virt_addr",
        GNTST_BAD_DEV_ADDR = "GNTST_bad_dev_addr", GNTST_NO_DEVICE_SPACE = "GNTST_no_device_space",
        GNTST_PERMISSION_DENIED = "GNTST_permission_denied", GNTST_BAD_PAGE = "GNTST_bad_page",
        GNTST_BAD_COPY_ARG = "GNTST_bad_copy_arg", GNTST_ADDRESS_TOO_BIG = "GNTST_address_too_big",
        GNTST_EAGAIN = "GNTST_eagain", GNTST_NO_SPACE = "GNTST_no_space",
    }
    structures! {
        list, [oxen_abi::grant_table];
        GrantEntryV1 = "struct grant_entry_v1" {
            flags, domid, frame
        }
        GnttabMapGrantRef = "struct gnttab_map_grant_ref" {
            host_addr, flags, r#ref: "ref", dom, status, handle, dev_bus_addr
        }
        GnttabUnmapGrantRef = "struct gnttab_unmap_grant_ref" {
            host_addr, dev_bus_addr, handle, status
            | _pad0
        }
        GnttabSetupTable = "struct gnttab_setup_table" {
            dom, nr_frames, status, frame_list
            | _pad0, _pad1
        }
        GnttabDumpTable = "struct gnttab_dump_table" {
            dom, status
        }
        GnttabTransfer = "struct gnttab_transfer" {
            mfn, domid, r#ref: "ref", status
            | _pad0, _pad1
        }
        GnttabCopyPtr = "struct gnttab_copy_ptr" {
            u, domid, offset
            | _pad0
        }
        GnttabCopy = "struct gnttab_copy" {
            source, dest, len, flags, status
            | _pad0
        }
        GnttabQuerySize = "struct gnttab_query_size" {
            dom, nr_frames, max_nr_frames, status
            | _pad0, _pad1
        }
        GnttabUnmapAndReplace = "struct gnttab_unmap_and_replace" {
            host_addr, new_addr, handle, status
            | _pad0
        }
        GnttabSetVersion = "struct gnttab_set_version" {
            version
        }
        GnttabGetStatusFrames = "struct gnttab_get_status_frames" {
            nr_frames, dom, status, frame_list
        }
        GnttabGetVersion = "struct gnttab_get_version" {
            dom, pad, version
        }
        GnttabSwapGrantRef = "struct gnttab_swap_grant_ref" {
            ref_a, ref_b, status
            | _pad0
        }
        GnttabCacheFlush = "struct gnttab_cache_flush" {
            a, offset, length, op
        }
    }
}

fn io_blkif(list: &mut List) {
    constants! {
        list, [oxen_abi::io::blkif];
        BLKIF_OP_READ = "BLKIF_OP_READ", BLKIF_OP_WRITE = "BLKIF_OP_WRITE",
        BLKIF_OP_WRITE_BARRIER = "BLKIF_OP_WRITE_BARRIER", BLKIF_OP_FLUSH_DISKCACHE = "BLKIF_OP_FLUSH_DISKCACHE",
        BLKIF_OP_RESERVED_1 = "BLKIF_OP_RESERVED_1", BLKIF_OP_DISCARD = "BLKIF_OP_DISCARD",
        BLKIF_OP_INDIRECT = "BLKIF_OP_INDIRECT", BLKIF_MAX_SEGMENTS_PER_REQUEST = "BLKIF_MAX_SEGMENTS_PER_REQUEST",
        BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST = "BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST",
        BLKIF_DISCARD_SECURE = "BLKIF_DISCARD_SECURE", BLKIF_RSP_EOPNOTSUPP = "BLKIF_RSP_EOPNOTSUPP",
        BLKIF_RSP_ERROR = "BLKIF_RSP_ERROR", BLKIF_RSP_OKAY = "BLKIF_RSP_OKAY", VDISK_CDROM = "VDISK_CDROM",
        VDISK_REMOVABLE = "VDISK_REMOVABLE", VDISK_READONLY = "VDISK_READONLY",
    }
    structures! {
        list, [oxen_abi::io::blkif];
        BlkifRequestSegment = "struct blkif_request_segment" {
            gref, first_sect, last_sect
            | _pad0
        }
        BlkifRequest = "struct blkif_request" {
            operation, nr_segments, handle, id, sector_number, seg
            | _pad0
        }
        BlkifRequestDiscard = "struct blkif_request_discard" {
            operation, flag, handle, id, sector_number, nr_sectors
            | _pad0
        }
        BlkifRequestIndirect = "struct blkif_request_indirect" {
            operation, indirect_op, nr_segments, id, sector_number, handle, indirect_grefs
            | _pad0, _pad1, _pad2
        }
        BlkifResponse = "struct blkif_response" {
            id, operation, status
            | _pad0, _pad1
        }
    }
}

fn io_console(list: &mut List) {
    constants! {
        list, [oxen_abi::io::console];
        XENCONS_IN_SIZE = "sizeof(((struct xencons_interface *)0)->in)",
        XENCONS_OUT_SIZE = "sizeof(((struct xencons_interface *)0)->out)",
    }
    structures! {
        list, [oxen_abi::io::console];
        XenconsInterface = "struct xencons_interface" {
            r#in: "in", out, in_cons, in_prod, out_cons, out_prod
        }
    }
}

fn io_netif(list: &mut List) {
    constants! {
        list, [oxen_abi::io::netif];
        XEN_NETIF_NR_SLOTS_MIN = "XEN_NETIF_NR_SLOTS_MIN", XEN_NETIF_MAX_TX_SIZE = "XEN_NETIF_MAX_TX_SIZE",
        NETTXF_CSUM_BLANK = "NETTXF_csum_blank", NETTXF_DATA_VALIDATED = "NETTXF_data_validated",
        NETTXF_MORE_DATA = "NETTXF_more_data", NETTXF_EXTRA_INFO = "NETTXF_extra_info",
        NETRXF_DATA_VALIDATED = "NETRXF_data_validated", NETRXF_CSUM_BLANK = "NETRXF_csum_blank",
        NETRXF_MORE_DATA = "NETRXF_more_data", NETRXF_EXTRA_INFO = "NETRXF_extra_info",
        NETRXF_GSO_PREFIX = "NETRXF_gso_prefix", XEN_NETIF_EXTRA_TYPE_NONE = "XEN_NETIF_EXTRA_TYPE_NONE",
        XEN_NETIF_EXTRA_TYPE_GSO = "XEN_NETIF_EXTRA_TYPE_GSO",
        XEN_NETIF_EXTRA_TYPE_MCAST_ADD = "XEN_NETIF_EXTRA_TYPE_MCAST_ADD",
        XEN_NETIF_EXTRA_TYPE_MCAST_DEL = "XEN_NETIF_EXTRA_TYPE_MCAST_DEL",
        XEN_NETIF_EXTRA_TYPE_HASH = "XEN_NETIF_EXTRA_TYPE_HASH",
        XEN_NETIF_EXTRA_TYPE_MAX = "XEN_NETIF_EXTRA_TYPE_MAX",
        XEN_NETIF_EXTRA_FLAG_MORE = "XEN_NETIF_EXTRA_FLAG_MORE", XEN_NETIF_GSO_TYPE_NONE = "XEN_NETIF_GSO_TYPE_NONE",
        XEN_NETIF_GSO_TYPE_TCPV4 = "XEN_NETIF_GSO_TYPE_TCPV4", XEN_NETIF_GSO_TYPE_TCPV6 = "XEN_NETIF_GSO_TYPE_TCPV6",
        NETIF_RSP_DROPPED = "NETIF_RSP_DROPPED", NETIF_RSP_ERROR = "NETIF_RSP_ERROR",
        NETIF_RSP_OKAY = "NETIF_RSP_OKAY", NETIF_RSP_NULL = "NETIF_RSP_NULL",
    }
    structures! {
        list, [oxen_abi::io::netif];
        NetifTxRequest = "struct netif_tx_request" {
            gref, offset, flags, id, size
        }
        NetifExtraInfo = "struct netif_extra_info" {
            r#type: "type", flags, u
        }
        NetifExtraGso = "__typeof__(((struct netif_extra_info *)0)->u.gso)" {
            size, r#type: "type", pad, features
        }
        NetifExtraHash = "__typeof__(((struct netif_extra_info *)0)->u.hash)" {
            r#type: "type", algorithm, value
        }
        NetifTxResponse = "struct netif_tx_response" {
            id, status
        }
        NetifRxRequest = "struct netif_rx_request" {
            id, pad, gref
        }
        NetifRxResponse = "struct netif_rx_response" {
            id, offset, flags, status
        }
    }
}

fn io_xs_wire(list: &mut List) {
    constants! {
        list, [oxen_abi::io::xs_wire];
        XS_CONTROL = "XS_CONTROL", XS_DIRECTORY = "XS_DIRECTORY", XS_READ = "XS_READ", XS_GET_PERMS = "XS_GET_PERMS",
        XS_WATCH = "XS_WATCH", XS_UNWATCH = "XS_UNWATCH", XS_TRANSACTION_START = "XS_TRANSACTION_START",
        XS_TRANSACTION_END = "XS_TRANSACTION_END", XS_INTRODUCE = "XS_INTRODUCE", XS_RELEASE = "XS_RELEASE",
        XS_GET_DOMAIN_PATH = "XS_GET_DOMAIN_PATH", XS_WRITE = "XS_WRITE", XS_MKDIR = "XS_MKDIR", XS_RM = "XS_RM",
        XS_SET_PERMS = "XS_SET_PERMS", XS_WATCH_EVENT = "XS_WATCH_EVENT", XS_ERROR = "XS_ERROR",
        XS_IS_DOMAIN_INTRODUCED = "XS_IS_DOMAIN_INTRODUCED", XS_RESUME = "XS_RESUME",
        XS_SET_TARGET = "XS_SET_TARGET", XS_RESET_WATCHES = "XS_RESET_WATCHES",
        XS_DIRECTORY_PART = "XS_DIRECTORY_PART", XS_TYPE_COUNT = "XS_TYPE_COUNT", XS_INVALID = "XS_INVALID",
        XS_WATCH_PATH = "XS_WATCH_PATH", XS_WATCH_TOKEN = "XS_WATCH_TOKEN",
        XENSTORE_RING_SIZE = "XENSTORE_RING_SIZE", XENSTORE_PAYLOAD_MAX = "XENSTORE_PAYLOAD_MAX",
        XENSTORE_ABS_PATH_MAX = "XENSTORE_ABS_PATH_MAX", XENSTORE_REL_PATH_MAX = "XENSTORE_REL_PATH_MAX",
        XENSTORE_SERVER_FEATURE_RECONNECTION = "XENSTORE_SERVER_FEATURE_RECONNECTION",
        XENSTORE_SERVER_FEATURE_ERROR = "XENSTORE_SERVER_FEATURE_ERROR", XENSTORE_CONNECTED = "XENSTORE_CONNECTED",
        XENSTORE_RECONNECT = "XENSTORE_RECONNECT", XENSTORE_ERROR_NONE = "XENSTORE_ERROR_NONE",
        XENSTORE_ERROR_COMM = "XENSTORE_ERROR_COMM", XENSTORE_ERROR_RINGIDX = "XENSTORE_ERROR_RINGIDX",
        XENSTORE_ERROR_PROTO = "XENSTORE_ERROR_PROTO",
    }
    structures! {
        list, [oxen_abi::io::xs_wire];
        XsdSockmsg = "struct xsd_sockmsg" {
            r#type: "type", req_id, tx_id, len
        }
        XenstoreDomainInterface = "struct xenstore_domain_interface" {
            req, rsp, req_cons, req_prod, rsp_cons, rsp_prod, server_features, connection, error
        }
    }
}
