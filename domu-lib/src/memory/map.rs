//! Windows: frames mapped at addresses of their own, for as long as a value lives.

pub use crate::raw::memory::mapping::Mapping;
pub use crate::raw::memory::words::{Access, Words};
