//! What guests are told of speculation, and the registers by which they defend themselves.

use crate::{
    caller::Caller,
    cpu_model::{CpuModel, Vendor},
    domain::Domain,
    features::{Leaf7Edx, SizesEbx},
    machine::Machine,
    speculation::{ARCH_CAPABILITIES, IBPB, PRED_CMD, SPEC_CTRL, SpecCtrl},
};

/// What may be told of [`ARCH_CAPABILITIES`]: of which attacks the CPU is free, and how it predicts.
const CAPABILITIES_TOLD: u64 = 0x0d18_e17b;
/// Return predictions may come from elsewhere when they run out.
const RSBA: u64 = 1 << 2;
/// Intel's CPUs of which that is so, whatever they say: Skylake and its kin, by model, family 6.
const RSBA_MODELS: [u32; 9] = [0x4e, 0x55, 0x5e, 0x66, 0x67, 0x8e, 0x9e, 0xa5, 0xa6];
/// Leaf 0x80000008 EBX of AMD's CPUs that may be shown.
const OF_AMDS: SizesEbx = SizesEbx::CLZERO
    .union(SizesEbx::SAVES_X87_POINTERS)
    .union(SizesEbx::IBPB)
    .union(SizesEbx::SSB_NO)
    .union(SizesEbx::BTC_NO)
    .union(SizesEbx::IBPB_RET);

impl<M: Machine> Caller<'_, M> {
    /// What of leaf 7 EDX the caller may see, whose other bits concern nobody: what VERW does, the bits of `SPEC_CTRL`
    /// where guests have one, and whether there is `ARCH_CAPABILITIES`.
    pub(super) fn speculation_told(&self, has: Leaf7Edx) -> Leaf7Edx {
        let mut told = has & (Leaf7Edx::FSRM | Leaf7Edx::MD_CLEAR);
        if self.hv.speculation.guests_control {
            // Where there is no second thread STIBP does nothing, and may be set.
            told |= has & (Leaf7Edx::IBRS_IBPB | Leaf7Edx::SSBD) | Leaf7Edx::STIBP;
        }
        told.set(Leaf7Edx::ARCH_CAPABILITIES, self.speculation_capabilities().is_some());
        told
    }

    /// What of leaf 0x80000008 EBX the caller may see: AMD's own words, and IBPB where Intel's CPUs have it, apart from
    /// IBRS.
    pub(super) fn barriers_told(&self, has: SizesEbx) -> SizesEbx {
        let machine = self.hv.machine();
        if Vendor::of(machine).is_like_amd() {
            return has & OF_AMDS;
        }
        let seven = Leaf7Edx::from_bits_retain(machine.cpuid(7, 0)[3]);
        let mut told = SizesEbx::empty();
        told.set(SizesEbx::IBPB, seven.contains(Leaf7Edx::IBRS_IBPB));
        told
    }

    /// What guests are told of speculation by `ARCH_CAPABILITIES`; `None`: the register is not there.
    #[must_use]
    pub fn speculation_capabilities(&self) -> Option<u64> {
        let machine = self.hv.machine();
        if Vendor::of(machine) != Vendor::Intel {
            return None;
        }
        let CpuModel { family, model, .. } = CpuModel::of(machine);
        let rsba = if family == 6 && RSBA_MODELS.contains(&model) { RSBA } else { 0 };
        let has_register = Leaf7Edx::from_bits_retain(machine.cpuid(7, 0)[3]).contains(Leaf7Edx::ARCH_CAPABILITIES);
        let own = if has_register { machine.read_msr(ARCH_CAPABILITIES) } else { None };
        if own.is_none() && rsba == 0 { None } else { Some(own.unwrap_or(0) & CAPABILITIES_TOLD | rsba) }
    }

    /// The bits of `SPEC_CTRL` that a domain may set; `None`: it has none.
    pub(crate) fn spec_ctrl_bits(&self, domain: &Domain) -> Option<SpecCtrl> {
        let told = Leaf7Edx::from_bits_retain(self.cpuid_leaf_of(domain, 7, 0)[3]);
        let mut bits = SpecCtrl::IBRS | SpecCtrl::STIBP;
        bits.set(SpecCtrl::SSBD, told.contains(Leaf7Edx::SSBD));
        told.contains(Leaf7Edx::IBRS_IBPB).then_some(bits)
    }

    /// What the value would be as that of a domain's `SPEC_CTRL`; `None`: it cannot be.
    pub(crate) fn judge_spec_ctrl(&self, domain: &Domain, value: u64) -> Option<SpecCtrl> {
        let wanted = SpecCtrl::from_bits(u32::try_from(value).ok()?)?;
        self.spec_ctrl_bits(domain).filter(|bits| bits.contains(wanted)).map(|_| wanted)
    }

    /// Reads one of the registers; `None`: the instruction faults.
    pub(crate) fn read_speculation_msr(&self, msr: u32) -> Option<u64> {
        if msr != SPEC_CTRL {
            return None;
        }
        self.spec_ctrl_bits(self.domain).map(|_| self.state.spec_ctrl.bits().into())
    }

    /// Writes one; `false`: the instruction faults.
    pub(crate) fn write_speculation_msr(&mut self, msr: u32, value: u64) -> bool {
        match msr {
            SPEC_CTRL => match self.judge_spec_ctrl(self.domain, value) {
                Some(wanted) => {
                    self.state.spec_ctrl = wanted;
                    self.state.ways = self.hv.speculation.of_vcpu(self.domain.is_privileged(), wanted);
                    true
                }
                None => false,
            },
            PRED_CMD if value & !IBPB == 0 && self.has_barrier() => {
                if value != 0 {
                    self.hv.machine().write_msr(PRED_CMD, IBPB);
                }
                true
            }
            _ => false,
        }
    }

    fn has_barrier(&self) -> bool {
        let seven = Leaf7Edx::from_bits_retain(self.cpuid_leaf(7, 0)[3]);
        let eight = SizesEbx::from_bits_retain(self.cpuid_leaf(0x8000_0008, 0)[1]);
        seven.contains(Leaf7Edx::IBRS_IBPB) || eight.contains(SizesEbx::IBPB)
    }
}
