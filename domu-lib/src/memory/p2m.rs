//! The p2m and the machine-to-physical table: the frame behind a page, the page behind a frame.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::memory::{Pfn, p2m};
//!
//! // The frame behind page 0, and back.
//! if let Some(frame) = p2m::mfn(Pfn::new(0)) {
//!     assert_eq!(p2m::pfn(frame), Some(Pfn::new(0)));
//! }
//! ```

pub use crate::pages::p2m::{limit, mfn};
pub use crate::raw::memory::view::pfn;
