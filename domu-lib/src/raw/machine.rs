//! Instructions that safe Rust has no words for: the time stamp counter, I/O ports, cpuid as the hypervisor answers it.
//!
//! # Example
//!
//! ```
//! use oxen_domu_lib::machine;
//!
//! let before = machine::tsc();
//! assert!(machine::tsc() >= before);
//! ```

use core::arch::asm;

/// The time stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: reading the counter has no effect on memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// What the hypervisor says to `cpuid` for this leaf: eax, ebx, ecx, edx.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (a, b, c, d): (u32, u64, u32, u32);
    // SAFETY: the prefix makes the hypervisor answer in the instruction's place; rbx is kept by hand.
    unsafe {
        asm!(
            "mov {keep}, rbx",
            ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e",
            "cpuid",
            "xchg {keep}, rbx",
            keep = out(reg) b,
            inout("eax") leaf => a,
            inout("ecx") subleaf => c,
            out("edx") d,
            options(nostack),
        );
    }
    [a, b as u32, c, d]
}

/// I/O ports; the hypervisor lets a guest through to those it was given, others read all ones and drop writes.
pub mod port {
    use core::arch::asm;

    /// Reads a byte.
    pub fn read8(port: u16) -> u8 {
        let value;
        // SAFETY: a port read touches no memory of ours.
        unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
        value
    }

    /// Reads 16 bits.
    pub fn read16(port: u16) -> u16 {
        let value;
        // SAFETY: as above.
        unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack)) };
        value
    }

    /// Reads 32 bits.
    pub fn read32(port: u16) -> u32 {
        let value;
        // SAFETY: as above.
        unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack)) };
        value
    }

    /// Writes a byte. What a device does to memory on its behalf is for the driver to know.
    pub fn write8(port: u16, value: u8) {
        // SAFETY: a port write touches no memory of ours by itself.
        unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
    }

    /// Writes 16 bits.
    pub fn write16(port: u16, value: u16) {
        // SAFETY: as above.
        unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack)) };
    }

    /// Writes 32 bits.
    pub fn write32(port: u16, value: u32) {
        // SAFETY: as above.
        unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
    }
}
