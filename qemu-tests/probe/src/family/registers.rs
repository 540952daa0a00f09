//! Model-specific registers and CPUID: what a guest's kernel may read, what it may write, and what faults.

use oxen_domu_lib::machine;

use crate::judge::Probe;
use crate::raw;

/// How a register answers: a value or none, and whether it takes a zero.
type Answer = (u32, Option<u64>, bool);

/// On every CPU.
const COMMON: [Answer; 22] = [
    (0x0, Some(0), false),
    (0x1, Some(0), false),
    (0x2, None, false),
    (0x49, None, false),
    (0xce, Some(0), false),
    (0xe7, None, true),
    (0xe8, None, true),
    (0x122, None, false),
    (0x140, Some(0), true),
    (0x17a, Some(0), true),
    (0x277, Some(0x50100070406), false),
    (0x280, Some(0), true),
    (0x345, Some(0), false),
    (0x400, Some(u64::MAX), true),
    (0x401, Some(0), true),
    (0x408, Some(0), true),
    (0x42b, Some(0), true),
    (0x606, None, false),
    (0x802, None, false),
    (0x4000_0000, Some(0), false),
    (0xc001_001f, Some(0), true),
    (0xc001_0140, None, false),
];
/// On AMD's.
const AMD: [Answer; 12] = [
    (0x17, None, false),
    (0xc1, None, false),
    (0x179, Some(2), true),
    (0x199, None, false),
    (0x19a, None, false),
    (0xc001_0000, Some(0), true),
    (0xc001_0041, Some(0), true),
    (0xc001_0061, Some(0), true),
    (0xc001_006b, Some(0), true),
    (0xc001_0200, Some(0), true),
    (0xc001_020b, Some(0), true),
    (0xc001_1029, Some(2), true),
];
/// On Intel's.
const INTEL: [Answer; 14] = [
    (0xc1, Some(0), true),
    (0xc8, Some(0), true),
    (0x179, Some(0x100_0c02), true),
    (0x186, Some(0), true),
    (0x198, Some(0), false),
    (0x199, Some(0), true),
    (0x19a, None, true),
    (0x19c, Some(0), false),
    (0x1b0, None, true),
    (0x309, Some(0), true),
    (0x38f, Some(0), true),
    (0xc001_0000, None, false),
    (0xc001_0041, None, false),
    (0xc001_1029, None, false),
];

pub(crate) fn ask(probe: &mut Probe) {
    probe.works("a handler for refusals", raw::catch_refusals());
    let [_, vendor, ..] = machine::cpuid(0, 0);
    let is_amd = vendor == u32::from_le_bytes(*b"Auth");
    let more: &[Answer] = if is_amd { &AMD } else { &INTEL };
    for &(msr, value, takes_zero) in COMMON.iter().chain(more) {
        let seen = raw::try_rdmsr(msr);
        probe.holds(&alloc::format!("rdmsr {msr:#x}"), seen == value, seen.map_or(-1, |value| value as i64));
        let took = raw::try_wrmsr(msr, 0);
        probe.holds(&alloc::format!("wrmsr {msr:#x}"), took == takes_zero, took.into());
    }
    let enabled = raw::try_rdmsr(0x1a0).unwrap_or(0);
    probe.is(
        "MISC_ENABLE: no trace store, no events, no messages of priority",
        (enabled & 0x80_1800) as i64,
        0x80_1800,
    );
    probe.holds("which can be written", raw::try_wrmsr(0x1a0, 0), 0);
    let clock = raw::try_rdmsr(0x10);
    probe.holds("the time stamp counter", clock.is_some_and(|value| value != 0), 0);
    stubs(probe);
    leaves(probe, is_amd);
}

/// The hypervisor's own register.
fn stubs(probe: &mut Probe) {
    let Some(page) = probe.page() else { return };
    probe.holds("a page of stubs", raw::try_wrmsr(0x4000_0000, page.mfn().address()), 0);
    let first = page.words64()[0].load(core::sync::atomic::Ordering::SeqCst);
    probe.is("begins with the first", (first & 0xffff_ffff) as i64, 0xb853_4151);
    probe.holds("there is no second page", !raw::try_wrmsr(0x4000_0000, page.mfn().address() | 1), 0);
    probe.holds("nor a page of no frame", !raw::try_wrmsr(0x4000_0000, 1 << 50), 0);
    probe.holds("nor of the hypervisor's", !raw::try_wrmsr(0x4000_0000, 0x20_0000), 0);
}

fn leaves(probe: &mut Probe, is_amd: bool) {
    probe.is("XCR0 as it begins: x87 and SSE", raw::xcr0() as i64, 3);
    let [last, ..] = machine::cpuid(0x4000_0000, 0);
    probe.is("the hypervisor's last leaf", last.into(), 0x4000_0005);
    let [pages, register, features, _] = machine::cpuid(0x4000_0002, 0);
    probe.holds("one page of stubs, its register", (pages, register) == (1, 0x4000_0000), register.into());
    probe.is("table updates keep accessed and dirty", (features & 1).into(), 1);
    probe.holds("nothing for HVM", machine::cpuid(0x4000_0004, 0) == [0; 4], 0);
    probe.holds("nothing behind subleaf 0", machine::cpuid(0x4000_0005, 1) == [0; 4], 0);
    let [.., edx] = machine::cpuid(1, 0);
    let seen = i64::from(edx & 0x0000_3c0a);
    let wanted = if is_amd { 0 } else { 1 << 11 } | if probe.privileged { 1 << 12 } else { 0 };
    probe.is("no VME, PSE, PGE; MTRR for dom0, SYSENTER of Intel's", seen, wanted);
    let [size, ..] = machine::cpuid(0x8000_0008, 0);
    probe.is("48 bits of virtual address", (size >> 8 & 0xff).into(), 48);
    let [_, state, most, _] = machine::cpuid(0xd, 0);
    probe.holds("as much state as is on, and as much as can be", state == 0x240 && most >= state, state.into());
    let copies = machine::cpuid(0x8000_0001, 0)[3] & 0x0183_e3ff;
    probe.is("AMD's copies of leaf 1", copies.into(), if is_amd { (edx & 0x0183_e3ff).into() } else { 0 });
}
