//! What happens between domains by their grant tables ([`crate::grant`]): granted frames
//! are mapped, copied, transferred.

mod cache;
pub mod copy;
pub mod map;
mod parts;
mod tables;
pub mod transfer;

pub use tables::Peer;
pub(crate) use tables::lock_both;
