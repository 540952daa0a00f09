//! CR0 and CR4 as a guest may have them.

use x86_64::registers::control::{Cr0Flags, Cr4Flags};

/// CR0 as every PV guest sees it: protection, paging, numeric errors, write protection; TS is the guest's own.
pub const CR0: Cr0Flags = Cr0Flags::PROTECTED_MODE_ENABLE
    .union(Cr0Flags::MONITOR_COPROCESSOR)
    .union(Cr0Flags::EXTENSION_TYPE)
    .union(Cr0Flags::NUMERIC_ERROR)
    .union(Cr0Flags::WRITE_PROTECT)
    .union(Cr0Flags::ALIGNMENT_MASK)
    .union(Cr0Flags::PAGING);
const _: () = assert!(CR0.bits() == 0x8005_0033);
/// CR4 bits that a guest may change; the others read as the hypervisor set them.
pub const CR4_GUEST: Cr4Flags = Cr4Flags::TIMESTAMP_DISABLE
    .union(Cr4Flags::DEBUGGING_EXTENSIONS)
    .union(Cr4Flags::FSGSBASE)
    .union(Cr4Flags::OSXSAVE);
/// CR4 as a guest first sees it: physical address extension, machine checks, FXSAVE and SSE exceptions.
pub const CR4_AT_START: Cr4Flags = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
    .union(Cr4Flags::MACHINE_CHECK_EXCEPTION)
    .union(Cr4Flags::OSFXSR)
    .union(Cr4Flags::OSXMMEXCPT_ENABLE);
