//! Which faults a CPU has: by what it says of itself, else by its model.

use super::found::{Controls, Hints};
use crate::{
    cpu_model::{CpuModel, Vendor},
    features::Leaf7Ebx,
};
use bitflags::bitflags;
use core::ops::RangeInclusive;

bitflags! {
    /// What a CPU does ahead of time that it should not. No CPU that speculates is without Spectre's first variant.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Faults: u32 {
        /// Loads go through whatever the page's privilege (XSA-254, variant 3).
        const MELTDOWN = 1 << 0;
        /// Branches and bounds are guessed (XSA-254, variant 1).
        const SPECTRE_V1 = 1 << 1;
        /// Targets of indirect branches are guessed from others' (XSA-254, variant 2).
        const SPECTRE_V2 = 1 << 2;
        /// Entries that are not present are followed into the first-level cache (XSA-273).
        const L1TF = 1 << 3;
        /// Loads see what is left in buffers (XSA-297).
        const MDS = 1 << 4;
        /// The same after a transaction's abort (XSA-305).
        const TAA = 1 << 5;
        /// The same behind accesses to devices (XSA-404).
        const MMIO = 1 << 6;
        /// Registers of others are left in the register file (XSA-452).
        const RFDS = 1 << 7;
        /// Loads overtake stores to the same address (XSA-263).
        const SSB = 1 << 8;
        /// Branches are taken for those of another kind, returns among them (XSA-407).
        const BRANCH_TYPE = 1 << 9;
        /// Returns go where somebody said (XSA-434).
        const SRSO = 1 << 10;
        /// The divider shows the last quotient (XSA-439).
        const DIV = 1 << 11;
        /// Halves of vector registers show others' (XSA-433).
        const ZENBLEED = 1 << 12;
        /// Gathered loads see what is left in vector registers (XSA-435).
        const GDS = 1 << 13;
        /// The history of user mode's branches chooses among the kernel's (XSA-456).
        const BHI = 1 << 14;
        /// Loads that were foreseen wrongly see queues and the cache (XSA-471).
        const TSA = 1 << 15;
    }
}

/// Intel's models of family 6 that execute in order.
const IN_ORDER: [u32; 5] = [0x1c, 0x26, 0x27, 0x35, 0x36];
/// Silvermont and Airmont, and the Xeon Phis.
const SILVERMONT: [u32; 6] = [0x37, 0x4a, 0x4c, 0x4d, 0x5a, 0x5d];
const XEON_PHI: [u32; 2] = [0x57, 0x85];
/// Goldmont and its successor.
const GOLDMONT: [u32; 3] = [0x5c, 0x5f, 0x7a];
/// Later Atoms, and CPUs that have such cores beside others.
const TREMONT_AND_LATER: [u32; 9] = [0x86, 0x96, 0x9c, 0x97, 0x9a, 0xb7, 0xba, 0xbe, 0xbf];
/// Skylake and its kin, of which later steppings are free of some.
const SKYLAKE: [u32; 7] = [0x4e, 0x5e, 0x55, 0x8e, 0x9e, 0xa5, 0xa6];
/// Ice Lake, Tiger Lake, Rocket Lake.
const ICE_LAKE: [u32; 7] = [0x6a, 0x6c, 0x7d, 0x7e, 0x8c, 0x8d, 0xa7];
/// Before Haswell, from the first Core on.
const BEFORE_HASWELL: [u32; 15] =
    [0x0e, 0x0f, 0x16, 0x17, 0x1d, 0x1a, 0x1e, 0x1f, 0x2e, 0x25, 0x2c, 0x2f, 0x2a, 0x2d, 0x3a];

/// AMD's families: Zen 1 and 2, Hygon's Zen 1, Zen 3 and 4.
const ZEN_1_AND_2: u32 = 0x17;
const HYGON: u32 = 0x18;
const ZEN_3_AND_4: u32 = 0x19;
/// The models of Zen 1 in the family that it shares with Zen 2.
const ZEN_1_MODELS: RangeInclusive<u32> = 0..=0x2f;

impl Faults {
    /// The faults of a CPU that says so much of itself.
    #[must_use]
    pub(super) fn of(cpu: &CpuModel, microcode: u64, hints: Hints, controls: Controls, has: Leaf7Ebx) -> Self {
        let mut found = Self::SPECTRE_V1 | Self::SPECTRE_V2;
        match cpu.vendor {
            Vendor::Amd | Vendor::Hygon => found |= of_amds(cpu, microcode, hints, controls),
            // Xen takes CPUs of makers that it does not know for Intel's.
            Vendor::Intel | Vendor::Other => found |= of_intels(cpu, hints, controls, has),
        }
        found.set(Self::SSB, !hints.contains(Hints::SSB_NO));
        found
    }
}

fn of_amds(cpu: &CpuModel, microcode: u64, hints: Hints, controls: Controls) -> Faults {
    let is_zen_1 = cpu.family == HYGON || cpu.family == ZEN_1_AND_2 && ZEN_1_MODELS.contains(&cpu.model);
    let mut found = Faults::empty();
    found.set(Faults::BRANCH_TYPE, cpu.family <= HYGON && !hints.contains(Hints::BTC_NO));
    found.set(Faults::SRSO, (ZEN_1_AND_2..=ZEN_3_AND_4).contains(&cpu.family) && !hints.contains(Hints::SRSO_NO));
    found.set(Faults::DIV, is_zen_1);
    let is_old = microcode < without_zenbleed(cpu.model);
    found.set(Faults::ZENBLEED, cpu.family == ZEN_1_AND_2 && !is_zen_1 && is_old);
    let is_free = hints.contains(Hints::TSA_SQ_NO | Hints::TSA_L1_NO);
    found.set(Faults::TSA, cpu.family == ZEN_3_AND_4 && !is_free || controls.contains(Controls::VERW_CLEAR));
    found
}

/// The first microcode that mends it, on models of Zen 2.
const fn without_zenbleed(model: u32) -> u64 {
    match model {
        0x30..=0x3f => 0x0830_107a,
        0x60..=0x67 => 0x0860_010b,
        0x68..=0x6f => 0x0860_8105,
        0x70..=0x7f => 0x0870_1032,
        0xa0..=0xaf => 0x08a0_0008,
        _ => u64::MAX,
    }
}

fn of_intels(cpu: &CpuModel, hints: Hints, controls: Controls, has: Leaf7Ebx) -> Faults {
    let lacks = |hint| !hints.contains(hint);
    let is_big = cpu.vendor == Vendor::Intel && cpu.family == 6;
    let is_one_of = |models: &[u32]| is_big && models.contains(&cpu.model);
    let is_small = is_one_of(&IN_ORDER) || is_one_of(&SILVERMONT) || is_one_of(&XEON_PHI) || is_one_of(&GOLDMONT);
    let mut found = Faults::empty();
    found.set(Faults::MELTDOWN, lacks(Hints::RDCL_NO));
    found.set(Faults::L1TF, is_big && lacks(Hints::RDCL_NO) && !is_small);
    let is_fixed_skylake = match cpu.model {
        0x55 => cpu.stepping > 5,
        0x8e => cpu.stepping > 0xb,
        0x9e => cpu.stepping > 0xc,
        0xa5 | 0xa6 => true,
        _ => false,
    };
    let is_free_of_mds = is_one_of(&IN_ORDER)
        || is_one_of(&GOLDMONT)
        || is_one_of(&TREMONT_AND_LATER)
        || is_one_of(&ICE_LAKE)
        || is_one_of(&SKYLAKE) && is_fixed_skylake;
    found.set(Faults::MDS, is_big && lacks(Hints::MDS_NO) && !is_free_of_mds);
    found.set(Faults::TAA, has.contains(Leaf7Ebx::RTM) && lacks(Hints::TAA_NO));
    let is_said_free = hints.contains(Hints::SBDR_SSDP_NO | Hints::FBSDP_NO | Hints::PSDP_NO);
    let leaks_behind_devices = is_one_of(&SKYLAKE) || is_one_of(&ICE_LAKE) || is_one_of(&[0x3f, 0x4f, 0x56, 0x8a]);
    let is_mmio = controls.contains(Controls::FB_CLEAR) || leaks_behind_devices || is_one_of(&[0x86, 0x96, 0x9c]);
    found.set(Faults::MMIO, is_mmio && !is_said_free);
    let leaves_registers = is_one_of(&GOLDMONT) || is_one_of(&TREMONT_AND_LATER);
    let is_rfds = controls.contains(Controls::RFDS_CLEAR) || leaves_registers;
    found.set(Faults::RFDS, is_rfds && lacks(Hints::RFDS_NO));
    let gathers = is_one_of(&SKYLAKE) || is_one_of(&ICE_LAKE) || controls.contains(Controls::GDS_CTRL);
    found.set(Faults::GDS, has.contains(Leaf7Ebx::AVX2) && gathers && lacks(Hints::GDS_NO));
    found.set(Faults::BHI, is_big && lacks(Hints::BHI_NO) && !is_small && !is_one_of(&BEFORE_HASWELL));
    found
}
