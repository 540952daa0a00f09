//! CPUID as a PV guest sees it through the emulation prefix: what the CPU has, less what PV cannot keep, plus Xen's leaves.

use super::control_registers::CR4_OSXSAVE;
use crate::{caller::Caller, machine::Machine};

/// The first of the hypervisor's leaves (`arch-x86/cpuid.h`), and the last.
const XEN_LEAVES: u32 = 0x4000_0000;
const XEN_LAST_LEAF: u32 = 0x4000_0005;
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
/// Leaf 1 EDX that may be shown: no VME, PSE, MTRR, PGE, PSE36.
const LEAF1_EDX: u32 = 0x0789_cbf5;
/// Leaf 7 EBX that may be shown: FSGSBASE, BMI1, AVX2, BMI2, ERMS, RDSEED, ADX, CLFLUSHOPT, CLWB, SHA.
const LEAF7_EBX: u32 = 1 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 18 | 1 << 19 | 1 << 23 | 1 << 24 | 1 << 29;
/// Leaf 0x80000001 ECX: LAHF, ABM, SSE4A, misaligned SSE, prefetch.
const EXTENDED1_ECX: u32 = 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8;
/// Leaf 0x80000001 EDX: SYSCALL, NX, MMX extensions, RDTSCP, long mode, and AMD's copies of leaf 1.
const EXTENDED1_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 22 | 1 << 27 | 1 << 29 | 0x0183_c1f5;
/// Extended state components that are kept for guests: x87, SSE, AVX.
const EXTENDED_STATE: u32 = 7;

/// The answer to a leaf: EAX, EBX, ECX, EDX.
#[must_use]
pub fn leaf<M: Machine>(caller: &Caller<'_, M>, leaf: u32, subleaf: u32) -> [u32; 4] {
    if HYPERVISOR_LEAVES.contains(&leaf) {
        return hypervisor_leaf(caller, leaf, subleaf);
    }
    let machine = &caller.hv.machine;
    let [eax, ebx, ecx, edx] = machine.cpuid(leaf, subleaf);
    match leaf {
        0 => [eax.min(LAST_BASIC_LEAF), ebx, ecx, edx],
        1 => {
            let osxsave = if caller.state.cr4 & CR4_OSXSAVE != 0 { LEAF1_ECX_OSXSAVE } else { 0 };
            [eax, ebx, ecx & LEAF1_ECX | osxsave | LEAF1_ECX_HYPERVISOR, edx & LEAF1_EDX]
        }
        2 | 4 | 0x8000_0000 | 0x8000_0002..=0x8000_0006 => [eax, ebx, ecx, edx],
        7 if subleaf == 0 => [0, ebx & LEAF7_EBX, 0, 0],
        0xd => extended_state_leaf(subleaf, [eax, ebx, ecx, edx]),
        0x8000_0001 => [eax, ebx, ecx & EXTENDED1_ECX, edx & EXTENDED1_EDX],
        0x8000_0007 => [0, 0, 0, edx & 1 << 8],
        0x8000_0008 => [eax & 0xffff, 0, 0, 0],
        _ => [0; 4],
    }
}

/// The answer to the instruction with the prefix that asks for emulation. Kernels take OSXSAVE there to say whether the
/// hypervisor lets them use XSAVE, before they set their own CR4; it has always been so.
#[must_use]
pub fn by_prefix<M: Machine>(caller: &Caller<'_, M>, number: u32, subleaf: u32) -> [u32; 4] {
    let [eax, ebx, mut ecx, edx] = leaf(caller, number, subleaf);
    if number == 1 && caller.state.in_kernel {
        ecx |= caller.hv.machine.cpuid(number, subleaf)[2] & LEAF1_ECX_OSXSAVE;
    }
    [eax, ebx, ecx, edx]
}

const fn extended_state_leaf(subleaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> [u32; 4] {
    match subleaf {
        // The size for everything that is shown: x87 and SSE, the header, and AVX behind it.
        0 => [eax & EXTENDED_STATE, ebx, if ecx < 832 { ecx } else { 832 }, 0],
        // XSAVEOPT only: compaction and supervisor state are not for guests.
        1 => [eax & 1, 0, 0, 0],
        2 => [eax, ebx, ecx, edx],
        _ => [0; 4],
    }
}

fn hypervisor_leaf<M: Machine>(caller: &Caller<'_, M>, leaf: u32, subleaf: u32) -> [u32; 4] {
    let [ebx, ecx, edx] = XEN_SIGNATURE;
    match leaf - XEN_LEAVES {
        0 => [XEN_LAST_LEAF, ebx, ecx, edx],
        1 => [XEN_VERSION, 0, 0, 0],
        2 => [1, XEN_LEAVES, PRESERVES_AD, 0],
        3 => time_leaf(caller, subleaf),
        5 => [0, address_bits(caller), 0, 0],
        _ => [0; 4],
    }
}

/// The time stamp counter: subleaf 0, that it is not emulated and its kHz; subleaf 1, offset 0 and the scale; 2, the
/// machine's kHz.
fn time_leaf<M: Machine>(caller: &Caller<'_, M>, subleaf: u32) -> [u32; 4] {
    let khz = u32::try_from(caller.hv.machine.frequency() / 1000).unwrap_or(u32::MAX);
    match subleaf {
        0 => [0, 0, khz, 0],
        2 => [khz, 0, 0, 0],
        _ => [0; 4],
    }
}

/// Bits of a machine address in the RAM that there is.
fn address_bits<M: Machine>(caller: &Caller<'_, M>) -> u32 {
    crate::addr::PAGE_SHIFT + usize::BITS - caller.hv.frames.end().leading_zeros()
}
