//! CPUID as a PV guest sees it through the emulation prefix: what the CPU has, less what PV cannot keep, plus Xen's
//! leaves.

use crate::{
    caller::Caller,
    cpu_model::{CpuModel, Vendor},
    domain::Domain,
    features::{
        Extended21Eax, ExtendedEcx, ExtendedEdx, Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx, Leaf7Edx, PowerEdx, SizesEbx,
        StateEax,
    },
    machine::Machine,
    ports::Registers,
    sched::clock::Scale,
};
use x86_64::registers::control::Cr4Flags;

/// The first of the hypervisor's leaves (`arch-x86/cpuid.h`), and the last.
const XEN_LEAVES: u32 = 0x4000_0000;
const XEN_LAST_LEAF: u32 = 0x4000_0005;
/// The first of the extended leaves.
const FIRST_EXTENDED_LEAF: u32 = 0x8000_0000;
/// All leaves that belong to hypervisors.
const HYPERVISOR_LEAVES: core::ops::RangeInclusive<u32> = 0x4000_0000..=0x4fff_ffff;
/// "XenVMMXenVMM" in EBX, ECX, EDX.
const XEN_SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
/// Xen 4.17.
const XEN_VERSION: u32 = 4 << 16 | 17;
/// `XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD`.
const PRESERVES_AD: u32 = 1;
/// The largest basic leaf shown: extended state.
const LAST_BASIC_LEAF: u32 = 0xd;
/// The largest extended leaf shown, of AMD's CPUs and of others.
const LAST_AMD_LEAF: u32 = 0x8000_0021;
const LAST_EXTENDED_LEAF: u32 = 0x8000_0008;

/// Leaf 1 EBX that may be shown: all but the number of the processor, which may be another at the next instruction.
const LEAF1_EBX: u32 = 0x00ff_ffff;
/// Leaf 1 ECX that may be shown.
const LEAF1_ECX: Leaf1Ecx = Leaf1Ecx::SSE3
    .union(Leaf1Ecx::PCLMULQDQ)
    .union(Leaf1Ecx::SSSE3)
    .union(Leaf1Ecx::FMA)
    .union(Leaf1Ecx::CMPXCHG16B)
    .union(Leaf1Ecx::SSE4_1)
    .union(Leaf1Ecx::SSE4_2)
    .union(Leaf1Ecx::MOVBE)
    .union(Leaf1Ecx::POPCNT)
    .union(Leaf1Ecx::AES)
    .union(Leaf1Ecx::XSAVE)
    .union(Leaf1Ecx::AVX)
    .union(Leaf1Ecx::F16C)
    .union(Leaf1Ecx::RDRAND);
/// Leaf 1 EDX that may be shown: no VME, PSE, PGE, PSE36. MTRR is the control domain's to see, SYSENTER Intel's to
/// have: AMD's CPUs do not take it in long mode.
const LEAF1_EDX: Leaf1Edx = Leaf1Edx::FPU
    .union(Leaf1Edx::DE)
    .union(Leaf1Edx::TSC)
    .union(Leaf1Edx::MSR)
    .union(Leaf1Edx::PAE)
    .union(Leaf1Edx::MCE)
    .union(Leaf1Edx::CMPXCHG8B)
    .union(Leaf1Edx::APIC)
    .union(Leaf1Edx::MCA)
    .union(Leaf1Edx::CMOV)
    .union(Leaf1Edx::PAT)
    .union(Leaf1Edx::CLFLUSH)
    .union(Leaf1Edx::ACPI)
    .union(Leaf1Edx::MMX)
    .union(Leaf1Edx::FXSR)
    .union(Leaf1Edx::SSE)
    .union(Leaf1Edx::SSE2)
    .union(Leaf1Edx::SELF_SNOOP);
/// Leaf 7 EBX that may be shown.
const LEAF7_EBX: Leaf7Ebx = Leaf7Ebx::FSGSBASE
    .union(Leaf7Ebx::BMI1)
    .union(Leaf7Ebx::AVX2)
    .union(Leaf7Ebx::BMI2)
    .union(Leaf7Ebx::ERMS)
    .union(Leaf7Ebx::RDSEED)
    .union(Leaf7Ebx::ADX)
    .union(Leaf7Ebx::CLFLUSHOPT)
    .union(Leaf7Ebx::CLWB)
    .union(Leaf7Ebx::SHA);
/// Leaf 0x80000001 EDX that may be shown, beside the copies.
const EXTENDED_EDX: ExtendedEdx = ExtendedEdx::all();
/// Leaf 0x80000021 EAX that may be shown.
const EXTENDED21_EAX: Extended21Eax = Extended21Eax::NO_NESTED_BREAKPOINTS
    .union(Extended21Eax::LFENCE_WAITS)
    .union(Extended21Eax::NULL_SELECTOR_CLEARS_BASE);
const _: () = assert!(
    LEAF1_ECX.bits() == 0x76d8_3203
        && LEAF1_EDX.bits() == 0x0fc9_c3f5
        && LEAF7_EBX.bits() == 0x218c_0329
        && Leaf7Ecx::all().bits() == 0x40_0700
        && ExtendedEcx::all().bits() == 0x21_09e1
        && EXTENDED_EDX.bits() == 0xea50_0800
        && EXTENDED21_EAX.bits() == 0x45
);
/// Where AMD's CPUs keep whether LFENCE waits, and its bit.
const DECODE_CONFIGURATION: u32 = 0xc001_1029;
const LFENCE_SERIALISES: u64 = 1 << 1;
/// Bits of a virtual address, in the second byte of leaf 0x80000008 EAX, with the four levels of tables that guests
/// have.
const VIRTUAL_BITS: u32 = 48;
/// Extended state components that are kept for guests: x87, SSE, AVX.
const EXTENDED_STATE: u32 = 7;

/// Whether FXSAVE and XSAVE leave out where the last x87 instruction and its operand were, and what it was, unless an
/// exception is pending: AMD's CPUs that do not show `RstrFpErrPtrs` (CPUID 0x80000008 EBX bit 2). What FXRSTOR then
/// leaves in place would be another vcpu's.
#[must_use]
pub const fn leaves_x87_pointers(vendor: Vendor, leaf_8000_0008_ebx: u32) -> bool {
    vendor.is_like_amd() && !SizesEbx::from_bits_retain(leaf_8000_0008_ebx).contains(SizesEbx::SAVES_X87_POINTERS)
}

impl<M: Machine> Caller<'_, M> {
    /// The answer to a leaf: EAX, EBX, ECX, EDX, as the caller's domain may see it.
    #[must_use]
    pub fn cpuid_leaf(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.cpuid_leaf_of(self.domain, leaf, subleaf)
    }

    /// The answer by a domain's policy, else as the caller would see it without one of its own.
    pub(crate) fn cpuid_leaf_of(&self, domain: &Domain, leaf: u32, subleaf: u32) -> [u32; 4] {
        let all = self.plain_leaf(leaf, subleaf);
        match domain.cpu_policy.lock().as_ref() {
            Some(policy) if !HYPERVISOR_LEAVES.contains(&leaf) => policy.answer(leaf, subleaf, all),
            _ => all,
        }
    }

    /// The answer without a policy.
    pub(crate) fn plain_leaf(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        if HYPERVISOR_LEAVES.contains(&leaf) {
            return self.hypervisor_leaf(leaf, subleaf);
        }
        let machine = self.hv.machine();
        if leaf >= FIRST_EXTENDED_LEAF {
            return self.extended_leaf(leaf);
        }
        let [eax, ebx, ecx, edx] = machine.cpuid(leaf, subleaf);
        match leaf {
            0 => [eax.min(LAST_BASIC_LEAF), ebx, ecx, edx],
            1 => {
                let mut shown = Leaf1Ecx::from_bits_retain(ecx) & LEAF1_ECX | Leaf1Ecx::HYPERVISOR;
                shown.set(Leaf1Ecx::OSXSAVE, self.state.cr4.contains(Cr4Flags::OSXSAVE));
                [eax, ebx & LEAF1_EBX, shown.bits(), edx & self.leaf1_edx().bits()]
            }
            2 | 4 => [eax, ebx, ecx, edx],
            7 if subleaf == 0 => {
                let told = self.speculation_told(Leaf7Edx::from_bits_retain(edx)).bits();
                [0, ebx & LEAF7_EBX.bits(), ecx & Leaf7Ecx::all().bits(), told]
            }
            0xd => extended_state_leaf(subleaf, [eax, ebx, ecx, edx]),
            _ => [0; 4],
        }
    }

    /// What of leaf 1 EDX the caller may see.
    fn leaf1_edx(&self) -> Leaf1Edx {
        let mut shown = LEAF1_EDX;
        shown.set(Leaf1Edx::SYSENTER, !Vendor::of(self.hv.machine()).is_like_amd());
        shown.set(Leaf1Edx::MTRR, self.domain.is_privileged());
        shown
    }

    /// The extended leaves. Those of Intel's CPUs say less: what AMD's define and Intel's leave out is zero.
    fn extended_leaf(&self, leaf: u32) -> [u32; 4] {
        let machine = self.hv.machine();
        let is_amd = Vendor::of(machine).is_like_amd();
        let [eax, ebx, ecx, edx] = machine.cpuid(leaf, 0);
        match leaf {
            0x8000_0000 if is_amd => {
                let last = if lfence_waits(machine) { eax.max(LAST_AMD_LEAF) } else { eax };
                [last.min(LAST_AMD_LEAF), ebx, ecx, edx]
            }
            0x8000_0000 => [eax.min(LAST_EXTENDED_LEAF), 0, 0, 0],
            0x8000_0001 if is_amd => {
                let common = machine.cpuid(1, 0)[3] & (self.leaf1_edx() & Leaf1Edx::COMMON).bits();
                [eax, ebx, ecx & ExtendedEcx::all().bits(), edx & EXTENDED_EDX.bits() | common]
            }
            0x8000_0001 => {
                let mtrr = machine.cpuid(1, 0)[3] & (self.leaf1_edx() & Leaf1Edx::MTRR).bits();
                [0, 0, ecx & ExtendedEcx::all().bits(), edx & EXTENDED_EDX.bits() | mtrr]
            }
            0x8000_0002..=0x8000_0004 => [eax, ebx, ecx, edx],
            0x8000_0005 | 0x8000_0006 if is_amd => [eax, ebx, ecx, edx],
            0x8000_0006 => [0, 0, ecx, 0],
            0x8000_0007 => [0, 0, 0, edx & PowerEdx::INVARIANT_TSC.bits()],
            0x8000_0008 => {
                let told = self.barriers_told(SizesEbx::from_bits_retain(ebx)).bits();
                [eax & 0xff | (eax >> 8 & 0xff).min(VIRTUAL_BITS) << 8, told, 0, 0]
            }
            LAST_AMD_LEAF if is_amd => {
                let is_there = machine.cpuid(FIRST_EXTENDED_LEAF, 0)[0] >= leaf;
                let mut told = Extended21Eax::from_bits_retain(if is_there { eax } else { 0 }) & EXTENDED21_EAX;
                // Made up where the CPU does not tell it.
                if lfence_waits(machine) {
                    told |= Extended21Eax::LFENCE_WAITS;
                }
                [told.bits(), 0, 0, 0]
            }
            _ => [0; 4],
        }
    }
}

/// Whether LFENCE waits on a CPU of AMD's kind: always in families 0xf and 0x11, by a register's word in later ones.
fn lfence_waits(machine: &impl Registers) -> bool {
    let CpuModel { family, .. } = CpuModel::of(machine);
    let is_set = |value: u64| value & LFENCE_SERIALISES != 0;
    matches!(family, 0xf | 0x11) || machine.read_msr(DECODE_CONFIGURATION).is_some_and(is_set)
}

impl<M: Machine> Caller<'_, M> {
    /// The answer to the instruction with the prefix that asks for emulation. Kernels take OSXSAVE there to say whether
    /// the hypervisor lets them use XSAVE, before they set their own CR4; it has always been so.
    #[must_use]
    pub fn cpuid_by_prefix(&self, number: u32, subleaf: u32) -> [u32; 4] {
        let [eax, ebx, mut ecx, edx] = self.cpuid_leaf(number, subleaf);
        if number == 1 && self.state.in_kernel {
            ecx |= self.hv.machine().cpuid(number, subleaf)[2] & Leaf1Ecx::OSXSAVE.bits();
        }
        [eax, ebx, ecx, edx]
    }
}

const fn extended_state_leaf(subleaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> [u32; 4] {
    match subleaf {
        // The size for everything that is shown: x87 and SSE, the header, and AVX behind it.
        0 => [eax & EXTENDED_STATE, ebx, if ecx < 832 { ecx } else { 832 }, 0],
        // XSAVEOPT, XSAVEC with the size that it needs, and XGETBV of what is in use: supervisor state is not for
        // guests.
        1 => {
            let shown = StateEax::from_bits_truncate(eax);
            [shown.bits(), if shown.contains(StateEax::XSAVEC) { ebx } else { 0 }, 0, 0]
        }
        2 => [eax, ebx, ecx, edx],
        _ => [0; 4],
    }
}

impl<M: Machine> Caller<'_, M> {
    fn hypervisor_leaf(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let [ebx, ecx, edx] = XEN_SIGNATURE;
        match leaf - XEN_LEAVES {
            0 => [XEN_LAST_LEAF, ebx, ecx, edx],
            1 => [XEN_VERSION, 0, 0, 0],
            2 => [1, XEN_LEAVES, PRESERVES_AD, 0],
            3 => self.time_leaf(subleaf),
            5 if subleaf == 0 => [0, self.address_bits(), 0, 0],
            _ => [0; 4],
        }
    }

    /// The time stamp counter: subleaf 0, whether it is emulated and whether there is RDTSCP, its mode, its kHz, how
    /// often it was set; subleaf 1, of an emulated one, its scale; subleaf 2, the machine's kHz.
    fn time_leaf(&self, subleaf: u32) -> [u32; 4] {
        /// `XEN_CPUID` leaf 3 EAX, bit 2.
        const TIME_RDTSCP: u32 = 1 << 2;
        let (machine, tsc) = (self.hv.machine(), &self.domain.tsc);
        let khz = u32::try_from(machine.frequency() / 1000).unwrap_or(u32::MAX);
        let extended = ExtendedEdx::from_bits_retain(machine.cpuid(0x8000_0001, 0)[3]);
        let has_rdtscp = extended.contains(ExtendedEdx::RDTSCP);
        match subleaf {
            0 => {
                let told = tsc.get(0, khz);
                let gtsc_khz = if told.gtsc_khz == 0 { khz } else { told.gtsc_khz };
                let features = u32::from(tsc.is_emulated()) | if has_rdtscp { TIME_RDTSCP } else { 0 };
                [features, told.tsc_mode, gtsc_khz, if self.domain.is_privileged() { 0 } else { told.incarnation }]
            }
            1 => tsc.scale().map_or([0; 4], |Scale { mul, shift }| [0, 0, mul, i32::from(shift) as u32]),
            2 => [khz, 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// Bits of a machine address in the RAM that there is.
    fn address_bits(&self) -> u32 {
        crate::addr::PAGE_SHIFT + usize::BITS - self.hv.memory.frames.end().leading_zeros()
    }
}
