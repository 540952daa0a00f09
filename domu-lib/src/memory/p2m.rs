//! The p2m and the machine-to-physical table: the frame behind a page, the page behind a frame.

pub use crate::pages::p2m::{INVALID, limit, mfn};
pub use crate::raw::memory::view::pfn;
