//! The machine's own ports and registers, for who drives devices and answers in their place.

/// I/O ports and model-specific registers, asked of the machine.
pub trait Ports {
    /// Reads `bytes` (1, 2 or 4) from a port.
    fn port_in(&self, port: u16, bytes: u8) -> u32;
    /// Writes `bytes` (1, 2 or 4) to a port.
    fn port_out(&self, port: u16, bytes: u8, value: u32);
    /// Reads a model-specific register of the machine; `None` if it faults.
    fn read_msr(&self, msr: u32) -> Option<u64>;
    /// Writes a model-specific register; returns whether it took.
    fn write_msr(&self, msr: u32, value: u64) -> bool;
    /// Whether the port is one that the hypervisor keeps to itself: of its console's serial line, or of the ACPI timer.
    fn is_own_port(&self, port: u16) -> bool;
    /// CPUID of the machine: EAX, EBX, ECX, EDX.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Sets the extended control register XCR0; returns whether the CPU took it.
    fn set_xcr0(&self, value: u64) -> bool;
}
