//! What a toolstack lets a guest see of the processor (`XEN_DOMCTL_set_cpu_policy`): what the machine has for guests,
//! or less of it. It is what `cpuid` with the prefix answers; the instruction itself tells user mode what the CPU has.

use crate::features::{ExtendedEcx, ExtendedEdx, Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx, Leaf7Edx, StateEax};
use oxen_abi::domctl::{CpuidLeaf, XEN_CPUID_NO_SUBLEAF};
use x86_64::registers::control::Cr4Flags;

/// Words of features: leaf, subleaf and register, EAX as 0 to EDX as 3.
const WORDS: [(u32, u32, usize); 11] = [
    (1, 0, 2),
    (1, 0, 3),
    (7, 0, 1),
    (7, 0, 2),
    (7, 0, 3),
    (0xd, 1, 0),
    (0x8000_0001, 0, 2),
    (0x8000_0001, 0, 3),
    (0x8000_0007, 0, 3),
    (0x8000_0008, 0, 1),
    (0x8000_0021, 0, 0),
];
/// The words by their place in [`WORDS`].
const LEAF1_ECX: usize = 0;
const LEAF1_EDX: usize = 1;
const LEAF7_EBX: usize = 2;
const LEAF7_ECX: usize = 3;
const LEAF7_EDX: usize = 4;
const STATE_EAX: usize = 5;
const EXTENDED_ECX: usize = 6;
const EXTENDED_EDX: usize = 7;

/// Leaves whose EAX tells the last of their kind: basic leaves, words of features, extended leaves.
const LAST: [u32; 3] = [0, 7, FIRST_EXTENDED_LEAF];
const FIRST_EXTENDED_LEAF: u32 = 0x8000_0000;

/// The bits of leaf 1 EDX that AMD's CPUs show in leaf 0x80000001 EDX again.
const COMMON_EDX: u32 = Leaf1Edx::COMMON.bits();
/// What of leaf 1 ECX the hypervisor answers, whatever the policy: OSXSAVE, and that it is there.
const DYNAMIC_ECX: u32 = Leaf1Ecx::OSXSAVE.union(Leaf1Ecx::HYPERVISOR).bits();
const XSAVE: u32 = Leaf1Ecx::XSAVE.bits();
const AVX: u32 = Leaf1Ecx::AVX.bits();
const FSGSBASE: u32 = Leaf7Ebx::FSGSBASE.bits();
/// A processor's signature: family, model, stepping; the rest is reserved.
const SIGNATURE: u32 = 0x0fff_0fff;
/// XSAVEC, in leaf 0xd, subleaf 1, EAX.
const XSAVEC: u32 = StateEax::XSAVEC.bits();
/// Components of extended state that are always there: x87 and SSE.
const LEGACY_STATE: u32 = 3;
/// Bytes of the extended state of x87 and SSE, the header behind it.
const LEGACY_BYTES: u32 = 576;

/// Features of one word: its place in [`WORDS`], its bits.
type Features = (usize, u32);

const fn leaf1_ecx(features: Leaf1Ecx) -> Features {
    (LEAF1_ECX, features.bits())
}
const fn leaf1_edx(features: Leaf1Edx) -> Features {
    (LEAF1_EDX, features.bits())
}
const fn leaf7_ebx(features: Leaf7Ebx) -> Features {
    (LEAF7_EBX, features.bits())
}
const fn leaf7_ecx(features: Leaf7Ecx) -> Features {
    (LEAF7_ECX, features.bits())
}
const fn leaf7_edx(features: Leaf7Edx) -> Features {
    (LEAF7_EDX, features.bits())
}
const fn extended_ecx(features: ExtendedEcx) -> Features {
    (EXTENDED_ECX, features.bits())
}
const fn extended_edx(features: ExtendedEdx) -> Features {
    (EXTENDED_EDX, features.bits())
}

/// Features that need another one, which come after those that they need: without it they are not there.
const NEEDS: [(Features, &[Features]); 13] = [
    (leaf1_edx(Leaf1Edx::FXSR), &[leaf1_edx(Leaf1Edx::SSE), extended_edx(ExtendedEdx::FAST_FXSAVE)]),
    (leaf1_edx(Leaf1Edx::SSE), &[leaf1_edx(Leaf1Edx::SSE2)]),
    (
        leaf1_edx(Leaf1Edx::SSE2),
        &[
            leaf1_ecx(Leaf1Ecx::SSE3.union(Leaf1Ecx::AES).union(Leaf1Ecx::PCLMULQDQ)),
            leaf7_ebx(Leaf7Ebx::SHA),
            leaf7_ecx(Leaf7Ecx::GFNI),
        ],
    ),
    (leaf1_ecx(Leaf1Ecx::SSE3), &[leaf1_ecx(Leaf1Ecx::SSSE3), extended_ecx(ExtendedEcx::SSE4A)]),
    (leaf1_ecx(Leaf1Ecx::SSSE3), &[leaf1_ecx(Leaf1Ecx::SSE4_1)]),
    (leaf1_ecx(Leaf1Ecx::SSE4_1), &[leaf1_ecx(Leaf1Ecx::SSE4_2)]),
    (leaf1_ecx(Leaf1Ecx::XSAVE), &[(STATE_EAX, StateEax::all().bits()), leaf1_ecx(Leaf1Ecx::AVX)]),
    (
        leaf1_ecx(Leaf1Ecx::AVX),
        &[
            leaf1_ecx(Leaf1Ecx::FMA.union(Leaf1Ecx::F16C)),
            leaf7_ebx(Leaf7Ebx::AVX2),
            extended_ecx(ExtendedEcx::FMA4.union(ExtendedEcx::XOP)),
        ],
    ),
    (leaf7_ebx(Leaf7Ebx::AVX2), &[leaf7_ecx(Leaf7Ecx::VAES.union(Leaf7Ecx::VPCLMULQDQ))]),
    (leaf7_edx(Leaf7Edx::IBRS_IBPB), &[leaf7_edx(Leaf7Edx::STIBP.union(Leaf7Edx::SSBD))]),
    (leaf1_ecx(Leaf1Ecx::AES), &[leaf7_ecx(Leaf7Ecx::VAES)]),
    (leaf1_ecx(Leaf1Ecx::PCLMULQDQ), &[leaf7_ecx(Leaf7Ecx::VPCLMULQDQ)]),
    (extended_edx(ExtendedEdx::AMD_3DNOW), &[extended_edx(ExtendedEdx::AMD_3DNOW_EXTENSIONS)]),
];

/// A guest's processor, as far as its toolstack has said something of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuPolicy {
    /// The features that it may see, by the words of [`WORDS`].
    features: [u32; WORDS.len()],
    /// EAX of the leaves that tell the last of their kind: [`LAST`].
    last: [Option<u32>; LAST.len()],
    /// Family, model and stepping, in the basic and in the extended leaf.
    signatures: [Option<u32>; 2],
    /// The name of the processor: leaves 0x80000002 to 0x80000004.
    name: [Option<[u32; 4]>; 3],
}

impl Default for CpuPolicy {
    fn default() -> Self {
        let (last, signatures, name) = ([None; LAST.len()], [None; 2], [None; 3]);
        Self { features: [u32::MAX; WORDS.len()], last, signatures, name }
    }
}

impl CpuPolicy {
    /// Takes a toolstack's word for a leaf. What the hypervisor decides by itself stays: topology,
    /// caches, what a vcpu's registers say.
    pub fn set(&mut self, said: &CpuidLeaf) {
        let answer = [said.a, said.b, said.c, said.d];
        let subleaf = if said.subleaf == XEN_CPUID_NO_SUBLEAF { 0 } else { said.subleaf };
        for (word, (leaf, sub, register)) in self.features.iter_mut().zip(WORDS) {
            if (leaf, sub) == (said.leaf, subleaf)
                && let Some(bits) = answer.get(register)
            {
                *word = *bits;
            }
        }
        for (last, leaf) in self.last.iter_mut().zip(LAST) {
            if (leaf, 0) == (said.leaf, subleaf) {
                *last = Some(said.a);
            }
        }
        let [basic, extended] = &mut self.signatures;
        match said.leaf {
            1 => *basic = Some(said.a & SIGNATURE),
            0x8000_0001 => *extended = Some(said.a & SIGNATURE),
            leaf => {
                let part = leaf.checked_sub(0x8000_0002).and_then(|part| self.name.get_mut(part as usize));
                if let Some(part) = part {
                    *part = Some(answer);
                }
            }
        }
    }

    /// Leaves out what needs something that is left out.
    pub fn settle(&mut self) {
        for ((word, bit), dependents) in NEEDS {
            if self.has(word, bit) {
                continue;
            }
            for &(word, bits) in dependents {
                if let Some(word) = self.features.get_mut(word) {
                    *word &= !bits;
                }
            }
        }
    }

    /// What it says is the last leaf of each kind: the leaf that tells it, with its subleaf as toolstacks write it.
    pub fn last_leaves(&self) -> impl Iterator<Item = (u32, u32, Option<u32>)> {
        LAST.into_iter()
            .zip(self.last)
            .map(|(leaf, last)| (leaf, if leaf == 7 { 0 } else { XEN_CPUID_NO_SUBLEAF }, last))
    }

    fn has(&self, word: usize, bit: u32) -> bool {
        self.features.get(word).is_some_and(|word| word & bit != 0)
    }

    /// What of a leaf's answer for all guests this one sees.
    #[must_use]
    pub fn answer(&self, leaf: u32, subleaf: u32, all: [u32; 4]) -> [u32; 4] {
        let [last_basic, last_subleaf, last_extended] = self.last.map(|last| last.unwrap_or(u32::MAX));
        let last = if leaf >= FIRST_EXTENDED_LEAF { last_extended.max(FIRST_EXTENDED_LEAF) } else { last_basic };
        if leaf > last || (leaf == 7 && subleaf > last_subleaf) {
            return [0; 4];
        }
        let subleaf = if matches!(leaf, 7 | 0xd) { subleaf } else { 0 };
        let mut answer = all;
        for (&mask, (of, sub, register)) in self.features.iter().zip(WORDS) {
            if (of, sub) == (leaf, subleaf)
                && let Some(word) = answer.get_mut(register)
            {
                *word &= if (of, register) == (1, 2) { mask | DYNAMIC_ECX } else { mask };
            }
        }
        let [eax, ebx, ecx, edx] = answer;
        let [basic, extended] = self.signatures;
        match (leaf, subleaf) {
            (0 | FIRST_EXTENDED_LEAF, _) => [eax.min(last), ebx, ecx, edx],
            (7, 0) => [eax.min(last_subleaf), ebx, ecx, edx],
            (1, _) => [basic.unwrap_or(eax), ebx, ecx, edx],
            (0x8000_0001, _) => {
                let [.., own] = all;
                let [_, common, ..] = self.features;
                let eax = if eax == 0 { 0 } else { extended.unwrap_or(eax) };
                [eax, ebx, ecx, edx & !COMMON_EDX | own & common & COMMON_EDX]
            }
            (0x8000_0002..=0x8000_0004, _) => {
                self.name.get((leaf - 0x8000_0002) as usize).copied().flatten().unwrap_or(answer)
            }
            (0xd, _) if !self.has(LEAF1_ECX, XSAVE) => [0; 4],
            (0xd, 0) if !self.has(LEAF1_ECX, AVX) => {
                [eax & LEGACY_STATE, ebx.min(LEGACY_BYTES), ecx.min(LEGACY_BYTES), edx]
            }
            (0xd, 1) => [eax, if eax & XSAVEC == 0 { 0 } else { ebx }, ecx, edx],
            (0xd, 2) if !self.has(LEAF1_ECX, AVX) => [0; 4],
            _ => answer,
        }
    }

    /// The bits of XCR0 that the guest may set.
    #[must_use]
    pub fn extended_state(&self) -> u64 {
        match (self.has(LEAF1_ECX, XSAVE), self.has(LEAF1_ECX, AVX)) {
            (false, _) => 0,
            (true, false) => LEGACY_STATE.into(),
            // What else the CPU keeps is for the machine to say.
            (true, true) => u64::MAX,
        }
    }

    /// The bits of CR4 that mean nothing to the guest: a write of them is dropped.
    #[must_use]
    pub fn absent_cr4(&self) -> Cr4Flags {
        let mut absent = Cr4Flags::empty();
        absent.set(Cr4Flags::FSGSBASE, !self.has(LEAF7_EBX, FSGSBASE));
        absent.set(Cr4Flags::OSXSAVE, !self.has(LEAF1_ECX, XSAVE));
        absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(leaf: u32, subleaf: u32, [a, b, c, d]: [u32; 4]) -> CpuidLeaf {
        CpuidLeaf { leaf, subleaf, a, b, c, d }
    }

    #[test]
    fn what_nothing_was_said_of_is_as_for_all() {
        let mut policy = CpuPolicy::default();
        policy.settle();
        for (leaf, subleaf) in [(0, 0), (1, 9), (4, 2), (7, 0), (0xd, 0), (0xd, 1), (0x8000_0001, 0), (0x8000_0008, 0)]
        {
            assert_eq!(policy.answer(leaf, subleaf, [7, 8, 9, u32::MAX]), [7, 8, 9, u32::MAX], "{leaf:#x}");
        }
        assert_eq!((policy.extended_state(), policy.absent_cr4()), (u64::MAX, Cr4Flags::empty()));
    }

    #[test]
    fn a_feature_goes_with_all_that_need_it() {
        let mut policy = CpuPolicy::default();
        policy.set(&leaf(1, XEN_CPUID_NO_SUBLEAF, [0x123_4567, 0, !XSAVE, u32::MAX]));
        policy.settle();
        let all = [u32::MAX; 4];
        // XSAVE, AVX, FMA and F16C; what the hypervisor answers itself stays.
        assert_eq!(policy.answer(1, 0, all), [0x123_0567, u32::MAX, !(XSAVE | AVX | 1 << 12 | 1 << 29), u32::MAX]);
        assert_eq!(policy.answer(7, 0, all), [u32::MAX, !(1 << 5), !(1 << 9 | 1 << 10), u32::MAX]);
        assert_eq!(policy.answer(7, 1, all), all, "another subleaf");
        assert_eq!(policy.answer(0x8000_0001, 0, all)[2], !(1 << 16 | 1 << 11));
        assert_eq!([0, 1, 2].map(|part| policy.answer(0xd, part, all)), [[0; 4]; 3]);
        assert_eq!((policy.extended_state(), policy.absent_cr4()), (0, Cr4Flags::OSXSAVE));
    }

    #[test]
    fn without_avx_the_extended_state_is_that_of_sse() {
        let mut policy = CpuPolicy::default();
        policy.set(&leaf(1, XEN_CPUID_NO_SUBLEAF, [0, 0, !AVX, u32::MAX]));
        policy.set(&leaf(7, 0, [0, !FSGSBASE, 0, 0]));
        policy.set(&leaf(0xd, 1, [!XSAVEC, 0, 0, 0]));
        policy.settle();
        assert_eq!(policy.answer(0xd, 0, [7, 832, 832, 0]), [3, 576, 576, 0]);
        assert_eq!(policy.answer(0xd, 1, [7, 832, 0, 0]), [5, 0, 0, 0]);
        assert_eq!(policy.answer(0xd, 2, [256, 576, 0, 0]), [0; 4]);
        assert_eq!((policy.extended_state(), policy.absent_cr4()), (3, Cr4Flags::FSGSBASE));
    }

    #[test]
    fn the_common_features_of_both_leaves_are_the_basic_ones() {
        let mut policy = CpuPolicy::default();
        policy.set(&leaf(1, XEN_CPUID_NO_SUBLEAF, [0, 0, u32::MAX, !1]));
        policy.set(&leaf(0x8000_0001, XEN_CPUID_NO_SUBLEAF, [5, 0, 0, 1 << 11]));
        assert_eq!(policy.answer(0x8000_0001, 0, [9, 0, 0, u32::MAX]), [5, 0, 0, 1 << 11 | COMMON_EDX & !1]);
        assert_eq!(policy.answer(0x8000_0001, 0, [0, 0, 0, 0]), [0; 4], "one that all see empty");
    }

    #[test]
    fn leaves_end_where_it_says_and_the_name_is_as_it_says() {
        let mut policy = CpuPolicy::default();
        policy.set(&leaf(0, XEN_CPUID_NO_SUBLEAF, [4, 0, 0, 0]));
        policy.set(&leaf(0x8000_0000, XEN_CPUID_NO_SUBLEAF, [0x8000_0003, 0, 0, 0]));
        policy.set(&leaf(0x8000_0003, XEN_CPUID_NO_SUBLEAF, [1, 2, 3, 4]));
        assert_eq!(policy.answer(0, 0, [0xd, 1, 2, 3]), [4, 1, 2, 3]);
        assert_eq!(policy.answer(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]), [0x8000_0003, 0, 0, 0]);
        assert_eq!([4, 5, 7, 0xd, 0x8000_0004].map(|leaf| policy.answer(leaf, 0, [1; 4])[0]), [1, 0, 0, 0, 0]);
        assert_eq!(policy.answer(0x8000_0003, 0, [9; 4]), [1, 2, 3, 4]);
        let told: Vec<_> = policy.last_leaves().collect();
        assert_eq!(told, [(0, u32::MAX, Some(4)), (7, 0, None), (FIRST_EXTENDED_LEAF, u32::MAX, Some(0x8000_0003))]);
    }
}
