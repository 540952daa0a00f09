//! Shared-memory rings between frontends and backends, in Xen's layouts.
//!
//! The other end is another domain and may be hostile: it can change any word of the shared pages at any time. So
//! nothing shared is ever seen as plain memory, only as atomic words; a message is copied out once and then looked at;
//! an end keeps its own indices in private memory and never reads them back; and the other end's index is believed only
//! as far as it can be true. An index that cannot be true is an [`Overrun`], after which
//! the caller ends the connection.
//!
//! * [`FrontRing`] and [`BackRing`]: requests and responses of block, network and other devices, on one or more pages.
//! * [`ByteReader`] and [`ByteWriter`]: the byte streams of [`console`] and [`xenstore`] pages.
//!
//! # Example
//!
//! ```
//! use core::sync::atomic::AtomicU32;
//!
//! use oxen_ring::{BackRing, FrontRing, PAGE_WORDS, Page};
//!
//! // What both ends map. Requests are `[u32; 2]` here, responses `u32`.
//! let page: Page = [const { AtomicU32::new(0) }; PAGE_WORDS];
//! let pages = core::slice::from_ref(&page);
//! let mut front: FrontRing<'_, [u32; 2], u32> = FrontRing::new(pages)?;
//! let mut back: BackRing<'_, [u32; 2], u32> = BackRing::attach(pages)?;
//!
//! front.push(&[6, 7])?;
//! assert!(front.publish(), "the backend wants an event");
//! while let Some([left, right]) = back.pop()? {
//!     back.push(&(left * right))?;
//! }
//! assert!(back.publish(), "the frontend wants an event");
//! assert_eq!(front.pop()?, Some(42));
//! assert!(!front.final_check()?, "nothing more: wait for an event");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(loom)]
extern crate oxen_model as core;
#[cfg(test)]
extern crate std;

mod back;
mod bytes;
pub mod console;
mod front;
mod sring;
pub mod xenstore;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;

pub use back::{AttachError, BackRing, Position};
pub use bytes::{ByteReader, ByteWriter, Ends};
pub use front::FrontRing;

use core::fmt;
use core::sync::atomic::AtomicU32;

/// Words of a page.
pub const PAGE_WORDS: usize = 1024;

/// A shared page. Rings of several pages want them mapped one after the other.
pub type Page = [AtomicU32; PAGE_WORDS];

/// The other end published an index that cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// What it published.
    pub index: u32,
    /// The nearest index that could be true.
    pub limit: u32,
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ring index {} beyond {}", self.index, self.limit)
    }
}

impl core::error::Error for Overrun {}

/// There is no room for another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ring full")
    }
}

impl core::error::Error for Full {}

/// The pages given cannot hold a single message: a ring needs at least one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall;

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ring too small")
    }
}

impl core::error::Error for TooSmall {}
