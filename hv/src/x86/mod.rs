//! The machine: everything that needs `unsafe`, behind the traits that the library declares.

pub(crate) mod cpu;
pub(crate) mod device;
pub(crate) mod entry;
pub(crate) mod machine;
pub(crate) mod memory;
mod msr;
mod panic;
pub(crate) mod percpu;
mod port;
mod processor;
pub(crate) mod running;
mod segments;
pub(crate) mod setup;
mod smp;
mod symbols;
pub(crate) mod watchdog;
