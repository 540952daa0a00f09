//! Model-specific registers as a PV guest sees them: a short list; everything else faults.

use super::emulate::CR4_FSGSBASE;
use crate::{addr::GuestAddr, caller::Caller, machine::Machine};

const APIC_BASE: u32 = 0x1b;
const MISC_ENABLE: u32 = 0x1a0;
const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
const MICROCODE_VERSION: u32 = 0x8b;
/// Machine check: how many banks there are, and the global status.
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
/// The registers of the banks: control, status, address and more of each.
const FIRST_BANK: u32 = 0x400;
const END_BANK: u32 = FIRST_BANK + 4 * BANKS;
/// Banks that every guest sees, as under Xen; nothing is ever in them.
const BANKS: u32 = 2;

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
        TSC_AUX | MCG_STATUS | FIRST_BANK..END_BANK => Some(0),
        MCG_CAP => Some(BANKS.into()),
        APIC_BASE | MISC_ENABLE | MICROCODE_VERSION => caller.hv.machine.read_msr(msr),
        _ => None,
    }
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
        TSC_AUX => value == 0,
        MCG_STATUS | FIRST_BANK..END_BANK => true,
        _ => false,
    }
}

/// Whether the guest may change its bases without being seen, so that they must be read from the CPU.
#[inline]
#[must_use]
pub const fn bases_may_change(cr4: u64) -> bool {
    cr4 & CR4_FSGSBASE != 0
}
