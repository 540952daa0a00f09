//! What a CPU says of itself that concerns speculation.

use super::{ARCH_CAPABILITIES, Faults};
use crate::{
    cpu_model::{CpuModel, Vendor},
    features::{ArchCapabilities, Extended21Eax, Extended21Ecx, Leaf1Ecx, Leaf7Ebx, Leaf7Edx, Leaf72Edx, SizesEbx},
    ports::Registers,
};
use bitflags::bitflags;

bitflags! {
    /// What a CPU says that it is free of, or how it is best defended; by the names in which Xen tells of them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Hints: u32 {
        /// Loads do not go through where they may not.
        const RDCL_NO = 1 << 0;
        /// IBRS may stay on (enhanced IBRS).
        const EIBRS = 1 << 1;
        /// Return predictions may come from elsewhere when they run out.
        const RSBA = 1 << 2;
        /// The same, and IBRS restricts it.
        const RRSBA = 1 << 3;
        /// The first-level cache needs no flush before hardware's guests run.
        const SKIP_L1DFL = 1 << 4;
        /// Loads do not overtake stores.
        const SSB_NO = 1 << 5;
        /// Buffers are not seen.
        const MDS_NO = 1 << 6;
        /// Nor after aborts.
        const TAA_NO = 1 << 7;
        /// Nor behind devices: three ways.
        const SBDR_SSDP_NO = 1 << 8;
        /// See [`Self::SBDR_SSDP_NO`].
        const FBSDP_NO = 1 << 9;
        /// See [`Self::SBDR_SSDP_NO`].
        const PSDP_NO = 1 << 10;
        /// Return predictions of guests end with them, where IBRS stays on.
        const PBRSB_NO = 1 << 11;
        /// Gathered loads see nothing of others.
        const GDS_NO = 1 << 12;
        /// Nor is anything seen of the register file.
        const RFDS_NO = 1 << 13;
        /// The history of user mode's branches does not choose among the kernel's.
        const BHI_NO = 1 << 14;
        /// IBRS is best left on.
        const IBRS_ALWAYS = 1 << 15;
        /// So is STIBP.
        const STIBP_ALWAYS = 1 << 16;
        /// IBRS costs little.
        const IBRS_FAST = 1 << 17;
        /// IBRS protects within a mode, too.
        const IBRS_SAME_MODE = 1 << 18;
        /// Branches are not taken for those of another kind.
        const BTC_NO = 1 << 19;
        /// IBPB empties the stack of return predictions.
        const IBPB_RET = 1 << 20;
        /// Returns go where they should.
        const SRSO_NO = 1 << 21;
        /// The queue of stores is not seen by loads that were foreseen wrongly.
        const TSA_SQ_NO = 1 << 22;
        /// Nor the first-level cache.
        const TSA_L1_NO = 1 << 23;
    }

    /// By what a CPU can be told to behave; by the names in which Xen tells of them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Controls: u32 {
        /// Predictions are forgotten by a command.
        const IBPB = 1 << 0;
        /// Indirect branches are not steered by who had less privilege.
        const IBRS = 1 << 1;
        /// Nor by the CPU's other thread.
        const STIBP = 1 << 2;
        /// Loads wait for stores.
        const SSBD = 1 << 3;
        /// Nothing is forwarded by guessing.
        const PSFD = 1 << 4;
        /// The first-level cache is flushed by a command.
        const L1D_FLUSH = 1 << 5;
        /// VERW overwrites buffers.
        const MD_CLEAR = 1 << 6;
        /// The random numbers' buffer is guarded by microcode, which can be told not to.
        const SRBDS_CTRL = 1 << 7;
        /// SSBD by another register, which a hypervisor below shows.
        const VIRT_SSBD = 1 << 8;
        /// Transactions can be turned off.
        const TSX_CTRL = 1 << 9;
        /// VERW overwrites the buffers behind devices.
        const FB_CLEAR = 1 << 10;
        /// Gathered loads are guarded by microcode, which can be told not to.
        const GDS_CTRL = 1 << 11;
        /// VERW overwrites the register file.
        const RFDS_CLEAR = 1 << 12;
        /// The history of branches can be kept from the kernel's.
        const BHI_CTRL = 1 << 13;
        /// IBRS comes and goes with the privilege.
        const AUTO_IBRS = 1 << 14;
        /// A barrier that forgets less.
        const SBPB = 1 << 15;
        /// IBPB forgets the kinds of branches, too.
        const IBPB_BRTYPE = 1 << 16;
        /// VERW overwrites what loads that were foreseen wrongly see.
        const VERW_CLEAR = 1 << 17;
    }
}

/// What a CPU is, says and has, as far as it concerns speculation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which it is.
    pub cpu: CpuModel,
    /// What it says that it is free of.
    pub hints: Hints,
    /// By what it can be told to behave.
    pub controls: Controls,
    /// What it is vulnerable to.
    pub faults: Faults,
    /// Whether ring 0 executes nothing of guests.
    pub has_smep: bool,
    /// Bits of a machine address that its first-level cache compares.
    pub cache_bits: u32,
    /// Bits of a machine address.
    pub address_bits: u32,
    /// Whether another hypervisor is below, which shows no chicken bits.
    pub is_virtual: bool,
}

/// The revision of AMD's microcode.
const PATCH_LEVEL: u32 = 0x8b;

/// Which flags that a CPU sets mean which of another set.
macro_rules! gather {
    ($told:ident: $($bit:path => $name:expr),+ $(,)?) => { [$(($told.contains($bit), $name)),+] };
}

fn all_that<F: bitflags::Flags + Copy, const N: usize>(said: [(bool, F); N]) -> F {
    said.into_iter().filter(|&(is_said, _)| is_said).fold(F::empty(), |all, (_, flag)| all.union(flag))
}

impl Found {
    /// Asks the CPU.
    #[must_use]
    pub fn of(machine: &impl Registers) -> Self {
        let cpu = CpuModel::of(machine);
        let (last, last_extended) = (machine.cpuid(0, 0)[0], machine.cpuid(0x8000_0000, 0)[0]);
        let leaf = |leaf, subleaf| {
            let is_there = leaf <= if leaf < 0x8000_0000 { last } else { last_extended };
            if is_there { machine.cpuid(leaf, subleaf) } else { [0; 4] }
        };
        let [last_subleaf, seven_b, _, seven_d] = leaf(7, 0);
        let (seven_b, seven) = (Leaf7Ebx::from_bits_retain(seven_b), Leaf7Edx::from_bits_retain(seven_d));
        let seven_2 = Leaf72Edx::from_bits_retain(if last_subleaf >= 2 { leaf(7, 2)[3] } else { 0 });
        let [bits, eight, ..] = leaf(0x8000_0008, 0);
        let eight = SizesEbx::from_bits_retain(eight);
        let [twenty_one, _, twenty_one_c, _] = leaf(0x8000_0021, 0);
        let twenty_one = Extended21Eax::from_bits_retain(twenty_one);
        let own = seven.contains(Leaf7Edx::ARCH_CAPABILITIES).then(|| machine.read_msr(ARCH_CAPABILITIES)).flatten();
        let own = ArchCapabilities::from_bits_retain(own.unwrap_or(0));
        let hints = hints(own, eight, twenty_one, Extended21Ecx::from_bits_retain(twenty_one_c));
        let controls = controls(own, seven, seven_2, eight, twenty_one);
        let microcode = if cpu.vendor.is_like_amd() { machine.read_msr(PATCH_LEVEL).unwrap_or(0) } else { 0 };
        let address_bits = if bits & 0xff == 0 { 36 } else { bits & 0xff };
        Self {
            cpu,
            hints,
            controls,
            faults: Faults::of(&cpu, microcode, hints, controls, seven_b),
            has_smep: seven_b.contains(Leaf7Ebx::SMEP),
            cache_bits: cache_bits(&cpu, address_bits),
            address_bits,
            is_virtual: Leaf1Ecx::from_bits_retain(leaf(1, 0)[2]).contains(Leaf1Ecx::HYPERVISOR),
        }
    }
}

fn hints(own: ArchCapabilities, eight: SizesEbx, twenty_one: Extended21Eax, more: Extended21Ecx) -> Hints {
    let by_register = all_that(gather!(own:
        ArchCapabilities::RDCL_NO => Hints::RDCL_NO,
        ArchCapabilities::IBRS_ALL => Hints::EIBRS,
        ArchCapabilities::RSBA => Hints::RSBA,
        ArchCapabilities::RRSBA => Hints::RRSBA,
        ArchCapabilities::SKIP_L1DFL => Hints::SKIP_L1DFL,
        ArchCapabilities::SSB_NO => Hints::SSB_NO,
        ArchCapabilities::MDS_NO => Hints::MDS_NO,
        ArchCapabilities::TAA_NO => Hints::TAA_NO,
        ArchCapabilities::SBDR_SSDP_NO => Hints::SBDR_SSDP_NO,
        ArchCapabilities::FBSDP_NO => Hints::FBSDP_NO,
        ArchCapabilities::PSDP_NO => Hints::PSDP_NO,
        ArchCapabilities::PBRSB_NO => Hints::PBRSB_NO,
        ArchCapabilities::GDS_NO => Hints::GDS_NO,
        ArchCapabilities::RFDS_NO => Hints::RFDS_NO,
        ArchCapabilities::BHI_NO => Hints::BHI_NO,
    ));
    let by_leaf = all_that(gather!(eight:
        SizesEbx::IBRS_ALWAYS => Hints::IBRS_ALWAYS,
        SizesEbx::STIBP_ALWAYS => Hints::STIBP_ALWAYS,
        SizesEbx::IBRS_FAST => Hints::IBRS_FAST,
        SizesEbx::IBRS_SAME_MODE => Hints::IBRS_SAME_MODE,
        SizesEbx::SSB_NO => Hints::SSB_NO,
        SizesEbx::BTC_NO => Hints::BTC_NO,
        SizesEbx::IBPB_RET => Hints::IBPB_RET,
    ));
    let by_last_leaf = all_that([
        (twenty_one.contains(Extended21Eax::SRSO_NO), Hints::SRSO_NO),
        (more.contains(Extended21Ecx::TSA_SQ_NO), Hints::TSA_SQ_NO),
        (more.contains(Extended21Ecx::TSA_L1_NO), Hints::TSA_L1_NO),
    ]);
    by_register | by_leaf | by_last_leaf
}

fn controls(
    own: ArchCapabilities,
    seven: Leaf7Edx,
    seven_2: Leaf72Edx,
    eight: SizesEbx,
    twenty_one: Extended21Eax,
) -> Controls {
    let of_intels = all_that(gather!(seven:
        Leaf7Edx::IBRS_IBPB => Controls::IBPB.union(Controls::IBRS),
        Leaf7Edx::STIBP => Controls::STIBP,
        Leaf7Edx::SSBD => Controls::SSBD,
        Leaf7Edx::L1D_FLUSH => Controls::L1D_FLUSH,
        Leaf7Edx::MD_CLEAR => Controls::MD_CLEAR,
        Leaf7Edx::SRBDS_CTRL => Controls::SRBDS_CTRL,
    ));
    let of_amds = all_that(gather!(eight:
        SizesEbx::IBPB => Controls::IBPB,
        SizesEbx::IBRS => Controls::IBRS,
        SizesEbx::STIBP => Controls::STIBP,
        SizesEbx::SSBD => Controls::SSBD,
        SizesEbx::VIRT_SSBD => Controls::VIRT_SSBD,
        SizesEbx::PSFD => Controls::PSFD,
    ));
    let of_amds_last = all_that(gather!(twenty_one:
        Extended21Eax::AUTO_IBRS => Controls::AUTO_IBRS,
        Extended21Eax::SBPB => Controls::SBPB,
        Extended21Eax::IBPB_BRTYPE => Controls::IBPB_BRTYPE,
        Extended21Eax::VERW_CLEAR => Controls::VERW_CLEAR,
    ));
    let by_register = all_that(gather!(own:
        ArchCapabilities::TSX_CTRL => Controls::TSX_CTRL,
        ArchCapabilities::FB_CLEAR => Controls::FB_CLEAR,
        ArchCapabilities::GDS_CTRL => Controls::GDS_CTRL,
        ArchCapabilities::RFDS_CLEAR => Controls::RFDS_CLEAR,
    ));
    let by_subleaf = all_that(gather!(seven_2:
        Leaf72Edx::PSFD => Controls::PSFD,
        Leaf72Edx::BHI_CTRL => Controls::BHI_CTRL,
    ));
    of_intels | of_amds | of_amds_last | by_register | by_subleaf
}

/// Nehalem's and Westmere's first-level caches compare 44 bits, those since Sandy Bridge 46, whatever there may be.
fn cache_bits(cpu: &CpuModel, address_bits: u32) -> u32 {
    match (cpu.vendor, cpu.family, cpu.model) {
        (Vendor::Intel, 6, 0x1a | 0x1e | 0x1f | 0x25 | 0x2c | 0x2e | 0x2f) => 44,
        (Vendor::Intel, 6, 0x2a | 0x2d | 0x3a | 0x3c..=0x3f | 0x45..=0x47 | 0x4e | 0x4f) => 46,
        (Vendor::Intel, 6, 0x55 | 0x56 | 0x5e | 0x66 | 0x8e | 0x9e) => 46,
        _ => address_bits,
    }
}
