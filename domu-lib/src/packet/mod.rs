//! What the bytes of an Ethernet frame say: where its headers are, and sums over them. For frontends and backends.
//!
//! # Example
//!
//! ```
//! use oxen_domu_lib::packet::{Headers, Sum};
//!
//! // An IPv4 header sums up to zero with its checksum in place (RFC 1071).
//! let header = [0x45, 0, 0, 0x1c, 0, 0, 0, 0, 64, 17, 0x66, 0xcf, 10, 0, 0, 1, 10, 0, 0, 2];
//! assert_eq!(Sum::default().over(&header).result(), 0);
//!
//! let frame = [&[0; 12][..], &[8, 0], &header, &[0, 7, 0, 7, 0, 8, 0, 0]].concat();
//! assert!(Headers::parse(&frame).is_some());
//! ```

mod headers;
mod sum;

pub use headers::{ETHERNET_HEADER, Headers, Network, Transport, half, put16};
pub use sum::Sum;
