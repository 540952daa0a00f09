//! The block backend: requests off a ring shared with a guest, judged whole, handed to a disk.

pub mod device;
pub mod ledger;
pub mod request;
pub mod session;
