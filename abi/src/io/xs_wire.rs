//! Messages between XenStore and its clients, and the page they cross (`io/xs_wire.h`).
//!
//! # Example
//!
//! ```
//! use oxen_abi::io::xs_wire::{XS_READ, XsdSockmsg};
//! use zerocopy::IntoBytes;
//!
//! let path = b"name\0";
//! let header = XsdSockmsg::of(XS_READ, 1, 0, path.len()).unwrap();
//! let request = [header.as_bytes(), path, b"more"].concat();
//! assert_eq!(XsdSockmsg::split(&request), Ok(Some((header, &path[..]))));
//! assert_eq!(XsdSockmsg::split(&request[..20]), Ok(None));
//! ```

use crate::errno::Errno;
use core::mem::offset_of;
use zerocopy::FromBytes;

/// Commands to the store itself.
pub const XS_CONTROL: u32 = 0;
/// List a node's children.
pub const XS_DIRECTORY: u32 = 1;
/// Read a node's value.
pub const XS_READ: u32 = 2;
/// Read a node's permissions.
pub const XS_GET_PERMS: u32 = 3;
/// Watch a path.
pub const XS_WATCH: u32 = 4;
/// Stop watching a path.
pub const XS_UNWATCH: u32 = 5;
/// Start a transaction.
pub const XS_TRANSACTION_START: u32 = 6;
/// Commit ("T") or drop ("F") a transaction.
pub const XS_TRANSACTION_END: u32 = 7;
/// A new domain wants to talk.
pub const XS_INTRODUCE: u32 = 8;
/// A domain is gone.
pub const XS_RELEASE: u32 = 9;
/// Ask for a domain's home path.
pub const XS_GET_DOMAIN_PATH: u32 = 10;
/// Write a node's value.
pub const XS_WRITE: u32 = 11;
/// Make a node if it does not exist.
pub const XS_MKDIR: u32 = 12;
/// Remove a node and what lies below.
pub const XS_RM: u32 = 13;
/// Set a node's permissions.
pub const XS_SET_PERMS: u32 = 14;
/// From the store, unasked: a watch fired.
pub const XS_WATCH_EVENT: u32 = 15;
/// From the store: the request failed; the payload names the error.
pub const XS_ERROR: u32 = 16;
/// Ask whether a domain is introduced.
pub const XS_IS_DOMAIN_INTRODUCED: u32 = 17;
/// A domain resumes after suspend.
pub const XS_RESUME: u32 = 18;
/// Let one domain act for another.
pub const XS_SET_TARGET: u32 = 19;
/// Drop all of the caller's watches and transactions.
pub const XS_RESET_WATCHES: u32 = 21;
/// List a part of a node's children.
pub const XS_DIRECTORY_PART: u32 = 22;
/// One more than the greatest valid type.
pub const XS_TYPE_COUNT: u32 = 23;
/// A type that will never be valid.
pub const XS_INVALID: u32 = 0xffff;

/// First string of a watch event: the path that changed.
pub const XS_WATCH_PATH: u32 = 0;
/// Second string of a watch event: the watcher's token.
pub const XS_WATCH_TOKEN: u32 = 1;

abi_struct! {
    /// Header of every message; `len` bytes of payload follow (`xsd_sockmsg`).
    pub struct XsdSockmsg [16] {
        /// `XS_*`.
        pub r#type: u32,
        /// Chosen by the client; the answer carries it back.
        pub req_id: u32,
        /// Transaction, 0 for none.
        pub tx_id: u32,
        /// Bytes that follow, at most [`XENSTORE_PAYLOAD_MAX`].
        pub len: u32,
    }
}

/// A message claims more than [`XENSTORE_PAYLOAD_MAX`] bytes, which ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl XsdSockmsg {
    /// Bytes of a header.
    pub const BYTES: usize = size_of::<Self>();

    /// The header of a message with so many bytes of payload; `None` for more than a message may have.
    #[must_use]
    pub const fn of(kind: u32, req_id: u32, tx_id: u32, bytes: usize) -> Option<Self> {
        if bytes > XENSTORE_PAYLOAD_MAX {
            return None;
        }
        Some(Self { r#type: kind, req_id, tx_id, len: bytes as u32 })
    }

    /// The first message of `bytes`, with its payload; `None` where more bytes must come first.
    ///
    /// # Errors
    /// The message is longer than any.
    pub fn split(bytes: &[u8]) -> Result<Option<(Self, &[u8])>, TooLong> {
        let Ok((header, rest)) = Self::read_from_prefix(bytes) else { return Ok(None) };
        let length = header.len as usize;
        if length > XENSTORE_PAYLOAD_MAX {
            return Err(TooLong);
        }
        Ok(rest.get(..length).map(|payload| (header, payload)))
    }
}

/// The errors the protocol can name (`xsd_errors`); it sends their names.
pub const XSD_ERRORS: [Errno; 16] = [
    Errno::Inval,
    Errno::Acces,
    Errno::Exist,
    Errno::IsDir,
    Errno::NoEnt,
    Errno::NoMem,
    Errno::NoSpc,
    Errno::Io,
    Errno::NotEmpty,
    Errno::NoSys,
    Errno::RoFs,
    Errno::Busy,
    Errno::Again,
    Errno::IsConn,
    Errno::TooBig,
    Errno::Perm,
];

/// Bytes each of the two byte rings holds.
pub const XENSTORE_RING_SIZE: usize = 1024;

abi_struct! {
    /// The shared page (`xenstore_domain_interface`). Indices run freely; a byte's place is its index modulo 1024.
    pub struct XenstoreDomainInterface [2076] {
        /// Requests, from the guest.
        pub req: [u8; XENSTORE_RING_SIZE],
        /// Answers and watch events, to the guest.
        pub rsp: [u8; XENSTORE_RING_SIZE],
        /// Written by the store.
        pub req_cons: u32,
        /// Written by the guest.
        pub req_prod: u32,
        /// Written by the guest.
        pub rsp_cons: u32,
        /// Written by the store.
        pub rsp_prod: u32,
        /// `XENSTORE_SERVER_FEATURE_*`; written by the store.
        pub server_features: u32,
        /// `XENSTORE_CONNECTED` or `XENSTORE_RECONNECT`.
        pub connection: u32,
        /// `XENSTORE_ERROR_*`; written by the store.
        pub error: u32,
    }
}
const _: () = assert!(offset_of!(XenstoreDomainInterface, req_cons) == 2048);

/// Greatest payload of a message, in bytes. A longer one ends the connection.
pub const XENSTORE_PAYLOAD_MAX: usize = 4096;
/// Longest absolute path, in bytes.
pub const XENSTORE_ABS_PATH_MAX: usize = 3072;
/// Longest path relative to the domain's home, in bytes.
pub const XENSTORE_REL_PATH_MAX: usize = 2048;

/// The store lets a guest reset the page and connect anew.
pub const XENSTORE_SERVER_FEATURE_RECONNECTION: u32 = 1;
/// The store fills the `error` field.
pub const XENSTORE_SERVER_FEATURE_ERROR: u32 = 2;

/// Connection: the steady state.
pub const XENSTORE_CONNECTED: u32 = 0;
/// Connection: the guest asks for a fresh start.
pub const XENSTORE_RECONNECT: u32 = 1;

/// No error.
pub const XENSTORE_ERROR_NONE: u32 = 0;
/// The connection failed.
pub const XENSTORE_ERROR_COMM: u32 = 1;
/// A ring index is out of range.
pub const XENSTORE_ERROR_RINGIDX: u32 = 2;
/// A message broke the protocol.
pub const XENSTORE_ERROR_PROTO: u32 = 3;
