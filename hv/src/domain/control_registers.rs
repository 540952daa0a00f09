//! CR0 and CR4 as a guest may have them.

use x86_64::registers::control::{Cr0Flags, Cr4Flags};

/// CR0.TS: the next use of the FPU faults.
pub const CR0_TS: u64 = Cr0Flags::TASK_SWITCHED.bits();
/// CR4 bits that a guest may change; the others read as the hypervisor set them.
pub const CR4_GUEST: u64 = CR4_TSD | CR4_DE | CR4_FSGSBASE | CR4_OSXSAVE;
/// Time stamps are the kernel's alone, in CR4.
pub const CR4_TSD: u64 = Cr4Flags::TIMESTAMP_DISABLE.bits();
/// Debugging extensions, in CR4.
pub const CR4_DE: u64 = Cr4Flags::DEBUGGING_EXTENSIONS.bits();
/// FSGSBASE, in CR4.
pub const CR4_FSGSBASE: u64 = Cr4Flags::FSGSBASE.bits();
/// OSXSAVE, in CR4.
pub const CR4_OSXSAVE: u64 = Cr4Flags::OSXSAVE.bits();
/// CR4 as a guest first sees it: physical address extension, machine checks, FXSAVE and SSE exceptions.
pub const CR4_AT_START: u64 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
    .union(Cr4Flags::MACHINE_CHECK_EXCEPTION)
    .union(Cr4Flags::OSFXSR)
    .union(Cr4Flags::OSXMMEXCPT_ENABLE)
    .bits();
