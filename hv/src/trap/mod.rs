//! Everything that brings a guest into the hypervisor other than a hypercall, and the way back.

/// Bits of [`crate::domain::vcpu::Vcpu::work`] and [`crate::sched::CpuShared::work`].
pub mod work {
    /// Another vcpu may have to run.
    pub const RESCHEDULE: u32 = 1 << 0;
    /// Deadlines may have passed.
    pub const TIMER: u32 = 1 << 1;
    /// An NMI waits for the vcpu.
    pub const NMI: u32 = 1 << 2;
}

/// One exception's handler in the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrapHandler {
    /// Where; 0 if there is none.
    pub address: u64,
    /// The code selector.
    pub cs: u16,
    /// `TrapInfo.flags`: DPL in bits 0 and 1, bit 2 masks events.
    pub flags: u8,
}

/// The guest's handlers, by vector.
#[derive(Clone, Debug)]
pub struct TrapTable(pub [TrapHandler; 256]);

/// I/O ports, asked of the machine.
pub trait Ports {
    /// Reads `bytes` (1, 2 or 4) from a port.
    fn port_in(&self, port: u16, bytes: u8) -> u32;
    /// Writes `bytes` (1, 2 or 4) to a port.
    fn port_out(&self, port: u16, bytes: u8, value: u32);
    /// Reads a model-specific register of the machine; `None` if it faults.
    fn read_msr(&self, msr: u32) -> Option<u64>;
    /// Writes a model-specific register; says whether it took.
    fn write_msr(&self, msr: u32, value: u64) -> bool;
}
