//! Protocols spoken between domains through shared pages and XenStore (`io/*.h`).

pub mod blkif;
pub mod console;
pub mod netif;
pub mod protocols;
pub mod ring;
pub mod xenbus;
pub mod xs_wire;
