//! The pool of free pages.

pub use crate::pages::pool::free_pages;
