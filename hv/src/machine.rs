//! The sum of what the library asks of the hardware. Each trait stands where it is used.

/// A machine: everything the library cannot do by itself. Generic parameters, never trait
/// objects: hot paths are static.
pub trait Machine:
    crate::mem::Hardware
    + crate::domain::vcpu::Processor
    + crate::hardware::Clock
    + crate::hardware::Power
    + crate::console::Serial
    + crate::event::pirq::Interrupts
    + core::fmt::Debug
    + Send
    + Sync
    + 'static
{
}
