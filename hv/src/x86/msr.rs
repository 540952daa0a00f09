//! Model-specific registers.

use core::arch::asm;
use x86_64::registers::model_specific as registers;
use x86_64::registers::model_specific::Msr;

pub(crate) const APIC_BASE: Msr = registers::ApicBase::MSR;
pub(crate) const SYSENTER_CS: Msr = Msr::new(0x174);
pub(crate) const SYSENTER_ESP: Msr = Msr::new(0x175);
pub(crate) const SYSENTER_EIP: Msr = Msr::new(0x176);
pub(crate) const PAT: Msr = Msr::new(0x277);
pub(crate) const TSC_DEADLINE: Msr = Msr::new(0x6e0);
pub(crate) const EFER: Msr = registers::Efer::MSR;
pub(crate) const STAR: Msr = registers::Star::MSR;
pub(crate) const LSTAR: Msr = registers::LStar::MSR;
pub(crate) const CSTAR: Msr = Msr::new(0xc000_0083);
pub(crate) const SFMASK: Msr = registers::SFMask::MSR;
pub(crate) const FS_BASE: Msr = registers::FsBase::MSR;
pub(crate) const GS_BASE: Msr = registers::GsBase::MSR;
pub(crate) const KERNEL_GS_BASE: Msr = registers::KernelGsBase::MSR;
pub(crate) const TSC_AUX: Msr = Msr::new(0xc000_0103);

/// Reads a register.
///
/// # Safety
/// The CPU must have it.
#[inline]
pub(crate) unsafe fn read(register: Msr) -> u64 {
    // SAFETY: the caller knows that the register exists; reading these has no side effects.
    unsafe { register.read() }
}

/// Writes a register.
///
/// # Safety
/// The CPU must have it, take the value, and nobody may rely on what it changes.
#[inline]
pub(crate) unsafe fn write(mut register: Msr, value: u64) {
    // SAFETY: the caller's duty, as stated.
    unsafe { register.write(value) }
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

/// Writes a register that the CPU may not have, or with a value that it may not take; returns whether it did.
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
