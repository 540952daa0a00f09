//! The pool of free pages.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::memory::{Page, pool};
//!
//! let before = pool::free_pages();
//! let page = Page::zeroed();
//! assert!(page.is_none() || pool::free_pages() == before - 1);
//! ```

pub use crate::pages::pool::free_pages;
