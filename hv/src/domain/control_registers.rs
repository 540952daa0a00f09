//! CR0 and CR4 as a guest may have them.

/// CR0.TS: the next use of the FPU faults.
pub const CR0_TS: u64 = 1 << 3;
/// CR4 bits that a guest may change; the others read as the hypervisor set them.
pub const CR4_GUEST: u64 = CR4_TSD | CR4_DE | CR4_FSGSBASE | CR4_OSXSAVE;
/// Time stamps are the kernel's alone, in CR4.
pub const CR4_TSD: u64 = 1 << 2;
/// Debugging extensions, in CR4.
pub const CR4_DE: u64 = 1 << 3;
/// FSGSBASE, in CR4.
pub const CR4_FSGSBASE: u64 = 1 << 16;
/// OSXSAVE, in CR4.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4 as a guest first sees it: physical address extension, machine checks, FXSAVE and SSE exceptions.
pub const CR4_AT_START: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;
