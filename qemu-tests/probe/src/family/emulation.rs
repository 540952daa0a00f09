//! Privileged instructions that the hypervisor carries out in the guest's place, and writes to page tables.

use core::sync::atomic::Ordering;

use oxen_abi::hypercall::Hypercall;
use oxen_abi::mmu as abi;
use oxen_domu_lib::machine::port;

use crate::judge::{Probe, call};
use crate::raw;

const SELF: u64 = 0x7ff0;
const READ_ONLY: u64 = 1 | 1 << 5 | 1 << 6 | 1 << 63;
/// What of an entry a hypervisor must keep: frame, presence, right to write and to execute. It may add bits of its own.
const MEANING: u64 = 0x800f_ffff_ffff_f003;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

pub(crate) fn ask(probe: &mut Probe) {
    registers(probe);
    written_tables(probe);
}

fn registers(probe: &mut Probe) {
    let cr0 = raw::cr0();
    probe.holds("CR0 says protected mode and paging", cr0 & 0x8000_0001 == 0x8000_0001, cr0 as i64);
    probe.is("CR0.TS is set on demand", (raw::task_switched() & 8) as i64, 8);
    probe.is("and cleared", (raw::cr0() & 8) as i64, 0);
    raw::clts();
    let cr3 = raw::cr3();
    probe.holds("CR3 names a frame", cr3 & 0xfff == 0 && cr3 != 0, cr3 as i64);
    let cr4 = raw::cr4();
    probe.holds("CR4 says PAE", cr4 & 1 << 5 != 0, cr4 as i64);
    probe.is("CR4 can be written as it is", raw::rewrite_cr4() as i64, cr4 as i64);
    probe.holds("DR7 has its fixed bit", raw::dr7() & 1 << 10 != 0, raw::dr7() as i64);
    let features = raw::cpuid_plain();
    probe.holds("cpuid tells features", features != 0, features as i64);
    if features & 1 << 27 != 0 {
        probe.is("x87 state is kept", (raw::xcr0() & 1) as i64, 1);
    }
    raw::wbinvd();
    let efer = raw::rdmsr(EFER);
    probe.holds("EFER says long mode with syscall and NX", efer & 0xd01 == 0xd01, efer as i64);
    for (what, msr) in [("the base of FS", FS_BASE), ("the user's base of GS", KERNEL_GS_BASE)] {
        raw::wrmsr(msr, probe.address());
        probe.is(what, raw::rdmsr(msr) as i64, probe.address() as i64);
        raw::wrmsr(msr, 0);
    }
    let argument = probe.words32(&[1]);
    call(Hypercall::PhysdevOp, [oxen_abi::physdev::PHYSDEVOP_SET_IOPL.into(), argument]);
    let scratch = port::read8(0x80);
    if !probe.privileged {
        probe.is("a guest's port reads all ones", scratch.into(), 0xff);
    }
    port::write8(0x80, 0);
    probe.holds("instructions that are carried out go on after themselves", true, 0);
}

/// Writes into a pinned table as if it were memory, as guests do that ask for the assistance.
fn written_tables(probe: &mut Probe) {
    let (Some(table), Some(data)) = (probe.page(), probe.page()) else { return };
    let (frame, entry) = (table.mfn(), data.mfn().address() | READ_ONLY);
    let map = |value| call(Hypercall::UpdateVaMapping, [table.address(), value, abi::UVMF_INVLPG]);
    probe.works("a page is made read-only", map(frame.address() | READ_ONLY));
    let extended = |probe: &Probe, command: u32| {
        let list = probe.words(&[command.into(), frame.raw(), 0]);
        call(Hypercall::MmuextOp, [list, 1, 0, SELF])
    };
    probe.works("and pinned", extended(probe, abi::MMUEXT_PIN_L1_TABLE));
    probe.works("the assistance is asked for", call(Hypercall::VmAssist, [0, 2]));
    let word = &table.words64()[9];
    word.store(entry, Ordering::SeqCst);
    probe.is("a written entry stands", (word.load(Ordering::SeqCst) & MEANING) as i64, (entry & MEANING) as i64);
    let old = word.swap(0, Ordering::SeqCst);
    probe.is("an exchanged entry is returned", (old & MEANING) as i64, (entry & MEANING) as i64);
    probe.is("and gone", word.load(Ordering::SeqCst) as i64, 0);
    let set = word.compare_exchange(0, entry, Ordering::SeqCst, Ordering::SeqCst);
    probe.is("a compared entry is set", set.map_or(-1, |old| old as i64), 0);
    let kept = word.compare_exchange(0, 0, Ordering::SeqCst, Ordering::SeqCst);
    probe.holds("or left", kept.is_err(), 0);
    word.store(0, Ordering::SeqCst);
    probe.works("the assistance is no longer asked for", call(Hypercall::VmAssist, [1, 2]));
    probe.works("unpin", extended(probe, abi::MMUEXT_UNPIN_TABLE));
    probe.works("the page is writable again", map(frame.address() | READ_ONLY | 2));
}
