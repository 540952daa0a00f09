//! Backends: the halves of split devices that have the hardware, one task for each device.

pub mod block;
pub mod console;
pub mod device;
pub mod net;
pub mod session;
