//! CPUID as a PV guest sees it through the emulation prefix: what the CPU has, less what PV cannot keep, plus Xen's
//! leaves.

use crate::{
    caller::Caller,
    domain::{Domain, control_registers::CR4_OSXSAVE},
    machine::Machine,
    ports::Registers,
    sched::clock::Scale,
};

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
/// Leaf 1 ECX that may be shown: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4, MOVBE, POPCNT, AES, XSAVE, AVX, F16C,
/// RDRAND.
const LEAF1_ECX: u32 = 1
    | 1 << 1
    | 1 << 9
    | 1 << 12
    | 1 << 13
    | 0x0018_0000
    | 1 << 22
    | 1 << 23
    | 1 << 25
    | 1 << 26
    | 1 << 28
    | 1 << 29
    | 1 << 30;
const LEAF1_ECX_OSXSAVE: u32 = 1 << 27;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX that may be shown: no VME, PSE, PGE, PSE36. MTRR is the control domain's to see, SYSENTER Intel's to
/// have: AMD's CPUs do not take it in long mode.
const LEAF1_EDX: u32 = 0x0fc9_c3f5;
const LEAF1_EDX_SYSENTER: u32 = 1 << 11;
const LEAF1_EDX_MTRR: u32 = 1 << 12;
/// The bits of leaf 1 EDX that AMD's CPUs show in leaf 0x80000001 EDX again.
const COMMON_EDX: u32 = 0x0183_f3ff;
/// Leaf 7 EBX that may be shown: FSGSBASE, BMI1, AVX2, BMI2, ERMS, RDSEED, ADX, CLFLUSHOPT, CLWB, SHA.
const LEAF7_EBX: u32 = 1 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 18 | 1 << 19 | 1 << 23 | 1 << 24 | 1 << 29;
/// Leaf 7 ECX that may be shown: GFNI, VAES, VPCLMULQDQ, RDPID.
const LEAF7_ECX: u32 = 1 << 8 | 1 << 9 | 1 << 10 | 1 << 22;
const LEAF7_EDX_ARCH_CAPABILITIES: u32 = 1 << 29;
/// The register behind it, and what may be told of it: of which attacks the CPU is free, and how it predicts.
pub const ARCH_CAPABILITIES: u32 = 0x10a;
const CAPABILITIES_TOLD: u64 = 0x0d18_e17b;
/// Return predictions may come from elsewhere when they run out.
const RSBA: u64 = 1 << 2;
/// Intel's CPUs of which that is so, whatever they say: Skylake and its kin, by model, family 6.
const RSBA_MODELS: [u32; 9] = [0x4e, 0x55, 0x5e, 0x66, 0x67, 0x8e, 0x9e, 0xa5, 0xa6];
/// Leaf 0x80000001 ECX: LAHF, ABM, SSE4A, misaligned SSE, prefetch, XOP, FMA4, TBM.
const EXTENDED1_ECX: u32 = 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 16 | 1 << 21;
/// Leaf 0x80000001 EDX, beside the copies: SYSCALL, NX, MMX extensions, RDTSCP, long mode, and AMD's 3DNow! of old.
const EXTENDED1_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 22 | 1 << 27 | 1 << 29 | 3 << 30;
/// Leaf 0x80000021 EAX: no nested breakpoints, LFENCE waits, null selectors clear bases.
const EXTENDED21_EAX: u32 = 1 | 1 << 2 | 1 << 6;
/// The one of these that is made up where the CPU does not tell it: LFENCE waits for what is before it.
const LFENCE_WAITS: u32 = 1 << 2;
/// Where AMD's CPUs keep whether LFENCE waits, and its bit.
const DECODE_CONFIGURATION: u32 = 0xc001_1029;
const LFENCE_SERIALISES: u64 = 1 << 1;
/// Bits of a virtual address, in the second byte of leaf 0x80000008 EAX, with the four levels of tables that guests
/// have.
const VIRTUAL_BITS: u32 = 48;
/// Extended state components that are kept for guests: x87, SSE, AVX.
const EXTENDED_STATE: u32 = 7;

/// Who made the CPU, by the vendor's name in EBX of CPUID leaf 0: "Genu", "Auth", "Hygo".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD.
    Amd,
    /// Hygon, whose CPUs are AMD's in most.
    Hygon,
    /// Somebody else.
    Other,
}

impl Vendor {
    /// The vendor of this machine's CPUs.
    #[must_use]
    pub fn of(machine: &impl Registers) -> Self {
        Self::by_name(machine.cpuid(0, 0)[1])
    }

    /// The vendor by the first four letters.
    #[must_use]
    pub const fn by_name(ebx: u32) -> Self {
        match &ebx.to_le_bytes() {
            b"Genu" => Self::Intel,
            b"Auth" => Self::Amd,
            b"Hygo" => Self::Hygon,
            _ => Self::Other,
        }
    }

    /// Whether the CPU is of AMD's kind.
    #[must_use]
    pub const fn is_like_amd(self) -> bool {
        matches!(self, Self::Amd | Self::Hygon)
    }
}

/// Whether FXSAVE and XSAVE leave out where the last x87 instruction and its operand were, and what it was, unless an
/// exception is pending: AMD's CPUs that do not show `RstrFpErrPtrs` (CPUID 0x80000008 EBX bit 2). What FXRSTOR then
/// leaves in place would be another vcpu's.
#[must_use]
pub const fn leaves_x87_pointers(vendor: Vendor, leaf_8000_0008_ebx: u32) -> bool {
    vendor.is_like_amd() && leaf_8000_0008_ebx & 1 << 2 == 0
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
                let osxsave = if self.state.cr4 & CR4_OSXSAVE != 0 { LEAF1_ECX_OSXSAVE } else { 0 };
                [eax, ebx & LEAF1_EBX, ecx & LEAF1_ECX | osxsave | LEAF1_ECX_HYPERVISOR, edx & self.leaf1_edx()]
            }
            2 | 4 => [eax, ebx, ecx, edx],
            7 if subleaf == 0 => {
                let told = if self.speculation_capabilities().is_some() { LEAF7_EDX_ARCH_CAPABILITIES } else { 0 };
                [0, ebx & LEAF7_EBX, ecx & LEAF7_ECX, told]
            }
            0xd => extended_state_leaf(subleaf, [eax, ebx, ecx, edx]),
            _ => [0; 4],
        }
    }

    /// What of leaf 1 EDX the caller may see.
    fn leaf1_edx(&self) -> u32 {
        let is_amd = Vendor::of(self.hv.machine()).is_like_amd();
        LEAF1_EDX
            | if is_amd { 0 } else { LEAF1_EDX_SYSENTER }
            | if self.domain.is_privileged() { LEAF1_EDX_MTRR } else { 0 }
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
                let common = machine.cpuid(1, 0)[3] & self.leaf1_edx() & COMMON_EDX;
                [eax, ebx, ecx & EXTENDED1_ECX, edx & EXTENDED1_EDX | common]
            }
            0x8000_0001 => {
                let mtrr = machine.cpuid(1, 0)[3] & self.leaf1_edx() & LEAF1_EDX_MTRR;
                [0, 0, ecx & EXTENDED1_ECX, edx & EXTENDED1_EDX | mtrr]
            }
            0x8000_0002..=0x8000_0004 => [eax, ebx, ecx, edx],
            0x8000_0005 | 0x8000_0006 if is_amd => [eax, ebx, ecx, edx],
            0x8000_0006 => [0, 0, ecx, 0],
            0x8000_0007 => [0, 0, 0, edx & 1 << 8],
            0x8000_0008 => [eax & 0xff | (eax >> 8 & 0xff).min(VIRTUAL_BITS) << 8, 0, 0, 0],
            LAST_AMD_LEAF if is_amd => {
                let told = if machine.cpuid(FIRST_EXTENDED_LEAF, 0)[0] >= leaf { eax & EXTENDED21_EAX } else { 0 };
                [told | if lfence_waits(machine) { LFENCE_WAITS } else { 0 }, 0, 0, 0]
            }
            _ => [0; 4],
        }
    }

    /// What the control domain is told of speculation by `ARCH_CAPABILITIES`; `None`: the register is not there.
    #[must_use]
    pub fn speculation_capabilities(&self) -> Option<u64> {
        let machine = self.hv.machine();
        if !self.domain.is_privileged() || Vendor::of(machine) != Vendor::Intel {
            return None;
        }
        let [signature, ..] = machine.cpuid(1, 0);
        let (family, model) = (signature >> 8 & 0xf, signature >> 12 & 0xf0 | signature >> 4 & 0xf);
        let rsba = if family == 6 && RSBA_MODELS.contains(&model) { RSBA } else { 0 };
        let has_register = machine.cpuid(7, 0)[3] & LEAF7_EDX_ARCH_CAPABILITIES != 0;
        let own = if has_register { machine.read_msr(ARCH_CAPABILITIES) } else { None };
        if own.is_none() && rsba == 0 { None } else { Some(own.unwrap_or(0) & CAPABILITIES_TOLD | rsba) }
    }
}

/// Whether LFENCE waits on a CPU of AMD's kind: always in families 0xf and 0x11, by a register's word in later ones.
fn lfence_waits(machine: &impl Registers) -> bool {
    let [signature, ..] = machine.cpuid(1, 0);
    let family = (signature >> 8 & 0xf) + if signature >> 8 & 0xf == 0xf { signature >> 20 & 0xff } else { 0 };
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
            ecx |= self.hv.machine().cpuid(number, subleaf)[2] & LEAF1_ECX_OSXSAVE;
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
        1 => [eax & 7, if eax & 2 != 0 { ebx } else { 0 }, 0, 0],
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

    /// The time stamp counter: subleaf 0, whether it is emulated and whether there is RDTSCP, its mode, its kHz, how often
    /// it was set; subleaf 1, of an emulated one, its scale; subleaf 2, the machine's kHz.
    fn time_leaf(&self, subleaf: u32) -> [u32; 4] {
        /// `XEN_CPUID` leaf 3 EAX, bit 2.
        const TIME_RDTSCP: u32 = 1 << 2;
        let (machine, tsc) = (self.hv.machine(), &self.domain.tsc);
        let khz = u32::try_from(machine.frequency() / 1000).unwrap_or(u32::MAX);
        let has_rdtscp = machine.cpuid(0x8000_0001, 0)[3] & 1 << 27 != 0;
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
