//! The devices that the hypervisor drives itself: serial port, interrupt controllers, timers, power.

pub(crate) mod apic;
pub(crate) mod clock;
pub(crate) mod ioapic;
pub(crate) mod power;
pub(crate) mod serial;
