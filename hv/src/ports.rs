//! The machine's own ports and registers, for who drives devices and answers in their place.

use core::ops::RangeInclusive;

/// Whether two ranges of ports, neither of them empty, share one.
#[inline]
#[must_use]
pub fn overlap(ports: &RangeInclusive<u16>, others: &RangeInclusive<u16>) -> bool {
    ports.start() <= others.end() && others.start() <= ports.end()
}

/// The machine's I/O ports.
pub trait Ports {
    /// Reads `bytes` (1, 2 or 4) from a port.
    fn port_in(&self, port: u16, bytes: u8) -> u32;
    /// Writes `bytes` (1, 2 or 4) to a port.
    fn port_out(&self, port: u16, bytes: u8, value: u32);
    /// Whether one of the ports is one that the hypervisor keeps to itself: of its console's
    /// serial line, or of the ACPI timer.
    fn has_own_port(&self, ports: RangeInclusive<u16>) -> bool;
}

/// What the CPU says of itself, and the registers by which it is told.
pub trait Registers {
    /// CPUID: EAX, EBX, ECX, EDX.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Reads a model-specific register; `None` if it faults.
    fn read_msr(&self, msr: u32) -> Option<u64>;
    /// Writes a model-specific register; returns whether it took.
    fn write_msr(&self, msr: u32, value: u64) -> bool;
    /// Sets the extended control register XCR0; returns whether the CPU took it.
    fn set_xcr0(&self, value: u64) -> bool;
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[test]
    fn ranges_overlap_where_they_share_a_port() {
        for (ports, is_shared) in [(0x3f7..=0x3f7, false), (0x3f7..=0x3f8, true), (0x3fa..=0x3fb, true)] {
            assert_eq!(overlap(&ports, &(0x3f8..=0x3ff)), is_shared, "{ports:x?}");
            assert_eq!(overlap(&(0x3f8..=0x3ff), &ports), is_shared, "{ports:x?}");
        }
        assert!(overlap(&(0..=0xffff), &(0x3f8..=0x3ff)) && !overlap(&(0x400..=0x403), &(0x3f8..=0x3ff)));
    }
}
