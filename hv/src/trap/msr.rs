//! Model-specific registers as a PV guest sees them (as of Xen 4.17): a short list; everything else faults.
//!
//! A register that only looks present reads as zero, and drops what is written: kernels touch some of them unguarded.

use crate::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    cpu_model::{CpuModel, Vendor},
    machine::Machine,
    speculation::ARCH_CAPABILITIES,
};
use bitflags::bitflags;
use x86_64::registers::model_specific::{ApicBaseFlags, EferFlags};

const P5_MACHINE_CHECKS: core::ops::RangeInclusive<u32> = 0..=1;
const TSC: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const APIC_BASE: u32 = 0x1b;
const FEATURE_CONTROL: u32 = 0x3a;
const MICROCODE_VERSION: u32 = 0x8b;
/// Intel's performance counters, their controls, and the fixed ones with theirs.
const INTEL_COUNTERS: [core::ops::RangeInclusive<u32>; 4] = [0xc1..=0xc8, 0x186..=0x189, 0x309..=0x30b, 0x38d..=0x390];
const PLATFORM_INFO: u32 = 0xce;
/// How fast the CPU ran of late: MPERF and APERF.
const RUNNING_COUNTS: core::ops::RangeInclusive<u32> = 0xe7..=0xe8;
const MISC_FEATURES: u32 = 0x140;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
const PERF_STATUS: u32 = 0x198;
const PERF_CONTROL: u32 = 0x199;
const THERM_CONTROL: u32 = 0x19a;
const THERM_STATUS: u32 = 0x19c;
const MISC_ENABLE: u32 = 0x1a0;
const ENERGY_PERF_BIAS: u32 = 0x1b0;
const PAT: u32 = 0x277;
/// By what each bank for machine checks interrupts.
const MACHINE_CHECK_INTERRUPTS: core::ops::RangeInclusive<u32> = 0x280..=0x29f;
const PERF_CAPABILITIES: u32 = 0x345;
/// Control, status, address and more, of each bank for machine checks that there could be.
const MACHINE_CHECKS: core::ops::RangeInclusive<u32> = 0x400..=0x47f;
/// The hypervisor's own, as CPUID leaf 0x40000002 names it: a write fills a page with the hypercall stubs.
const HYPERCALL_PAGE: u32 = 0x4000_0000;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
/// AMD's first four performance counters: control, then count; and the six of later CPUs.
const AMD_COUNTERS: [core::ops::RangeInclusive<u32>; 2] = [0xc001_0000..=0xc001_0007, 0xc001_0200..=0xc001_020b];
const SYSTEM_CONFIGURATION: u32 = 0xc001_0010;
const AMD_HARDWARE_CONFIGURATION: u32 = 0xc001_0015;
/// Where AMD's CPUs find memory: special ranges, the top below 4 GiB and above, and where system management has its
/// own.
const MEMORY_PLACES: [core::ops::RangeInclusive<u32>; 3] =
    [0xc001_0016..=0xc001_001a, 0xc001_001d..=0xc001_001d, 0xc001_0112..=0xc001_0113];
const NORTHBRIDGE_CONFIGURATION: u32 = 0xc001_001f;
/// AMD's frequency and voltage: of old CPUs, then limit, control, status and the states.
const AMD_FREQUENCIES: [core::ops::RangeInclusive<u32>; 2] = [0xc001_0041..=0xc001_0042, 0xc001_0061..=0xc001_006b];
const CONFIGURATION_SPACE_BASE: u32 = 0xc001_0058;
const AMD_DECODE_CONFIGURATION: u32 = 0xc001_1029;

/// Banks for machine checks: there are two, in which nothing ever happens.
const BANKS: u32 = 2;

bitflags! {
    /// What Intel's CPUs say in `MCG_CAP` beside the number of banks (Intel SDM vol. 3B, 15.3.1.1).
    struct BankFeatures: u32 {
        /// Interrupts for corrected errors (`MCG_CMCI_P`).
        const CORRECTED_INTERRUPTS = 1 << 10;
        /// How many were corrected (`MCG_TES_P`).
        const THRESHOLD_STATUS = 1 << 11;
        /// Recovery by software (`MCG_SER_P`).
        const SOFTWARE_RECOVERY = 1 << 24;
    }

    /// `MISC_ENABLE` (Intel SDM vol. 4, 2.1).
    struct MiscEnable: u64 {
        const PERFORMANCE_MONITOR = 1 << 7;
        const NO_BRANCH_TRACE_STORE = 1 << 11;
        const NO_PRECISE_EVENTS = 1 << 12;
        const MONITOR = 1 << 18;
        /// No messages of a task's priority (xTPR).
        const NO_PRIORITY_MESSAGES = 1 << 23;
    }

    /// `SYSTEM_CONFIGURATION`: which memory types are in force (AMD manual vol. 2, 7.9).
    struct MemoryTypes: u64 {
        /// Of the fixed ranges.
        const FIXED = 1 << 18;
        /// Of the variable ranges.
        const VARIABLE = 1 << 20;
        /// There is memory above 4 GiB, up to a limit of its own.
        const ABOVE_4_GIB = 1 << 21;
        /// That memory is written back.
        const ABOVE_4_GIB_IS_WRITE_BACK = 1 << 22;
    }
}

/// `MISC_ENABLE`: what every guest sees set, and clear.
const MISC_ENABLE_SET: MiscEnable =
    MiscEnable::NO_BRANCH_TRACE_STORE.union(MiscEnable::NO_PRECISE_EVENTS).union(MiscEnable::NO_PRIORITY_MESSAGES);
const MISC_ENABLE_CLEAR: MiscEnable = MiscEnable::PERFORMANCE_MONITOR.union(MiscEnable::MONITOR);
/// `APIC_BASE`: the usual place.
const APIC_PLACE: u64 = 0xfee0_0000;
/// `FEATURE_CONTROL`: locked, with nothing allowed.
const LOCKED: u64 = 1;
/// AMD's LFENCE waits for what is before it.
const LFENCE_SERIALISES: u64 = 1 << 1;

/// The memory types by PAT index, the same for everybody: WB WT UC- UC WC WP UC UC.
pub const PAT_VALUE: u64 = 0x0000_0501_0007_0406;
/// SYSCALL, long mode and no-execute, as a guest finds them on.
const EFER_VALUE: u64 = EferFlags::SYSTEM_CALL_EXTENSIONS
    .union(EferFlags::LONG_MODE_ENABLE)
    .union(EferFlags::LONG_MODE_ACTIVE)
    .union(EferFlags::NO_EXECUTE_ENABLE)
    .bits();

impl<M: Machine> Caller<'_, M> {
    /// Reads a register for the caller; `None`: the instruction faults.
    #[must_use]
    pub fn read_msr(&self, msr: u32) -> Option<u64> {
        let machine = self.hv.machine();
        match msr {
            FS_BASE => Some(machine.bases(self.state).0),
            GS_BASE => Some(machine.bases(self.state).1),
            KERNEL_GS_BASE => Some(machine.bases(self.state).2),
            EFER => Some(EFER_VALUE),
            PAT => Some(PAT_VALUE),
            TSC => Some(self.hv.read_tsc(self.domain)),
            TSC_AUX => Some(self.state.tsc_aux.into()),
            APIC_BASE => {
                let boots = if self.vcpu.id == 0 { ApicBaseFlags::BSP } else { ApicBaseFlags::empty() };
                Some(APIC_PLACE | (ApicBaseFlags::LAPIC_ENABLE | boots).bits())
            }
            MICROCODE_VERSION => machine.read_msr(msr),
            MISC_ENABLE => {
                let found = machine.read_msr(msr).map(MiscEnable::from_bits_retain);
                found.map(|value| value.difference(MISC_ENABLE_CLEAR).union(MISC_ENABLE_SET).bits())
            }
            MCG_CAP if Vendor::of(machine) == Vendor::Intel => Some((BANKS | BankFeatures::all().bits()).into()),
            MCG_CAP => Some(BANKS.into()),
            MCG_STATUS => Some(self.state.machine_check_status),
            MCG_CTL | PLATFORM_INFO | MISC_FEATURES | PERF_CAPABILITIES | HYPERCALL_PAGE => Some(0),
            NORTHBRIDGE_CONFIGURATION => Some(0),
            _ if P5_MACHINE_CHECKS.contains(&msr) || MACHINE_CHECK_INTERRUPTS.contains(&msr) => Some(0),
            _ if MACHINE_CHECKS.contains(&msr) => Some(if is_bank_control(msr) { u64::MAX } else { 0 }),
            _ => self
                .read_vendor_msr(msr)
                .or_else(|| self.read_speculation_msr(msr))
                .or_else(|| self.read_forgiven_msr(msr)),
        }
    }

    /// What only one vendor's CPUs have.
    fn read_vendor_msr(&self, msr: u32) -> Option<u64> {
        let machine = self.hv.machine();
        let vendor = Vendor::of(machine);
        match (vendor, msr) {
            (Vendor::Intel, FEATURE_CONTROL) => Some(LOCKED),
            (Vendor::Intel, PLATFORM_ID) => machine.read_msr(msr),
            (Vendor::Intel, ARCH_CAPABILITIES) => self.speculation_capabilities(),
            (Vendor::Intel, PERF_STATUS | PERF_CONTROL | THERM_STATUS) => Some(0),
            (Vendor::Intel, _) => is_in(&INTEL_COUNTERS, msr).then_some(0),
            (Vendor::Amd | Vendor::Hygon, AMD_HARDWARE_CONFIGURATION) => Some(0),
            (Vendor::Amd | Vendor::Hygon, AMD_DECODE_CONFIGURATION) => Some(LFENCE_SERIALISES),
            (Vendor::Amd | Vendor::Hygon, SYSTEM_CONFIGURATION) if self.domain.is_privileged() => {
                machine.read_msr(msr).map(|value| value & MemoryTypes::all().bits())
            }
            (Vendor::Amd | Vendor::Hygon, _) if self.domain.is_privileged() && is_in(&MEMORY_PLACES, msr) => {
                machine.read_msr(msr)
            }
            (Vendor::Amd | Vendor::Hygon, _) if is_in(&AMD_COUNTERS, msr) => Some(0),
            (Vendor::Amd, CONFIGURATION_SPACE_BASE) => self.has_configuration_space_base().then_some(0),
            (Vendor::Amd, _) => is_in(&AMD_FREQUENCIES, msr).then_some(0),
            _ => None,
        }
    }

    /// What the CPU has and guests do not reads as zero for a kernel that has no handler for the fault yet, and for a
    /// domain whose toolstack wants it so.
    #[cold]
    fn read_forgiven_msr(&self, msr: u32) -> Option<u64> {
        const HYPERVISORS_OWN: u32 = HYPERCALL_PAGE >> 16;
        let has_handler = self.state.traps.handler(super::vector::GENERAL_PROTECTION).address != 0;
        let is_asked = self.domain.is_msr_relaxed || !has_handler && msr >> 16 != HYPERVISORS_OWN;
        if is_asked { self.hv.machine().read_msr(msr).map(|_| 0) } else { None }
    }

    /// Writes a register for the caller; `false`: the instruction faults.
    #[must_use]
    pub fn write_msr(&mut self, msr: u32, value: u64) -> bool {
        match msr {
            FS_BASE | GS_BASE | KERNEL_GS_BASE if !GuestAddr::new(value).is_canonical() => false,
            FS_BASE => {
                self.state.fs_base = value;
                self.hv.machine().set_fs_base(value);
                true
            }
            GS_BASE => {
                self.state.gs_base_kernel = value;
                self.hv.machine().set_gs_base(value);
                true
            }
            KERNEL_GS_BASE => {
                self.state.gs_base_user = value;
                self.hv.machine().set_other_gs_base(value);
                true
            }
            EFER => value == EFER_VALUE,
            TSC_AUX => match u32::try_from(value) {
                Ok(value) => {
                    self.state.tsc_aux = value;
                    self.hv.machine().set_tsc_aux(value);
                    true
                }
                Err(_) => false,
            },
            HYPERCALL_PAGE => self.fill_hypercall_page_by_msr(value),
            MISC_FEATURES => value == 0,
            MISC_ENABLE => self.hv.machine().read_msr(msr).is_some(),
            MCG_STATUS => {
                self.state.machine_check_status = value;
                true
            }
            MCG_CAP | MCG_CTL | NORTHBRIDGE_CONFIGURATION => true,
            _ if MACHINE_CHECK_INTERRUPTS.contains(&msr) => true,
            _ if MACHINE_CHECKS.contains(&msr) => !is_bank(msr) || is_bank_control(msr) || value == 0,
            _ => {
                self.write_vendor_msr(msr, value)
                    || self.write_speculation_msr(msr, value)
                    || self.is_msr_write_forgiven(msr)
            }
        }
    }

    /// AMD's families 0x10 to 0x16 have the register.
    fn has_configuration_space_base(&self) -> bool {
        (0x10..0x17).contains(&CpuModel::of(self.hv.machine()).family)
    }

    /// Taken and forgotten, as where there is nothing behind the registers.
    fn write_vendor_msr(&self, msr: u32, value: u64) -> bool {
        let vendor = Vendor::of(self.hv.machine());
        match (vendor, msr) {
            // What loads microcode writes 0 before it reads the version.
            (Vendor::Intel, MICROCODE_VERSION) => value == 0,
            (Vendor::Intel, PERF_CONTROL | THERM_CONTROL | ENERGY_PERF_BIAS) => true,
            (Vendor::Intel, _) if is_in(&INTEL_COUNTERS, msr) => true,
            (Vendor::Amd | Vendor::Hygon, AMD_HARDWARE_CONFIGURATION | AMD_DECODE_CONFIGURATION) => true,
            (Vendor::Amd | Vendor::Hygon, _) if is_in(&AMD_COUNTERS, msr) || is_in(&AMD_FREQUENCIES, msr) => true,
            (Vendor::Amd, CONFIGURATION_SPACE_BASE) => self.has_configuration_space_base(),
            (Vendor::Other, _) => false,
            _ => RUNNING_COUNTS.contains(&msr),
        }
    }

    #[cold]
    fn is_msr_write_forgiven(&self, msr: u32) -> bool {
        msr != PAT && self.domain.is_msr_relaxed && self.hv.machine().read_msr(msr).is_some()
    }

    /// The value is a page's machine address, and in the low bits which page of stubs it is to be: there is one.
    fn fill_hypercall_page_by_msr(&self, value: u64) -> bool {
        let mfn = if value & 0xfff == 0 { Mfn::new(value >> 12) } else { None };
        mfn.is_some_and(|mfn| self.hv.fill_hypercall_page(self.domain, mfn).is_ok())
    }
}

fn is_in(ranges: &[core::ops::RangeInclusive<u32>], msr: u32) -> bool {
    ranges.iter().any(|range| range.contains(&msr))
}

/// Whether a register of those for machine checks is of a bank that there is.
const fn is_bank(msr: u32) -> bool {
    msr < *MACHINE_CHECKS.start() + 4 * BANKS
}

/// Whether a register is the control of a bank that there is: every error is looked for.
const fn is_bank_control(msr: u32) -> bool {
    msr.is_multiple_of(4) && is_bank(msr)
}
