//! What a vcpu is told about itself: exception handlers, descriptor tables, debug registers, segments, callbacks.

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::mmu::MMUEXT_TLB_FLUSH_LOCAL;
use oxen_abi::sched::{SCHEDOP_PIN_OVERRIDE, SCHEDOP_POLL};
use oxen_domu_lib::machine;

use crate::judge::{Probe, call};
use crate::raw::{self, WILD};

const HYPERVISORS: u64 = 0xffff_82d0_8000_0000;

pub(crate) fn ask(probe: &mut Probe) {
    probe.refuses("a trap table at a wild address", call(Hypercall::SetTrapTable, [WILD]), Errno::Fault);
    probe.refuses("a GDT of too many entries", call(Hypercall::SetGdt, [probe.address(), 8193]), Errno::Inval);
    probe.refuses("a GDT from a wild list", call(Hypercall::SetGdt, [WILD, 512]), Errno::Fault);
    let list = probe.words(&[0x200; 1]);
    let got = call(Hypercall::SetGdt, [list, 8]);
    probe.holds("a GDT in the hypervisor's frame", got < 0, got);
    let got = call(Hypercall::UpdateDescriptor, [0x20_0000, 0]);
    probe.holds("a descriptor in the hypervisor's frame", got < 0, got);
    let got = call(Hypercall::UpdateDescriptor, [3, 0]);
    probe.refuses("an unaligned descriptor", got, Errno::Inval);
    elsewhere(probe);
    debug_registers(probe);
    watched(probe);
    segments(probe);
    probe.works("fpu_taskswitch", call(Hypercall::FpuTaskswitch, [0]));
    for (what, command, kind, wanted) in [
        ("vm_assist: writable page tables on", 0, 2, 0),
        ("vm_assist: writable page tables off", 1, 2, 0),
        ("vm_assist: an assistance that is not there", 0, 40, -22),
        ("vm_assist: an operation that is not there", 9, 2, -38),
    ] {
        probe.is(what, call(Hypercall::VmAssist, [command, kind]), wanted);
    }
    probe.refuses("a callback from a wild address", call(Hypercall::CallbackOp, [0, WILD]), Errno::Fault);
    let callback = probe.words(&[99, 0x1000]);
    let got = call(Hypercall::CallbackOp, [0, callback]);
    probe.holds("a callback of no kind", got == -38 || got == -22, got);
    let callback = probe.words(&[0, 0x8000_0000_0000_0000]);
    probe.refuses("a callback at a non-canonical address", call(Hypercall::CallbackOp, [0, callback]), Errno::Inval);
    let got = call(Hypercall::NmiOp, [7, probe.address()]);
    probe.refuses("an nmi_op that is not there", got, Errno::NoSys);
    let [_, b, c, d] = machine::cpuid(0x4000_0000, 0);
    let name = [b.to_le_bytes(), c.to_le_bytes(), d.to_le_bytes()].concat();
    probe.holds("cpuid names the interface", name == *b"XenVMMXenVMM", b.into());
    let [version, ..] = machine::cpuid(0x4000_0001, 0);
    probe.is("cpuid tells its version", version.into(), 4 << 16 | 17);
}

/// A vcpu is told the same of itself on every processor. There are others in dom0's place only.
fn elsewhere(probe: &mut Probe) {
    let pin = |probe: &Probe, cpu: u32| call(Hypercall::SchedOp, [SCHEDOP_PIN_OVERRIDE.into(), probe.words32(&[cpu])]);
    let leaves = || [1, 4, 0xb, 0x8000_0001, 0x8000_0008, 0x8000_001e].map(|leaf| machine::cpuid(leaf, 0));
    let here = leaves();
    let [[_, numbers, ..], ..] = here;
    probe.is("cpuid tells no number of a processor", i64::from(numbers >> 24), 0);
    if pin(probe, 1) != 0 {
        return;
    }
    probe.holds("nor on another", leaves() == here, 0);
    probe.works("back to where it may be", pin(probe, u32::MAX));
}

fn debug_registers(probe: &mut Probe) {
    let set = |register, value| call(Hypercall::SetDebugreg, [register, value]);
    let get = |register| call(Hypercall::GetDebugreg, [register]);
    let here = probe.address();
    probe.works("set dr0", set(0, here));
    probe.is("get dr0", get(0), here as i64);
    probe.works("clear dr0", set(0, 0));
    probe.refuses("dr0 in the hypervisor", set(0, HYPERVISORS), Errno::Perm);
    probe.refuses("a dr0 that is not canonical", set(0, 1 << 60), Errno::Perm);
    let got = set(4, 0);
    probe.holds("dr4 is none or dr6", got == 0 || got == -19, got);
    let got = set(9, 0);
    probe.refuses("no dr9", got, Errno::NoDev);
    let got = set(7, 1 << 13);
    probe.holds("no general detection", got == -1 || got == 0, got);
    probe.works("clear dr7", set(7, 0));
    let got = set(7, 1 << 40);
    probe.refuses("dr7 has 32 bits", got, Errno::Inval);
}

/// Breakpoints on data that the hypervisor touches in the guest's name: it goes on.
fn watched(probe: &mut Probe) {
    /// Watches for reads and writes of the 8 bytes at DR0.
    const WATCH: u64 = 1 | 3 << 16 | 2 << 18;
    let control = |value| call(Hypercall::SetDebugreg, [7, value]);
    let list = probe.words(&[MMUEXT_TLB_FLUSH_LOCAL.into(), 0, 0]);
    call(Hypercall::SetDebugreg, [0, list + 8]);
    control(WATCH);
    let got = call(Hypercall::MmuextOp, [list, 1, 0, 0x7ff0]);
    control(0);
    probe.works("a request of which a word is watched", got);
    let request = probe.words(&[0, 0, 1]);
    call(Hypercall::SetDebugreg, [0, request]);
    control(WATCH);
    let got = call(Hypercall::SchedOp, [SCHEDOP_POLL.into(), request]);
    control(0);
    probe.works("a structure of which a word is watched", got);
    call(Hypercall::SetDebugreg, [0, probe.address() + 40]);
    let got = raw::iret_watched(probe.scratch(), WATCH);
    probe.is("a return from a context of which a word is watched", got as i64, 0x7e57);
    call(Hypercall::SetDebugreg, [0, 0]);
    probe.holds("SMSW is not kept from guests", raw::smsw() & 1 == 1, raw::smsw() as i64);
}

fn segments(probe: &mut Probe) {
    let set = |which, base| call(Hypercall::SetSegmentBase, [which, base]);
    probe.works("the FS base", set(0, probe.address()));
    probe.works("none", set(0, 0));
    probe.refuses("an FS base that is not canonical", set(0, 1 << 60), Errno::Inval);
    probe.refuses("a user's GS base that is not canonical", set(1, 1 << 60), Errno::Inval);
    probe.refuses("a segment that is not there", set(9, 0), Errno::Inval);
}
