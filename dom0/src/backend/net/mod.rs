//! The network backend: frames off and onto rings shared with a guest, between it and the bridge.

pub mod device;
pub mod rate;
pub mod receive;
pub mod session;
pub mod slots;
pub mod transmit;
