//! The CPU itself: what it can do, how it is set up, its translation caches.

use super::msr;
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use oxen_hv::{
    addr::{MachineAddr, Mfn},
    domain::vcpu::ExtendedState,
    processor::cpuid::{Vendor, leaves_x87_pointers},
};

/// What this CPU can do, as far as the hypervisor uses it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Features {
    /// XSAVE.
    pub xsave: bool,
    /// RDFSBASE and friends.
    pub fsgsbase: bool,
    /// No execution of guest pages in ring 0.
    pub smep: bool,
    /// No access to guest pages in ring 0.
    pub smap: bool,
    /// The APIC timer takes a TSC value.
    pub tsc_deadline: bool,
    /// RDTSCP.
    pub rdtscp: bool,
    /// The bits that XCR0 may have.
    pub xcr0: u64,
    /// Bits of a machine address.
    pub address_bits: u32,
    /// Loading extended state leaves the x87 pointers of who was there before.
    pub leaves_x87_pointers: bool,
}

impl Features {
    /// Asks the CPU.
    pub(crate) fn detect() -> Self {
        let leaf1 = __cpuid(1).ecx;
        let leaf7 = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
        let xsave = leaf1 & 1 << 26 != 0;
        let sizes = (__cpuid(0x8000_0000).eax >= 0x8000_0008).then(|| __cpuid(0x8000_0008));
        let mut xcr0 = 0;
        if xsave {
            let sizes = __cpuid_count(0xd, 0);
            xcr0 = (u64::from(sizes.edx) << 32 | u64::from(sizes.eax)) & ExtendedState::KEPT;
        }
        Self {
            xsave,
            fsgsbase: leaf7 & 1 != 0,
            smep: leaf7 & 1 << 7 != 0,
            smap: leaf7 & 1 << 20 != 0,
            tsc_deadline: leaf1 & 1 << 24 != 0,
            rdtscp: __cpuid(0x8000_0001).edx & 1 << 27 != 0,
            xcr0,
            address_bits: sizes.map_or(36, |sizes| sizes.eax & 0xff).clamp(32, 52),
            leaves_x87_pointers: leaves_x87_pointers(
                Vendor::by_name(__cpuid(0).ebx),
                sizes.map_or(0, |sizes| sizes.ebx),
            ),
        }
    }
}

/// Bits of CR4.
mod cr4 {
    pub(super) const TSD: u64 = 1 << 2;
    pub(super) const DE: u64 = 1 << 3;
    pub(super) const PAE: u64 = 1 << 5;
    pub(super) const MCE: u64 = 1 << 6;
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

/// Bits of CR4 that a guest may ask for.
const CR4_GUEST: u64 = cr4::TSD | cr4::DE | cr4::FSGSBASE | cr4::OSXSAVE;

/// Sets up control registers and MSRs of this CPU: what it offers to guests, what it denies itself.
///
/// # Safety
/// Once per CPU, after its block was filled; with SMAP, after `smap::enable`.
pub(crate) unsafe fn set_up(features: &Features) {
    let mut cr4 = cr4::DE | cr4::PAE | cr4::MCE | cr4::OSFXSR | cr4::OSXMMEXCPT;
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
    if features.xsave && try_set_xcr0(features.xcr0) {
        super::percpu::with_hardware(|cpu| cpu.xcr0 = features.xcr0);
    }
    // SAFETY: every 64-bit CPU has a PAT; no mapping of the hypervisor uses the entries that change.
    unsafe { msr::write(msr::PAT, PAT) }
}

/// Loads those bits of CR4 that are the guest's; says whether the CPU has what it asks. OSXSAVE, which shows only in
/// CPUID, stays on.
pub(crate) fn set_guest_cr4(features: &Features, wanted: u64) -> bool {
    if wanted & cr4::FSGSBASE != 0 && !features.fsgsbase || wanted & cr4::OSXSAVE != 0 && !features.xsave {
        return false;
    }
    let loaded: u64;
    // SAFETY: reads a control register.
    unsafe { asm!("mov {}, cr4", out(reg) loaded, options(nomem, nostack, preserves_flags)) }
    let next = loaded & !CR4_GUEST | wanted & CR4_GUEST | loaded & cr4::OSXSAVE;
    if next != loaded {
        // SAFETY: the bits that may differ change only what the guest may execute and what CPUID shows it.
        unsafe { asm!("mov cr4, {}", in(reg) next, options(nomem, nostack, preserves_flags)) }
    }
    true
}

/// Takes what the CPU says of the last debug exception.
pub(crate) fn take_debug_status() -> u64 {
    let status: u64;
    // SAFETY: DR6 only reports.
    unsafe {
        asm!("mov {s}, dr6", "mov dr6, {clear}", s = out(reg) status, clear = in(reg) DR6_CLEAR, options(nomem, nostack, preserves_flags));
    }
    status
}

/// DR6 when nothing was raised.
const DR6_CLEAR: u64 = 0xffff_0ff0;

/// Forgets every translation: CR4.PGE is clear, so none outlives this.
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

/// The page table root that is loaded.
pub(crate) fn root() -> Option<Mfn> {
    let machine: u64;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, cr3", out(reg) machine, options(nomem, nostack, preserves_flags)) }
    Mfn::containing(MachineAddr(machine))
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
