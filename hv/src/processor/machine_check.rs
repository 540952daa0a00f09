//! What guests are told of machine checks: two banks, in which nothing ever happens (`hvm_vmce_vcpu`, `hvm/save.h`).

use crate::{cpu_model::Vendor, ports::Registers};

/// Banks that guests see.
const BANKS: u64 = 2;
/// Recovery by software, on Intel's CPUs.
const RECOVERY: u64 = 1 << 24;
/// Bits that another machine may have told a guest: the number of banks, and that they have a common control.
const COUNT: u64 = 0xff;
const CONTROL: u64 = 1 << 8;

/// `MCG_CAP` as a saved vcpu has it.
#[must_use]
pub fn capabilities(machine: &impl Registers) -> u64 {
    if Vendor::of(machine) == Vendor::Intel { BANKS | RECOVERY } else { BANKS }
}

/// Whether a restored vcpu can have this `MCG_CAP`.
#[must_use]
pub fn can_have(machine: &impl Registers, wanted: u64) -> bool {
    wanted & !(capabilities(machine) | COUNT | CONTROL) == 0
}
