//! What the bytes of an Ethernet frame say: where its headers are, and sums over them. For frontends and backends.

mod headers;
mod sum;

pub use headers::{ETHERNET_HEADER, Headers, Network, Transport, half, put16};
pub use sum::Sum;
