//! The devices that the hypervisor drives itself: serial port, interrupt controllers, timers, power.

pub(crate) mod apic;
pub(crate) mod clock;
mod interrupts;
pub(crate) mod ioapic;
pub(crate) mod patience;
pub(crate) mod power;
pub(crate) mod serial;
