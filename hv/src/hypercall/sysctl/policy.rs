//! What guests see of the processor, as a toolstack asks for it: every PV guest sees the same.

use crate::{
    caller::{Caller, Control},
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    trap::cpuid,
};
use oxen_abi::{
    domctl::{CpuidLeaf, XEN_CPUID_NO_SUBLEAF},
    errno::Errno,
    sysctl::{
        Sysctl, SysctlCpuFeatureset, SysctlCpuPolicy, XEN_SYSCTL_CPU_FEATURESET_HOST, XEN_SYSCTL_CPU_FEATURESET_HVM,
        XEN_SYSCTL_CPU_FEATURESET_HVM_MAX, XEN_SYSCTL_CPU_FEATURESET_PV_MAX, XEN_SYSCTL_CPU_FEATURESET_RAW,
        XEN_SYSCTL_CPU_POLICY_HOST, XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT, XEN_SYSCTL_CPU_POLICY_HVM_MAX,
        XEN_SYSCTL_CPU_POLICY_PV_DEFAULT, XEN_SYSCTL_CPU_POLICY_RAW,
    },
};

const NONE: u32 = XEN_CPUID_NO_SUBLEAF;
/// Rooms that a toolstack makes for leaves and registers before it knows how many there are: at least as many as any
/// version of its library writes into them (`CPUID_MAX_SERIALISED_LEAVES`, `MSR_MAX_SERIALISED_ENTRIES`).
const ROOM_FOR_LEAVES: u32 = 256;
const ROOM_FOR_REGISTERS: u32 = 16;
/// The leaves that are told, with their subleaves.
const LEAVES: [(u32, u32); 28] = [
    (0x0, NONE),
    (0x1, NONE),
    (0x2, NONE),
    (0x3, NONE),
    (0x4, 0),
    (0x4, 1),
    (0x4, 2),
    (0x4, 3),
    (0x5, NONE),
    (0x6, NONE),
    (0x7, 0),
    (0x7, 1),
    (0x9, NONE),
    (0xa, NONE),
    (0xb, 0),
    (0xb, 1),
    (0xd, 0),
    (0xd, 1),
    (0xd, 2),
    (0x8000_0000, NONE),
    (0x8000_0001, NONE),
    (0x8000_0002, NONE),
    (0x8000_0003, NONE),
    (0x8000_0004, NONE),
    (0x8000_0005, NONE),
    (0x8000_0006, NONE),
    (0x8000_0007, NONE),
    (0x8000_0008, NONE),
];

/// The processor's leaves as they are, or as guests see them; a null pointer asks how much room to make.
pub(super) fn leaves<M: Machine>(caller: &Caller<'_, M>, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
    let request: SysctlCpuPolicy = op.get();
    let is_machines_own = match request.index {
        XEN_SYSCTL_CPU_POLICY_RAW | XEN_SYSCTL_CPU_POLICY_HOST => true,
        XEN_SYSCTL_CPU_POLICY_HVM_MAX | XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT => return Err(Errno::OpNotSupp),
        index if index <= XEN_SYSCTL_CPU_POLICY_PV_DEFAULT => false,
        _ => return Err(Errno::Inval),
    };
    if request._rsvd != 0 {
        return Err(Errno::Inval);
    }
    let count = LEAVES.len() as u32;
    if request.leaves == 0 {
        op.set(&SysctlCpuPolicy { nr_leaves: ROOM_FOR_LEAVES, nr_msrs: ROOM_FOR_REGISTERS, ..request });
        return Ok(());
    }
    if request.nr_leaves < count {
        return Err(Errno::NoBufs);
    }
    let list = GuestPtr::<CpuidLeaf>::new(request.leaves, count.into())?;
    for (index, (leaf, subleaf)) in (0..).zip(LEAVES) {
        let asked = if subleaf == NONE { 0 } else { subleaf };
        let [a, b, c, d] =
            if is_machines_own { caller.hv.machine.cpuid(leaf, asked) } else { cpuid::leaf(caller, leaf, asked) };
        list.write(&caller.hv.machine, index, &CpuidLeaf { leaf, subleaf, a, b, c, d })?;
    }
    // No model-specific register differs from guest to guest.
    op.set(&SysctlCpuPolicy { nr_leaves: count, nr_msrs: 0, ..request });
    Ok(())
}

/// The words of features that Xen's interface counts (`arch-x86/cpufeatureset.h`); a null pointer asks for their number.
pub(super) fn features<M: Machine>(caller: &Caller<'_, M>, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
    let request: SysctlCpuFeatureset = op.get();
    let is_machines_own = match request.index {
        XEN_SYSCTL_CPU_FEATURESET_RAW | XEN_SYSCTL_CPU_FEATURESET_HOST => true,
        XEN_SYSCTL_CPU_FEATURESET_HVM | XEN_SYSCTL_CPU_FEATURESET_HVM_MAX => return Err(Errno::OpNotSupp),
        index if index <= XEN_SYSCTL_CPU_FEATURESET_PV_MAX => false,
        _ => return Err(Errno::Inval),
    };
    let ask = |leaf, subleaf| {
        if is_machines_own { caller.hv.machine.cpuid(leaf, subleaf) } else { cpuid::leaf(caller, leaf, subleaf) }
    };
    let [_, _, c1, d1] = ask(1, 0);
    let [_, _, ce1, de1] = ask(0x8000_0001, 0);
    let [ad1, ..] = ask(0xd, 1);
    let [_, b7, c7, d7] = ask(7, 0);
    let [a71, b71, ..] = ask(7, 1);
    let [_, _, _, de7] = ask(0x8000_0007, 0);
    let [_, be8, ..] = ask(0x8000_0008, 0);
    let [ae21, ..] = ask(0x8000_0021, 0);
    let words = [d1, c1, de1, ce1, ad1, b7, c7, de7, be8, d7, a71, ae21, b71];
    let count = words.len() as u32;
    if request.features == 0 {
        op.set(&SysctlCpuFeatureset { nr_features: count, ..request });
        return Ok(());
    }
    let told = count.min(request.nr_features);
    let list = GuestPtr::<u32>::new(request.features, told.into())?;
    for (index, word) in (0..told.into()).zip(words) {
        list.write(&caller.hv.machine, index, &word)?;
    }
    op.set(&SysctlCpuFeatureset { nr_features: told, ..request });
    if told < count { Err(Errno::NoBufs) } else { Ok(()) }
}
