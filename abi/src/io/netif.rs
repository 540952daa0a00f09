//! Network devices: requests and responses of both rings (`io/netif.h`).

use core::mem::offset_of;

/// Slots one packet may take, which every backend must accept.
pub const XEN_NETIF_NR_SLOTS_MIN: u32 = 18;
/// Longest packet a frontend may send, in bytes.
pub const XEN_NETIF_MAX_TX_SIZE: u32 = 0xffff;

/// Transmit: the checksum is yet to be filled in.
pub const NETTXF_CSUM_BLANK: u16 = 1 << 0;
/// Transmit: the checksum has been verified.
pub const NETTXF_DATA_VALIDATED: u16 = 1 << 1;
/// Transmit: the packet goes on in the next request.
pub const NETTXF_MORE_DATA: u16 = 1 << 2;
/// Transmit: [`NetifExtraInfo`] slots follow.
pub const NETTXF_EXTRA_INFO: u16 = 1 << 3;

/// Receive: the checksum has been verified.
pub const NETRXF_DATA_VALIDATED: u16 = 1 << 0;
/// Receive: the checksum is yet to be filled in.
pub const NETRXF_CSUM_BLANK: u16 = 1 << 1;
/// Receive: the packet goes on in the next response.
pub const NETRXF_MORE_DATA: u16 = 1 << 2;
/// Receive: [`NetifExtraInfo`] slots follow.
pub const NETRXF_EXTRA_INFO: u16 = 1 << 3;
/// Receive: a prefix slot tells the segment size (old frontends).
pub const NETRXF_GSO_PREFIX: u16 = 1 << 4;

abi_flags! {
    /// `flags` of a request to send.
    pub struct TransmitFlags: u16 {
        CSUM_BLANK = NETTXF_CSUM_BLANK,
        DATA_VALIDATED = NETTXF_DATA_VALIDATED,
        MORE_DATA = NETTXF_MORE_DATA,
        EXTRA_INFO = NETTXF_EXTRA_INFO,
    }

    /// `flags` of a response with what was received.
    pub struct ReceiveFlags: u16 {
        DATA_VALIDATED = NETRXF_DATA_VALIDATED,
        CSUM_BLANK = NETRXF_CSUM_BLANK,
        MORE_DATA = NETRXF_MORE_DATA,
        EXTRA_INFO = NETRXF_EXTRA_INFO,
        GSO_PREFIX = NETRXF_GSO_PREFIX,
    }
}

/// Extra information: none; not valid.
pub const XEN_NETIF_EXTRA_TYPE_NONE: u8 = 0;
/// Extra information: how to cut the packet into segments.
pub const XEN_NETIF_EXTRA_TYPE_GSO: u8 = 1;
/// Extra information: a multicast address to receive from now on.
pub const XEN_NETIF_EXTRA_TYPE_MCAST_ADD: u8 = 2;
/// Extra information: a multicast address to receive no longer.
pub const XEN_NETIF_EXTRA_TYPE_MCAST_DEL: u8 = 3;
/// Extra information: the packet's flow hash.
pub const XEN_NETIF_EXTRA_TYPE_HASH: u8 = 4;
/// Extra information: how many bytes are left free before the packet. Of Linux's `xen/interface/io/netif.h`; Xen 4.17's
/// has no such type.
pub const XEN_NETIF_EXTRA_TYPE_XDP: u8 = 5;
/// One more than the greatest type of Xen 4.17.
pub const XEN_NETIF_EXTRA_TYPE_MAX: u8 = 5;
/// Another extra information slot follows.
pub const XEN_NETIF_EXTRA_FLAG_MORE: u8 = 1;

/// Segmentation: none.
pub const XEN_NETIF_GSO_TYPE_NONE: u8 = 0;
/// Segmentation: TCP over IPv4.
pub const XEN_NETIF_GSO_TYPE_TCPV4: u8 = 1;
/// Segmentation: TCP over IPv6.
pub const XEN_NETIF_GSO_TYPE_TCPV6: u8 = 2;

/// Status: the packet was dropped.
pub const NETIF_RSP_DROPPED: i16 = -2;
/// Status: failed.
pub const NETIF_RSP_ERROR: i16 = -1;
/// Status: done.
pub const NETIF_RSP_OKAY: i16 = 0;
/// Status: none; answers a slot that was not a request.
pub const NETIF_RSP_NULL: i16 = 1;

abi_struct! {
    /// One piece of a packet to send (`netif_tx_request`).
    pub struct NetifTxRequest [12] {
        /// Page with the bytes.
        pub gref: u32,
        /// First byte within the page.
        pub offset: u16,
        /// [`TransmitFlags`].
        pub flags: u16,
        /// The frontend's own; the response carries it back.
        pub id: u16,
        /// Bytes; in a packet's first request, of the whole packet.
        pub size: u16,
    }
    /// A slot that describes the packet before it (`netif_extra_info`).
    pub struct NetifExtraInfo [8] {
        /// `XEN_NETIF_EXTRA_TYPE_*`.
        pub r#type: u8,
        /// `XEN_NETIF_EXTRA_FLAG_*`.
        pub flags: u8,
        /// As `type` tells: [`NetifExtraGso`], six bytes of address, [`NetifExtraHash`] or [`NetifExtraXdp`].
        pub u: [u8; 6],
    }
    /// Room before the packet (`u.xdp` of Linux's `xen_netif_extra_info`).
    pub struct NetifExtraXdp [6] {
        /// Bytes.
        pub headroom: u16,
        /// Padding.
        pub pad: [u16; 2],
    }
    /// Segmentation (`netif_extra_info`'s `u.gso`).
    pub struct NetifExtraGso [6] {
        /// Greatest payload of a segment, in bytes.
        pub size: u16,
        /// `XEN_NETIF_GSO_TYPE_*`.
        pub r#type: u8,
        /// Padding.
        pub pad: u8,
        /// None is defined: zero.
        pub features: u16,
    }
    /// Flow hash (`netif_extra_info`'s `u.hash`).
    pub struct NetifExtraHash [6] {
        /// Which header fields were hashed.
        pub r#type: u8,
        /// Which algorithm.
        pub algorithm: u8,
        /// The hash.
        pub value: [u8; 4],
    }
    /// The backend has taken a piece (`netif_tx_response`).
    pub struct NetifTxResponse [4] {
        /// Of the request.
        pub id: u16,
        /// `NETIF_RSP_*`.
        pub status: i16,
    }
    /// A page to receive into (`netif_rx_request`).
    pub struct NetifRxRequest [8] {
        /// The frontend's own; the response carries it back.
        pub id: u16,
        /// Padding.
        pub pad: u16,
        /// The page.
        pub gref: u32,
    }
    /// A page with received bytes (`netif_rx_response`).
    pub struct NetifRxResponse [8] {
        /// Of the request.
        pub id: u16,
        /// First byte within the page.
        pub offset: u16,
        /// [`ReceiveFlags`].
        pub flags: u16,
        /// Bytes received, or a negative `NETIF_RSP_*`.
        pub status: i16,
    }
}
const _: () = assert!(offset_of!(NetifRxResponse, status) == 6);
