//! Words of CPUID that are sets of features, by the manuals' names (Intel SDM vol. 2A, CPUID; AMD manual vol. 3,
//! appendix E): those bits that the hypervisor shows, hides or uses. A CPU may set others.

#![expect(missing_docs, reason = "the manuals' own names")]

use bitflags::bitflags;

bitflags! {
    /// Leaf 1, ECX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf1Ecx: u32 {
        const SSE3 = 1 << 0;
        const PCLMULQDQ = 1 << 1;
        const SSSE3 = 1 << 9;
        const FMA = 1 << 12;
        const CMPXCHG16B = 1 << 13;
        const SSE4_1 = 1 << 19;
        const SSE4_2 = 1 << 20;
        const MOVBE = 1 << 22;
        const POPCNT = 1 << 23;
        const TSC_DEADLINE = 1 << 24;
        const AES = 1 << 25;
        const XSAVE = 1 << 26;
        const OSXSAVE = 1 << 27;
        const AVX = 1 << 28;
        const F16C = 1 << 29;
        const RDRAND = 1 << 30;
        const HYPERVISOR = 1 << 31;
    }

    /// Leaf 1, EDX. AMD's CPUs show some of these bits in leaf 0x80000001 EDX again.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf1Edx: u32 {
        const FPU = 1 << 0;
        const VME = 1 << 1;
        const DE = 1 << 2;
        const PSE = 1 << 3;
        const TSC = 1 << 4;
        const MSR = 1 << 5;
        const PAE = 1 << 6;
        const MCE = 1 << 7;
        const CMPXCHG8B = 1 << 8;
        const APIC = 1 << 9;
        const SYSENTER = 1 << 11;
        const MTRR = 1 << 12;
        const PGE = 1 << 13;
        const MCA = 1 << 14;
        const CMOV = 1 << 15;
        const PAT = 1 << 16;
        const PSE36 = 1 << 17;
        const CLFLUSH = 1 << 19;
        const ACPI = 1 << 22;
        const MMX = 1 << 23;
        const FXSR = 1 << 24;
        const SSE = 1 << 25;
        const SSE2 = 1 << 26;
        const SELF_SNOOP = 1 << 27;
    }

    /// Leaf 7, EBX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf7Ebx: u32 {
        const FSGSBASE = 1 << 0;
        const BMI1 = 1 << 3;
        const AVX2 = 1 << 5;
        const SMEP = 1 << 7;
        const BMI2 = 1 << 8;
        const ERMS = 1 << 9;
        const RTM = 1 << 11;
        const RDSEED = 1 << 18;
        const ADX = 1 << 19;
        const SMAP = 1 << 20;
        const CLFLUSHOPT = 1 << 23;
        const CLWB = 1 << 24;
        const SHA = 1 << 29;
    }

    /// Leaf 7, ECX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf7Ecx: u32 {
        const GFNI = 1 << 8;
        const VAES = 1 << 9;
        const VPCLMULQDQ = 1 << 10;
        const RDPID = 1 << 22;
    }

    /// Leaf 7, EDX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf7Edx: u32 {
        /// Short moves of strings are fast.
        const FSRM = 1 << 4;
        const SRBDS_CTRL = 1 << 9;
        const MD_CLEAR = 1 << 10;
        /// `SPEC_CTRL` with IBRS, and `PRED_CMD` with IBPB.
        const IBRS_IBPB = 1 << 26;
        const STIBP = 1 << 27;
        const L1D_FLUSH = 1 << 28;
        const ARCH_CAPABILITIES = 1 << 29;
        const SSBD = 1 << 31;
    }

    /// Leaf 7, subleaf 2, EDX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf72Edx: u32 {
        const PSFD = 1 << 0;
        const BHI_CTRL = 1 << 4;
    }

    /// Leaf 0xd, subleaf 1, EAX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct StateEax: u32 {
        const XSAVEOPT = 1 << 0;
        const XSAVEC = 1 << 1;
        /// XGETBV with ECX 1: which state is in use.
        const XGETBV_IN_USE = 1 << 2;
    }

    /// Leaf 0x80000001, ECX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExtendedEcx: u32 {
        const LAHF = 1 << 0;
        const ABM = 1 << 5;
        const SSE4A = 1 << 6;
        const MISALIGNED_SSE = 1 << 7;
        const PREFETCH = 1 << 8;
        const XOP = 1 << 11;
        const FMA4 = 1 << 16;
        const TBM = 1 << 21;
    }

    /// Leaf 0x80000001, EDX, beside the copies of leaf 1.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExtendedEdx: u32 {
        const SYSCALL = 1 << 11;
        const NX = 1 << 20;
        const MMX_EXTENSIONS = 1 << 22;
        const FAST_FXSAVE = 1 << 25;
        const RDTSCP = 1 << 27;
        const LONG_MODE = 1 << 29;
        const AMD_3DNOW_EXTENSIONS = 1 << 30;
        const AMD_3DNOW = 1 << 31;
    }

    /// Leaf 0x80000007, EDX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PowerEdx: u32 {
        const INVARIANT_TSC = 1 << 8;
    }

    /// Leaf 0x80000008, EBX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SizesEbx: u32 {
        const CLZERO = 1 << 0;
        /// FXSAVE and XSAVE always save the x87 pointers (`RstrFpErrPtrs`).
        const SAVES_X87_POINTERS = 1 << 2;
        const IBPB = 1 << 12;
        const IBRS = 1 << 14;
        const STIBP = 1 << 15;
        const IBRS_ALWAYS = 1 << 16;
        const STIBP_ALWAYS = 1 << 17;
        const IBRS_FAST = 1 << 18;
        const IBRS_SAME_MODE = 1 << 19;
        const SSBD = 1 << 24;
        const VIRT_SSBD = 1 << 25;
        const SSB_NO = 1 << 26;
        const PSFD = 1 << 28;
        const BTC_NO = 1 << 29;
        const IBPB_RET = 1 << 30;
    }

    /// Leaf 0x80000021, EAX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Extended21Eax: u32 {
        const NO_NESTED_BREAKPOINTS = 1 << 0;
        const LFENCE_WAITS = 1 << 2;
        const VERW_CLEAR = 1 << 5;
        const NULL_SELECTOR_CLEARS_BASE = 1 << 6;
        const AUTO_IBRS = 1 << 8;
        const SBPB = 1 << 27;
        const IBPB_BRTYPE = 1 << 28;
        const SRSO_NO = 1 << 29;
    }

    /// Leaf 0x80000021, ECX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Extended21Ecx: u32 {
        const TSA_SQ_NO = 1 << 1;
        const TSA_L1_NO = 1 << 2;
    }

    /// `ARCH_CAPABILITIES`: what a CPU of Intel's says of attacks (Intel SDM vol. 4, table 2-2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ArchCapabilities: u64 {
        const RDCL_NO = 1 << 0;
        const IBRS_ALL = 1 << 1;
        const RSBA = 1 << 2;
        const SKIP_L1DFL = 1 << 3;
        const SSB_NO = 1 << 4;
        const MDS_NO = 1 << 5;
        const TSX_CTRL = 1 << 7;
        const TAA_NO = 1 << 8;
        const SBDR_SSDP_NO = 1 << 13;
        const FBSDP_NO = 1 << 14;
        const PSDP_NO = 1 << 15;
        const FB_CLEAR = 1 << 17;
        const RRSBA = 1 << 19;
        const BHI_NO = 1 << 20;
        const PBRSB_NO = 1 << 24;
        const GDS_CTRL = 1 << 25;
        const GDS_NO = 1 << 26;
        const RFDS_NO = 1 << 27;
        const RFDS_CLEAR = 1 << 28;
        const ITS_NO = 1 << 62;
    }
}

impl Leaf1Edx {
    /// What AMD's CPUs show in leaf 0x80000001 EDX again.
    pub const COMMON: Self = Self::FPU
        .union(Self::VME)
        .union(Self::DE)
        .union(Self::PSE)
        .union(Self::TSC)
        .union(Self::MSR)
        .union(Self::PAE)
        .union(Self::MCE)
        .union(Self::CMPXCHG8B)
        .union(Self::APIC)
        .union(Self::MTRR)
        .union(Self::PGE)
        .union(Self::MCA)
        .union(Self::CMOV)
        .union(Self::PAT)
        .union(Self::PSE36)
        .union(Self::MMX)
        .union(Self::FXSR);
}
const _: () = assert!(Leaf1Edx::COMMON.bits() == 0x0183_f3ff);
