//! Model-specific registers as a PV guest sees them: a short list; everything else faults.

use crate::{addr::GuestAddr, caller::Caller, machine::Machine};

const APIC_BASE: u32 = 0x1b;
const FEATURE_CONTROL: u32 = 0x3a;
const MICROCODE_VERSION: u32 = 0x8b;
const PLATFORM_INFO: u32 = 0xce;
const MISC_FEATURES: u32 = 0x140;
const MISC_ENABLE: u32 = 0x1a0;
const PAT: u32 = 0x277;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
/// Control, status, address and more, of each bank for machine checks.
const MACHINE_CHECKS: core::ops::Range<u32> = 0x400..0x400 + 4 * BANKS;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
/// AMD's first four performance counters: control, then count.
const AMD_COUNTERS: core::ops::RangeInclusive<u32> = 0xc001_0000..=0xc001_0007;
const AMD_HARDWARE_CONFIGURATION: u32 = 0xc001_0015;
const AMD_DECODE_CONFIGURATION: u32 = 0xc001_1029;

/// Banks for machine checks: there are two, in which nothing ever happens.
const BANKS: u32 = 2;
/// `MISC_ENABLE`: neither branch trace store nor precise events, and no MONITOR.
const NO_TRACE_STORE: u64 = 3 << 11;
const MONITOR: u64 = 1 << 18;
/// `APIC_BASE`: at its usual place, on; and the flag of the CPU that boots.
const APIC_ON: u64 = 0xfee0_0800;
const BOOT_CPU: u64 = 1 << 8;
/// `FEATURE_CONTROL`: locked, with nothing allowed.
const LOCKED: u64 = 1;
/// AMD's LFENCE waits for what is before it.
const LFENCE_SERIALISES: u64 = 1 << 1;
/// The vendor's name in EBX of CPUID leaf 0: "Auth", "Hygo", "Genu".
const AMD: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];
const INTEL: u32 = u32::from_le_bytes(*b"Genu");

/// The memory types by PAT index, the same for everybody: WB WT UC- UC WC WP UC UC.
pub const PAT_VALUE: u64 = 0x0000_0501_0007_0406;
/// SYSCALL, long mode and no-execute, as a guest finds them on.
const EFER_VALUE: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11;

/// Reads a register for the caller; `None`: the instruction faults.
#[must_use]
pub fn read<M: Machine>(caller: &Caller<'_, M>, msr: u32) -> Option<u64> {
    let (fs_base, gs_base, other_gs_base) = caller.hv.machine.bases(caller.state);
    match msr {
        FS_BASE => Some(fs_base),
        GS_BASE => Some(gs_base),
        KERNEL_GS_BASE => Some(other_gs_base),
        EFER => Some(EFER_VALUE),
        PAT => Some(PAT_VALUE),
        TSC_AUX => Some(caller.state.tsc_aux.into()),
        APIC_BASE => Some(APIC_ON | if caller.vcpu.id == 0 { BOOT_CPU } else { 0 }),
        MICROCODE_VERSION => caller.hv.machine.read_msr(msr),
        MISC_ENABLE => caller.hv.machine.read_msr(msr).map(|value| value & !MONITOR | NO_TRACE_STORE),
        MCG_CAP => Some(BANKS.into()),
        MCG_STATUS => Some(0),
        _ if MACHINE_CHECKS.contains(&msr) => Some(if is_bank_control(msr) { u64::MAX } else { 0 }),
        _ => vendor_s(caller, msr),
    }
}

/// What only one vendor's CPUs have.
fn vendor_s<M: Machine>(caller: &Caller<'_, M>, msr: u32) -> Option<u64> {
    let vendor = caller.hv.machine.cpuid(0, 0)[1];
    match msr {
        FEATURE_CONTROL if vendor == INTEL => Some(LOCKED),
        PLATFORM_INFO | MISC_FEATURES if vendor == INTEL => Some(0),
        AMD_HARDWARE_CONFIGURATION if AMD.contains(&vendor) => Some(0),
        AMD_DECODE_CONFIGURATION if AMD.contains(&vendor) => Some(LFENCE_SERIALISES),
        _ if AMD_COUNTERS.contains(&msr) && AMD.contains(&vendor) => Some(0),
        _ => None,
    }
}

const fn is_bank_control(msr: u32) -> bool {
    msr.is_multiple_of(4)
}

/// Writes a register for the caller; `false`: the instruction faults.
#[must_use]
pub fn write<M: Machine>(caller: &mut Caller<'_, M>, msr: u32, value: u64) -> bool {
    match msr {
        FS_BASE | GS_BASE | KERNEL_GS_BASE if !GuestAddr(value).is_canonical() => false,
        FS_BASE => {
            caller.state.fs_base = value;
            caller.hv.machine.set_fs_base(value);
            true
        }
        GS_BASE => {
            caller.state.gs_base_kernel = value;
            caller.hv.machine.set_gs_base(value);
            true
        }
        KERNEL_GS_BASE => {
            caller.state.gs_base_user = value;
            caller.hv.machine.set_other_gs_base(value);
            true
        }
        PAT => value == PAT_VALUE,
        EFER => value == EFER_VALUE,
        MICROCODE_VERSION => value == 0,
        TSC_AUX => match u32::try_from(value) {
            Ok(value) => {
                caller.state.tsc_aux = value;
                caller.hv.machine.set_tsc_aux(value);
                true
            }
            Err(_) => false,
        },
        MCG_STATUS => true,
        _ if MACHINE_CHECKS.contains(&msr) => is_bank_control(msr) || value == 0,
        // Taken and forgotten, as where there is no performance monitor for guests.
        AMD_HARDWARE_CONFIGURATION | MISC_FEATURES | AMD_DECODE_CONFIGURATION => vendor_s(caller, msr).is_some(),
        _ => AMD_COUNTERS.contains(&msr) && vendor_s(caller, msr).is_some(),
    }
}
