//! The console page a guest shares with its console backend (`io/console.h`).
//!
//! # Example
//!
//! ```
//! use oxen_abi::io::console::{XENCONS_OUT_SIZE, XenconsInterface};
//!
//! // A byte's place is its index modulo the ring's size.
//! let (start, index) = (core::mem::offset_of!(XenconsInterface, out), 5000_usize);
//! assert_eq!(start + index % XENCONS_OUT_SIZE, 1024 + 904);
//! ```

use core::mem::offset_of;

/// Bytes the ring towards the guest holds.
pub const XENCONS_IN_SIZE: usize = 1024;
/// Bytes the ring away from the guest holds.
pub const XENCONS_OUT_SIZE: usize = 2048;

abi_struct! {
    /// The page's contents (`xencons_interface`). Indices run freely; a byte's place is
    /// its index modulo the ring's size.
    pub struct XenconsInterface [3088] {
        /// Towards the guest.
        pub r#in: [u8; XENCONS_IN_SIZE],
        /// Away from the guest.
        pub out: [u8; XENCONS_OUT_SIZE],
        /// Written by the guest.
        pub in_cons: u32,
        /// Written by the backend.
        pub in_prod: u32,
        /// Written by the backend.
        pub out_cons: u32,
        /// Written by the guest.
        pub out_prod: u32,
    }
}
const _: () = assert!(offset_of!(XenconsInterface, in_cons) == 3072);
