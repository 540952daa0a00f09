//! Hypercalls: one exhaustive match, one line per call.

pub mod console;
pub mod event;
pub mod version;
