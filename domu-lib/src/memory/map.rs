//! Windows: frames mapped at addresses of their own, for as long as a value lives.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::{DomId, println};
//! use oxen_domu_lib::memory::Mfn;
//! use oxen_domu_lib::memory::map::{Access, Mapping, Words};
//!
//! // A frame of domain 2's, which only a control domain may map without a grant.
//! if let Ok(window) = Mapping::of(DomId(2), &[Mfn::new(0x1234)], Access::ReadOnly) {
//!     println!("{} words", window.words64().len());
//! }
//! ```

pub use crate::raw::memory::mapping::Mapping;
pub use crate::raw::memory::words::{Access, Words};
