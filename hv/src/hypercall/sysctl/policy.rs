//! What guests see of the processor, as a toolstack asks for it: every PV guest sees the same.

use crate::hypercall::number::count;
use crate::{caller::Caller, machine::Machine, mem::guest_ptr::GuestPtr, reply::Control};
use oxen_abi::{
    domctl::{CpuidLeaf, XEN_CPUID_NO_SUBLEAF},
    errno::Errno,
    sysctl::{
        Sysctl, SysctlCpuFeatureset, SysctlCpuPolicy, XEN_SYSCTL_CPU_FEATURESET_HOST, XEN_SYSCTL_CPU_FEATURESET_HVM,
        XEN_SYSCTL_CPU_FEATURESET_HVM_MAX, XEN_SYSCTL_CPU_FEATURESET_RAW, XEN_SYSCTL_CPU_POLICY_HOST,
        XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT, XEN_SYSCTL_CPU_POLICY_HVM_MAX, XEN_SYSCTL_CPU_POLICY_RAW,
    },
};

const NONE: u32 = XEN_CPUID_NO_SUBLEAF;
/// Room that a toolstack makes for leaves before it knows how many there are: as many as its library can write
/// (`CPUID_MAX_SERIALISED_LEAVES`).
pub(in crate::hypercall) const ROOM_FOR_LEAVES: u32 = 120;
/// Registers of a policy: `PLATFORM_INFO` and `ARCH_CAPABILITIES`, in which guests find nothing.
pub(in crate::hypercall) const MODEL_REGISTERS: [u32; 2] = [0xce, 0x10a];
/// Basic and extended leaves that a policy can have.
const BASIC_LEAVES: u32 = 0xe;
const EXTENDED_LEAVES: u32 = 0x22;
/// Caches, feature words and levels of topology that a policy can have.
const CACHES: u32 = 6;
const FEATURE_SUBLEAVES: u32 = 2;
const LEVELS: u32 = 2;
/// A kind of cache in leaf 4, zero after the last.
const CACHE_KIND: u32 = 0x1f;

/// Every leaf of a policy with its subleaf, in the order and as complete as a toolstack's library writes them down: it
/// takes the number that it reads for the number that it will write.
pub(in crate::hypercall) fn each_leaf(
    ask: &dyn Fn(u32, u32) -> [u32; 4],
    visit: &mut dyn FnMut(u32, u32, [u32; 4]) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut tell = |leaf, subleaf| visit(leaf, subleaf, ask(leaf, if subleaf == NONE { 0 } else { subleaf }));
    let [last_basic, ..] = ask(0, 0);
    for leaf in 0..=last_basic.min(BASIC_LEAVES - 1) {
        let subleaves = match leaf {
            4 => count((0..CACHES - 1).take_while(|&i| ask(4, i)[0] & CACHE_KIND != 0).count()).wrapping_add(1),
            7 => ask(7, 0)[0].min(FEATURE_SUBLEAVES - 1).wrapping_add(1),
            0xb => LEVELS,
            0xd => {
                let ([low, _, _, high], [_, _, low_supervisor, high_supervisor]) = (ask(0xd, 0), ask(0xd, 1));
                let states = u64::from(low | low_supervisor) | u64::from(high | high_supervisor) << 32;
                u64::BITS.wrapping_sub(states.leading_zeros()).max(2)
            }
            _ => {
                tell(leaf, NONE)?;
                continue;
            }
        };
        (0..subleaves).try_for_each(|subleaf| tell(leaf, subleaf))?;
    }
    tell(0x4000_0000, NONE)?;
    tell(0x4000_0100, NONE)?;
    let [last_extended, ..] = ask(0x8000_0000, 0);
    let extended = last_extended.wrapping_sub(0x8000_0000).min(EXTENDED_LEAVES - 1);
    (0..=extended).try_for_each(|leaf| tell(0x8000_0000 | leaf, NONE))
}

impl<M: Machine> Caller<'_, M> {
    /// The processor's leaves as they are, or as guests see them; a null pointer asks how much room to make.
    pub(super) fn get_policy_leaves(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        let request: SysctlCpuPolicy = op.get();
        if request.index > XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT || request._rsvd != 0 {
            return Err(Errno::Inval);
        }
        if request.leaves == 0 {
            op.set(&SysctlCpuPolicy { nr_leaves: ROOM_FOR_LEAVES, nr_msrs: count(MODEL_REGISTERS.len()), ..request });
            return Ok(());
        }
        let ask = |leaf, subleaf| match request.index {
            XEN_SYSCTL_CPU_POLICY_RAW | XEN_SYSCTL_CPU_POLICY_HOST => self.hv.machine().cpuid(leaf, subleaf),
            // There are no guests with hardware's help, so they see nothing.
            XEN_SYSCTL_CPU_POLICY_HVM_MAX | XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT => [0; 4],
            _ => self.plain_leaf(leaf, subleaf),
        };
        let list = GuestPtr::<CpuidLeaf>::new(request.leaves, request.nr_leaves.into())?;
        let mut told = 0;
        each_leaf(&ask, &mut |leaf, subleaf, [a, b, c, d]| {
            if told == request.nr_leaves {
                return Err(Errno::NoBufs);
            }
            list.write(self.hv.machine(), told.into(), &CpuidLeaf { leaf, subleaf, a, b, c, d })?;
            told = told.wrapping_add(1);
            Ok(())
        })?;
        // No model-specific register differs from guest to guest.
        op.set(&SysctlCpuPolicy { nr_leaves: told, nr_msrs: 0, ..request });
        Ok(())
    }

    /// The words of features that Xen's interface counts (`arch-x86/cpufeatureset.h`); a null pointer asks for their
    /// number.
    pub(super) fn get_featureset(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        let request: SysctlCpuFeatureset = op.get();
        // Their number is told whichever are asked for.
        if request.index > XEN_SYSCTL_CPU_FEATURESET_HVM_MAX && request.features != 0 {
            return Err(Errno::Inval);
        }
        let ask = |leaf, subleaf| match request.index {
            XEN_SYSCTL_CPU_FEATURESET_RAW | XEN_SYSCTL_CPU_FEATURESET_HOST => self.hv.machine().cpuid(leaf, subleaf),
            XEN_SYSCTL_CPU_FEATURESET_HVM | XEN_SYSCTL_CPU_FEATURESET_HVM_MAX => [0; 4],
            _ => self.plain_leaf(leaf, subleaf),
        };
        let ask: &dyn Fn(u32, u32) -> [u32; 4] = &ask;
        let [_, _, c1, d1] = ask(1, 0);
        let [_, _, ce1, de1] = ask(0x8000_0001, 0);
        let [ad1, ..] = ask(0xd, 1);
        let [_, b7, c7, d7] = ask(7, 0);
        let [a71, b71, c71, d71] = ask(7, 1);
        let [.., d72] = ask(7, 2);
        let [_, _, _, de7] = ask(0x8000_0007, 0);
        let [_, be8, ..] = ask(0x8000_0008, 0);
        let [ae21, _, ce21, _] = ask(0x8000_0021, 0);
        // Of ARCH_CAPABILITIES, whose two words stand before the last, nothing is shown.
        let words = [d1, c1, de1, ce1, ad1, b7, c7, de7, be8, d7, a71, ae21, b71, d72, c71, d71, 0, 0, ce21];
        let known = count(words.len());
        if request.features == 0 {
            op.set(&SysctlCpuFeatureset { nr_features: known, ..request });
            return Ok(());
        }
        let told = known.min(request.nr_features);
        let list = GuestPtr::<u32>::new(request.features, told.into())?;
        for (index, word) in (0..told.into()).zip(words) {
            list.write(self.hv.machine(), index, &word)?;
        }
        op.set(&SysctlCpuFeatureset { nr_features: told, ..request });
        if told < known { Err(Errno::NoBufs) } else { Ok(()) }
    }
}
