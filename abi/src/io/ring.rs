//! Shape of the shared request/response rings (`io/ring.h`).
//!
//! # Example
//!
//! ```
//! use oxen_abi::io::blkif::BlkifRequest;
//! use oxen_abi::io::ring::ring_size;
//!
//! assert_eq!(ring_size(4096, size_of::<BlkifRequest>()), 32);
//! ```

use core::mem::{offset_of, size_of};

abi_struct! {
    /// Start of every shared ring (`DEFINE_RING_TYPES`); entries follow at once. Indices run freely.
    pub struct SringHeader [64] {
        /// Requests published; written by the frontend.
        pub req_prod: u32,
        /// The backend wants an event once `req_prod` reaches this.
        pub req_event: u32,
        /// Responses published; written by the backend.
        pub rsp_prod: u32,
        /// The frontend wants an event once `rsp_prod` reaches this.
        pub rsp_event: u32,
        /// Private to the protocol.
        pub pvt: [u8; 4],
        /// Reserved: zero.
        pub __pad: [u8; 44],
    }
}
const _: () = assert!(offset_of!(SringHeader, rsp_event) == 12);

/// Entries a ring of `bytes` bytes (header included) holds: the greatest power of two that fits (`__RING_SIZE`).
#[must_use]
pub const fn ring_size(bytes: usize, entry: usize) -> u32 {
    let Some(fit) = bytes.saturating_sub(size_of::<SringHeader>()).checked_div(entry) else { return 0 };
    match fit.checked_ilog2() {
        Some(log) if log < 31 => 1 << log,
        Some(_) => 1 << 31,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::ring_size;

    #[test]
    fn sizes_are_the_protocols_own() {
        assert_eq!(ring_size(4096, 112), 32, "blkif");
        assert_eq!(ring_size(4 * 4096, 112), 128, "blkif, four pages");
        assert_eq!(ring_size(16 * 4096, 112), 512, "blkif, sixteen pages");
        assert_eq!(ring_size(4096, 12), 256, "netif transmit");
        assert_eq!(ring_size(4096, 8), 256, "netif receive");
        assert_eq!(ring_size(64, 8), 0);
        assert_eq!(ring_size(4096, 0), 0);
        assert_eq!(ring_size(0, 8), 0);
    }
}
