//! Debug registers: a guest's own, checked so that no breakpoint can be in the hypervisor (Intel SDM vol. 3B, 17.2).

use super::vcpu::{DEBUG_CONTROL_RESET, DEBUG_STATUS_RESET, VcpuState};
use crate::addr::GuestAddr;
use oxen_abi::errno::Errno;
use x86_64::registers::control::Cr4Flags;
use x86_64::registers::debug::{Dr6Flags, Dr7Flags};

/// DR6 bits that always read as one.
pub const STATUS_FIXED: Dr6Flags = DEBUG_STATUS_RESET;
/// DR6 bits that a guest may set: which breakpoint, BD, BS, BT.
const STATUS_GUEST: Dr6Flags =
    Dr6Flags::TRAP.union(Dr6Flags::ACCESS_DETECTED).union(Dr6Flags::STEP).union(Dr6Flags::SWITCH);
/// DR7 bit that always reads as one.
const CONTROL_FIXED: Dr7Flags = DEBUG_CONTROL_RESET;
/// DR7 bits that are reserved and read as zero.
const CONTROL_RESERVED: Dr7Flags = Dr7Flags::from_bits_retain(0xffff_ffff_0000_d800);

/// Whether a number names no register, for the vcpu wants DR4 and DR5 not to be DR6 and DR7 (CR4.DE).
#[must_use]
pub const fn is_reserved(state: &VcpuState, number: u8) -> bool {
    matches!(number, 4 | 5) && state.cr4.contains(Cr4Flags::DEBUGGING_EXTENSIONS)
}

/// Reads DR0 to DR7 of a vcpu; `None` for one that there is not.
#[must_use]
pub fn read(state: &VcpuState, number: u8) -> Option<u64> {
    match number {
        0..=3 => state.breakpoints.get(usize::from(number)).copied(),
        _ if is_reserved(state, number) => None,
        4 | 6 => Some((state.debug_status | STATUS_FIXED).bits()),
        5 | 7 => Some((state.debug_control | CONTROL_FIXED).bits()),
        _ => None,
    }
}

/// Sets a debug register in a vcpu's state.
///
/// # Errors
/// `Perm` for a breakpoint that a guest may not have; `Inval` for more than 32 bits of DR6 or DR7; `NoDev` for
/// a register that there is not.
pub fn set(state: &mut VcpuState, number: u8, value: u64) -> Result<(), Errno> {
    match number {
        0..=3 => {
            if !GuestAddr::new(value).is_guest_range(1) {
                return Err(Errno::Perm);
            }
            if let Some(breakpoint) = state.breakpoints.get_mut(usize::from(number)) {
                *breakpoint = value;
            }
        }
        _ if is_reserved(state, number) => return Err(Errno::NoDev),
        4 | 6 if value >> 32 != 0 => return Err(Errno::Inval),
        4 | 6 => state.debug_status = Dr6Flags::from_bits_retain(value) & STATUS_GUEST | STATUS_FIXED,
        5 | 7 => {
            if value >> 32 != 0 {
                return Err(Errno::Inval);
            }
            let control = Dr7Flags::from_bits_retain(value);
            // General detect would trap the hypervisor's own accesses.
            if control.contains(Dr7Flags::GENERAL_DETECT_ENABLE) || has_bad_condition(value, state.cr4) {
                return Err(Errno::Perm);
            }
            state.debug_control = (control - CONTROL_RESERVED) | CONTROL_FIXED;
        }
        _ => return Err(Errno::NoDev),
    }
    Ok(())
}

/// An enabled breakpoint on I/O without CR4.DE, or one on execution that is not of length 1.
fn has_bad_condition(control: u64, cr4: Cr4Flags) -> bool {
    (0..4).filter(|i| control >> (2 * i) & 3 != 0).any(|i| match control >> (16 + 4 * i) & 15 {
        condition if condition & 3 == 2 => !cr4.contains(Cr4Flags::DEBUGGING_EXTENSIONS),
        condition => condition & 3 == 0 && condition >> 2 != 0,
    })
}
