//! The CPU itself: what it can do, how it is set up, its translation caches.

use super::msr;
use bitflags::bitflags;
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use oxen_hv::{
    addr::{MachineAddr, Mfn},
    cpu_model::Vendor,
    domain::control_registers::CR4_GUEST,
    domain::vcpu::{DEBUG_STATUS_RESET, ExtendedState},
    features::{ExtendedEdx, Leaf1Ecx, Leaf7Ebx},
    ports::Registers,
    processor::cpuid::leaves_x87_pointers,
    trap::msr::PAT_VALUE,
};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr2, Cr3, Cr3Flags, Cr4, Cr4Flags};
use x86_64::registers::debug::Dr6Flags;
use x86_64::{PhysAddr, structures::paging::PhysFrame};

bitflags! {
    /// What a CPU can do, as far as the hypervisor uses it (Intel SDM vol. 2A, CPUID).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Feature: u32 {
        /// XSAVE.
        const XSAVE = 1 << 0;
        /// RDFSBASE and friends.
        const FSGSBASE = 1 << 1;
        /// No execution of guest pages in ring 0.
        const SMEP = 1 << 2;
        /// No access to guest pages in ring 0.
        const SMAP = 1 << 3;
        /// The APIC timer takes a TSC value.
        const TSC_DEADLINE = 1 << 4;
        /// RDTSCP.
        const RDTSCP = 1 << 5;
        /// Loading extended state leaves the x87 pointers of who was there before.
        const LEAVES_X87_POINTERS = 1 << 6;
    }
}

impl Feature {
    /// Asks the CPU.
    fn detect() -> Self {
        let (highest, highest_extended) = (__cpuid(0), __cpuid(0x8000_0000).eax);
        let leaf1 = Leaf1Ecx::from_bits_retain(__cpuid(1).ecx);
        let leaf7 = Leaf7Ebx::from_bits_retain(if highest.eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 });
        let extended = ExtendedEdx::from_bits_retain(__cpuid(0x8000_0001).edx);
        let extended8 = if highest_extended >= 0x8000_0008 { __cpuid(0x8000_0008).ebx } else { 0 };
        [
            (Self::XSAVE, leaf1.contains(Leaf1Ecx::XSAVE)),
            (Self::TSC_DEADLINE, leaf1.contains(Leaf1Ecx::TSC_DEADLINE)),
            (Self::FSGSBASE, leaf7.contains(Leaf7Ebx::FSGSBASE)),
            (Self::SMEP, leaf7.contains(Leaf7Ebx::SMEP)),
            (Self::SMAP, leaf7.contains(Leaf7Ebx::SMAP)),
            (Self::RDTSCP, extended.contains(ExtendedEdx::RDTSCP)),
            (Self::LEAVES_X87_POINTERS, leaves_x87_pointers(Vendor::by_name(highest.ebx), extended8)),
        ]
        .into_iter()
        .filter_map(|(feature, is_there)| is_there.then_some(feature))
        .collect()
    }
}

/// What this CPU can do, and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    /// What it can do.
    pub has: Feature,
    /// The bits that XCR0 may have.
    pub xcr0: u64,
    /// Bits of a machine address.
    pub address_bits: u32,
}

impl Features {
    /// Whether the CPU can do this.
    #[inline]
    pub(crate) const fn has(&self, feature: Feature) -> bool {
        self.has.contains(feature)
    }

    /// Asks the CPU.
    pub(crate) fn detect() -> Self {
        let has = Feature::detect();
        let sizes = (__cpuid(0x8000_0000).eax >= 0x8000_0008).then(|| __cpuid(0x8000_0008));
        let mut xcr0 = 0;
        if has.contains(Feature::XSAVE) {
            let sizes = __cpuid_count(0xd, 0);
            xcr0 = (u64::from(sizes.edx) << 32 | u64::from(sizes.eax)) & ExtendedState::KEPT;
        }
        Self { has, xcr0, address_bits: sizes.map_or(36, |sizes| sizes.eax & 0xff).clamp(32, 52) }
    }
}

/// The CPU itself, for who asks it before there is a machine.
#[derive(Debug)]
pub(crate) struct Bare;

impl Registers for Bare {
    fn read_msr(&self, msr: u32) -> Option<u64> {
        msr::try_read(msr)
    }

    fn write_msr(&self, msr: u32, value: u64) -> bool {
        msr::try_write(msr, value)
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let found = __cpuid_count(leaf, subleaf);
        [found.eax, found.ebx, found.ecx, found.edx]
    }

    fn set_xcr0(&self, value: u64) -> bool {
        try_set_xcr0(value)
    }
}

/// Leaves of CPUID that are asked often, as the boot CPU answered them: the instruction takes hundreds of cycles, and
/// is emulated itself where this machine is a virtual one. None of them changes once control registers are set up, but
/// for the CPU's own number in leaf 1, which guests are not told.
#[derive(Debug)]
pub(crate) struct Leaves {
    /// Leaves 0 and 1, and leaf 7 with subleaf 0.
    basic: [[u32; 4]; 3],
    /// Those from 0x80000000 on.
    extended: [[u32; 4]; EXTENDED_LEAVES],
}

const FIRST_EXTENDED_LEAF: u32 = 0x8000_0000;
const EXTENDED_LEAVES: usize = 9;

impl Leaves {
    /// Asks the CPU, whose control registers are set up.
    pub(crate) fn read() -> Self {
        let extended = core::array::from_fn(|index| Bare.cpuid(FIRST_EXTENDED_LEAF + index as u32, 0));
        Self { basic: [0, 1, 7].map(|leaf| Bare.cpuid(leaf, 0)), extended }
    }

    /// The answer to a leaf.
    #[inline]
    pub(crate) fn get(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let [zero, one, seven] = self.basic;
        match leaf {
            0 => zero,
            1 => one,
            7 if subleaf == 0 => seven,
            _ => match self.extended.get(leaf.wrapping_sub(FIRST_EXTENDED_LEAF) as usize) {
                Some(&answer) => answer,
                None => Bare.cpuid(leaf, subleaf),
            },
        }
    }
}

/// Sets up control registers and MSRs of this CPU: what it offers to guests, what it denies itself.
///
/// # Safety
/// Once per CPU, after its block was filled; with SMAP, after `smap::enable`.
pub(crate) unsafe fn set_up(features: &Features) {
    let mut cr4 = Cr4Flags::DEBUGGING_EXTENSIONS
        | Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
        | Cr4Flags::MACHINE_CHECK_EXCEPTION
        | Cr4Flags::OSFXSR
        | Cr4Flags::OSXMMEXCPT_ENABLE;
    cr4.set(Cr4Flags::FSGSBASE, features.has(Feature::FSGSBASE));
    cr4.set(Cr4Flags::OSXSAVE, features.has(Feature::XSAVE));
    cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, features.has(Feature::SMEP));
    cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.has(Feature::SMAP));
    // SAFETY: each bit was found in CPUID, and the hypervisor's own code abides by all of them.
    unsafe { Cr4::write_raw(cr4.bits()) }
    if features.has(Feature::XSAVE) && try_set_xcr0(features.xcr0) {
        super::percpu::this().xcr0.set(features.xcr0);
    }
    // SAFETY: every 64-bit CPU has a PAT; no mapping of the hypervisor uses the entries that change.
    unsafe { msr::write(msr::PAT, PAT_VALUE) }
}

/// Loads those bits of CR4 that are the guest's; returns whether the CPU has what it asks. OSXSAVE, which shows only in
/// CPUID, stays on.
pub(crate) fn set_guest_cr4(features: &Features, wanted: Cr4Flags) -> bool {
    let asks = |flag| wanted.contains(flag);
    let lacks = |feature| !features.has(feature);
    if asks(Cr4Flags::FSGSBASE) && lacks(Feature::FSGSBASE) || asks(Cr4Flags::OSXSAVE) && lacks(Feature::XSAVE) {
        return false;
    }
    let loaded = Cr4Flags::from_bits_retain(Cr4::read_raw());
    let next = (loaded - CR4_GUEST) | wanted & CR4_GUEST | loaded & Cr4Flags::OSXSAVE;
    if next != loaded {
        // SAFETY: the bits that may differ change only what the guest may execute and what CPUID shows it.
        unsafe { Cr4::write_raw(next.bits()) }
    }
    true
}

/// Takes what the CPU says of the last debug exception.
pub(crate) fn take_debug_status() -> Dr6Flags {
    let status: u64;
    // SAFETY: DR6 only reports.
    unsafe {
        asm!(
            "mov {s}, dr6",
            "mov dr6, {clear}",
            s = out(reg) status,
            clear = in(reg) DEBUG_STATUS_RESET.bits(),
            options(nomem, nostack, preserves_flags),
        );
    }
    Dr6Flags::from_bits_retain(status)
}

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
    // SAFETY: the caller's duty; a root is a whole frame of machine memory.
    unsafe {
        let root = PhysFrame::from_start_address_unchecked(PhysAddr::new_unsafe(machine));
        Cr3::write(root, Cr3Flags::empty());
    }
}

/// The page table root that is loaded.
pub(crate) fn root() -> Option<Mfn> {
    let (root, _) = Cr3::read_raw();
    Mfn::containing(MachineAddr::new(root.start_address().as_u64()))
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
            Cr0::write_raw(Cr0::read_raw() | Cr0Flags::TASK_SWITCHED.bits());
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
    Cr2::read_raw()
}

/// Sets XCR0 if the CPU takes it; returns whether it did.
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
