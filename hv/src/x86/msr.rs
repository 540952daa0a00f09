//! Model-specific registers.

use core::arch::asm;

pub(crate) const APIC_BASE: u32 = 0x1b;
pub(crate) const SYSENTER_CS: u32 = 0x174;
pub(crate) const SYSENTER_ESP: u32 = 0x175;
pub(crate) const SYSENTER_EIP: u32 = 0x176;
pub(crate) const PAT: u32 = 0x277;
pub(crate) const TSC_DEADLINE: u32 = 0x6e0;
pub(crate) const EFER: u32 = 0xc000_0080;
pub(crate) const STAR: u32 = 0xc000_0081;
pub(crate) const LSTAR: u32 = 0xc000_0082;
pub(crate) const CSTAR: u32 = 0xc000_0083;
pub(crate) const SFMASK: u32 = 0xc000_0084;
pub(crate) const FS_BASE: u32 = 0xc000_0100;
pub(crate) const GS_BASE: u32 = 0xc000_0101;
pub(crate) const KERNEL_GS_BASE: u32 = 0xc000_0102;
pub(crate) const TSC_AUX: u32 = 0xc000_0103;

/// Reads a register.
///
/// # Safety
/// The CPU must have it.
#[inline]
pub(crate) unsafe fn read(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller knows that the register exists; reading these has no side effects.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a register.
///
/// # Safety
/// The CPU must have it, take the value, and nobody may rely on what it changes.
#[inline]
pub(crate) unsafe fn write(register: u32, value: u64) {
    // SAFETY: the caller's duty, as stated.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
}

/// Reads a register that the CPU may not have.
pub(crate) fn try_read(register: u32) -> Option<u64> {
    let (low, high): (u32, u32);
    let failed: u8;
    // SAFETY: a fault is foreseen.
    unsafe {
        asm!(
            "clc",
            "2: rdmsr",
            "3: setc {failed}",
            ".pushsection .fixups, \"a\"",
            ".long 2b - ., 3b - .",
            ".popsection",
            in("ecx") register,
            out("eax") low,
            out("edx") high,
            failed = out(reg_byte) failed,
            options(nomem, nostack),
        );
    }
    (failed == 0).then_some(u64::from(high) << 32 | u64::from(low))
}

/// Writes a register that the CPU may not have, or with a value that it may not take; says whether it did.
pub(crate) fn try_write(register: u32, value: u64) -> bool {
    let failed: u8;
    // SAFETY: a fault is foreseen; the library passes only registers that nothing of the hypervisor depends on.
    unsafe {
        asm!(
            "clc",
            "2: wrmsr",
            "3: setc {failed}",
            ".pushsection .fixups, \"a\"",
            ".long 2b - ., 3b - .",
            ".popsection",
            in("ecx") register,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            failed = lateout(reg_byte) failed,
            options(nostack),
        );
    }
    failed == 0
}
