//! The CPU itself: what it can do, how it is set up, its translation caches.

use super::msr;
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

/// What this CPU can do, as far as the hypervisor uses it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Features {
    /// XSAVE.
    pub xsave: bool,
    /// XSAVEOPT.
    pub xsaveopt: bool,
    /// RDFSBASE and friends.
    pub fsgsbase: bool,
    /// No execution of guest pages in ring 0.
    pub smep: bool,
    /// No access to guest pages in ring 0.
    pub smap: bool,
    /// The APIC timer takes a TSC value.
    pub tsc_deadline: bool,
    /// The bits that XCR0 may have.
    pub xcr0: u64,
}

impl Features {
    /// Asks the CPU.
    pub(crate) fn detect() -> Self {
        let leaf1 = __cpuid(1).ecx;
        let leaf7 = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
        let xsave = leaf1 & 1 << 26 != 0;
        let (mut xcr0, mut xsaveopt) = (0, false);
        if xsave {
            let sizes = __cpuid_count(0xd, 0);
            xcr0 = (u64::from(sizes.edx) << 32 | u64::from(sizes.eax)) & XCR0_KEPT;
            xsaveopt = __cpuid_count(0xd, 1).eax & 1 != 0;
        }
        Self {
            xsave,
            xsaveopt,
            fsgsbase: leaf7 & 1 != 0,
            smep: leaf7 & 1 << 7 != 0,
            smap: leaf7 & 1 << 20 != 0,
            tsc_deadline: leaf1 & 1 << 24 != 0,
            xcr0,
        }
    }
}

/// x87, SSE, AVX and AVX-512: what `ExtendedState` has room for.
const XCR0_KEPT: u64 = 0xe7;

/// Bits of CR4.
mod cr4 {
    pub(super) const DE: u64 = 1 << 3;
    pub(super) const PAE: u64 = 1 << 5;
    pub(super) const MCE: u64 = 1 << 6;
    pub(super) const PGE: u64 = 1 << 7;
    pub(super) const OSFXSR: u64 = 1 << 9;
    pub(super) const OSXMMEXCPT: u64 = 1 << 10;
    pub(super) const FSGSBASE: u64 = 1 << 16;
    pub(super) const OSXSAVE: u64 = 1 << 18;
    pub(super) const SMEP: u64 = 1 << 20;
    pub(super) const SMAP: u64 = 1 << 21;
}

/// The memory types behind the PAT bits, as the ABI fixes them: WB WT UC- UC WC WP UC UC.
const PAT: u64 = 0x0000_0501_0007_0406;

/// CR0.TS.
const TASK_SWITCHED: u64 = 1 << 3;

/// Sets up control registers and MSRs of this CPU: what it offers to guests, what it denies itself.
///
/// # Safety
/// Once per CPU; with SMAP, after `smap::enable`.
pub(crate) unsafe fn set_up(features: &Features) {
    let mut cr4 = cr4::DE | cr4::PAE | cr4::MCE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    for (has, bit) in [
        (features.fsgsbase, cr4::FSGSBASE),
        (features.xsave, cr4::OSXSAVE),
        (features.smep, cr4::SMEP),
        (features.smap, cr4::SMAP),
    ] {
        cr4 |= if has { bit } else { 0 };
    }
    // SAFETY: each bit was found in CPUID, and the hypervisor's own code abides by all of them.
    unsafe { asm!("mov cr4, {}", in(reg) cr4, options(nomem, nostack, preserves_flags)) }
    if features.xsave {
        try_set_xcr0(features.xcr0);
    }
    // SAFETY: every 64-bit CPU has a PAT; no mapping of the hypervisor uses the entries that change.
    unsafe { msr::write(msr::PAT, PAT) }
}

/// Forgets every translation, global ones too.
pub(crate) fn flush_everything() {
    // SAFETY: clearing and setting PGE changes nothing but the translation caches.
    unsafe {
        asm!(
            "mov {a}, cr4",
            "mov {b}, {a}",
            "and {b}, {mask}",
            "mov cr4, {b}",
            "mov cr4, {a}",
            a = out(reg) _, b = out(reg) _, mask = const !(cr4::PGE as i32),
            options(nostack),
        );
    }
}

/// Forgets what is not global.
#[inline]
pub(crate) fn flush() {
    // SAFETY: loading CR3 with itself changes nothing but the translation caches.
    unsafe { asm!("mov {a}, cr3", "mov cr3, {a}", a = out(reg) _, options(nostack, preserves_flags)) }
}

/// Forgets the translation of one page.
#[inline]
pub(crate) fn invalidate(address: u64) {
    // SAFETY: changes nothing but the translation caches.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) }
}

/// Loads the page table root.
///
/// # Safety
/// It must hold the hypervisor's slots.
#[inline]
pub(crate) unsafe fn load_root(machine: u64) {
    // SAFETY: the caller's duty.
    unsafe { asm!("mov cr3, {}", in(reg) machine, options(nostack, preserves_flags)) }
}

/// Writes back and forgets the data caches.
pub(crate) fn flush_caches() {
    // SAFETY: changes no contents.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) }
}

/// Sets or clears CR0.TS.
pub(crate) fn set_task_switched(set: bool) {
    // SAFETY: TS concerns only instructions that the hypervisor does not execute, but when it clears TS first.
    unsafe {
        if set {
            asm!("mov {a}, cr0", "or {a}, {ts}", "mov cr0, {a}", a = out(reg) _, ts = const TASK_SWITCHED, options(nomem, nostack));
        } else {
            asm!("clts", options(nomem, nostack, preserves_flags));
        }
    }
}

/// The time stamp counter, not read before what precedes it has been done.
#[inline]
pub(crate) fn ticks() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) }
    u64::from(high) << 32 | u64::from(low)
}

/// The address of the last page fault.
#[inline]
pub(crate) fn fault_address() -> u64 {
    let address;
    // SAFETY: reads a control register.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) }
    address
}

/// Sets XCR0 if the CPU takes it; says whether it did.
pub(crate) fn try_set_xcr0(value: u64) -> bool {
    let failed: u8;
    // SAFETY: a fault is foreseen; the hypervisor itself uses no extended state.
    unsafe {
        asm!(
            "clc",
            "2: xsetbv",
            "3: setc {failed}",
            ".pushsection .fixups, \"a\"",
            ".long 2b - ., 3b - .",
            ".popsection",
            in("ecx") 0,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            failed = lateout(reg_byte) failed,
            options(nomem, nostack),
        );
    }
    failed == 0
}

/// Waits, with interrupts on for that long only.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: an interrupt that comes in touches only words that are atomic; STI takes effect after HLT has begun.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}
