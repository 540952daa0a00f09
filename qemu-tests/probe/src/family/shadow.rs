//! Shadow page tables and the log of what a domain writes to, asked about another domain by who may ask.

use core::sync::atomic::Ordering::SeqCst;

use oxen_abi::domctl::{
    self, XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL as FINAL, XEN_DOMCTL_SHADOW_OP_CLEAN as CLEAN,
    XEN_DOMCTL_SHADOW_OP_ENABLE as ENABLE, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY as ENABLE_LOGDIRTY,
    XEN_DOMCTL_SHADOW_OP_ENABLE_TEST as ENABLE_TEST, XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION as GET_ALLOCATION,
    XEN_DOMCTL_SHADOW_OP_OFF as OFF, XEN_DOMCTL_SHADOW_OP_PEEK as PEEK,
    XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION as SET_ALLOCATION,
};
use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;

use crate::judge::{Probe, call};
use crate::raw::WILD;

/// The answer's words of 32 bits: memory in MiB, pages, what was counted.
const MIB: usize = 6;
const PAGES: usize = 10;
const FAULTS: usize = 12;
const DIRTY: usize = 13;
/// The first word of 64 bits of the bitmap that is asked for.
const BITMAP: usize = 64;

/// A domain that is asked about.
#[derive(Clone, Copy)]
struct Other(u32);

impl Other {
    /// Issues a command about it, with words of its own.
    fn control(self, probe: &Probe, command: u32, own: &[u32]) -> i64 {
        let mut request = [0; 36];
        let head = [command, domctl::XEN_DOMCTL_INTERFACE_VERSION, self.0, 0];
        for (place, word) in request.iter_mut().zip(head.iter().chain(own)) {
            *place = *word;
        }
        call(Hypercall::Domctl, [probe.words32(&request)])
    }

    /// `shadow_op` without a bitmap.
    fn shadow(self, probe: &Probe, op: u32, mode: u32, mib: u32) -> i64 {
        self.control(probe, domctl::XEN_DOMCTL_SHADOW_OP, &[op, mode, mib])
    }

    /// Reads the log of so many pages to an address.
    fn read(self, probe: &Probe, op: u32, mode: u32, bitmap: u64, pages: u64) -> i64 {
        let [bitmap, pages] = [bitmap, pages].map(|long| [long as u32, (long >> 32) as u32]);
        let own = [op, mode, 0, 0, bitmap[0], bitmap[1], pages[0], pages[1]];
        self.control(probe, domctl::XEN_DOMCTL_SHADOW_OP, &own)
    }

    /// The memory that it has for shadows.
    fn allocation(self, probe: &Probe) -> i64 {
        match self.shadow(probe, GET_ALLOCATION, 0, 77) {
            0 => probe.word32(MIB).into(),
            error => error,
        }
    }
}

pub(crate) fn ask(probe: &mut Probe) {
    if !probe.privileged {
        let own = Other(0x7ff0).shadow(probe, OFF, 0, 0);
        probe.refuses("shadow_op by a guest", own, Errno::Srch);
        return;
    }
    for (name, own, error) in [("dom0", Other(0), Errno::Inval), ("by its other name", Other(0x7ff0), Errno::Srch)] {
        for op in [OFF, ENABLE_TEST, GET_ALLOCATION, CLEAN, 3] {
            probe.refuses(&alloc::format!("operation {op} of {name} on itself"), own.shadow(probe, op, 0, 0), error);
        }
    }
    probe.refuses("on nobody", Other(0x1234).shadow(probe, OFF, 0, 0), Errno::Srch);
    let Some(other) = make(probe) else { return };
    for op in [OFF, GET_ALLOCATION, CLEAN] {
        let what = alloc::format!("operation {op} on a domain without vcpus");
        probe.refuses(&what, other.shadow(probe, op, 0, 0), Errno::Inval);
    }
    probe.works("it is given a vcpu", other.control(probe, domctl::XEN_DOMCTL_MAX_VCPUS, &[1]));
    without(probe, other);
    memory(probe, other);
    modes(probe, other);
    logging(probe, other);
    testing(probe, other);
    probe.works("it ends", other.control(probe, domctl::XEN_DOMCTL_DESTROYDOMAIN, &[]));
}

/// Another domain, without vcpus and memory.
fn make(probe: &mut Probe) -> Option<Other> {
    let mut request = [0; 24];
    // How many vcpus, its last port, its grants' and mappings' frames, and their version.
    for (place, word) in request.iter_mut().skip(7).zip([1, 1023, 4, 4, 1]) {
        *place = word;
    }
    let made = Other(0).control(probe, domctl::XEN_DOMCTL_CREATEDOMAIN, &request);
    probe.works("another domain", made);
    (made == 0).then(|| Other(probe.word32(2) & 0xffff))
}

/// What is not there, and what ends without having begun.
fn without(probe: &mut Probe, other: Other) {
    for op in [3, 9, 13, 22, 29, 33, 77, u32::MAX] {
        probe.refuses(&alloc::format!("operation {op}"), other.shadow(probe, op, 0, 0), Errno::Inval);
    }
    probe.works("an end to what was not begun", other.shadow(probe, OFF, 0, 0));
    probe.works("with a mode", other.shadow(probe, OFF, 0xff, 0));
    for op in [CLEAN, PEEK] {
        reading(probe, other, op, "without a log");
    }
}

/// The log is read, rightly and wrongly; nothing is in it.
fn reading(probe: &mut Probe, other: Other, op: u32, when: &str) {
    let name = if op == CLEAN { "clean" } else { "peek" };
    let says = |what: &str| alloc::format!("{name} {when}, {what}");
    let bitmap = probe.address() + BITMAP as u64 * 8;
    let fill = |probe: &Probe| probe.scratch().iter().skip(BITMAP).for_each(|word| word.store(u64::MAX, SeqCst));
    for mode in [2, 4, 8, 1 << 31, u32::MAX] {
        let strange = other.read(probe, op, mode, bitmap, 64);
        probe.refuses(&says(&alloc::format!("mode {mode:#x}")), strange, Errno::Inval);
    }
    for (mode, pages) in [(0, 64), (FINAL, 64), (0, 0), (0, 1), (0, 65), (0, 4097)] {
        fill(probe);
        let got = other.read(probe, op, mode, bitmap, pages);
        let seen = (got, probe.word32(PAGES).into(), probe.word(BITMAP), probe.word32(FAULTS), probe.word32(DIRTY));
        let first = if pages == 0 {
            u64::MAX
        } else if pages == 1 {
            u64::MAX << 8
        } else {
            0
        };
        let is_right = seen == (0, pages, first, 0, 0);
        probe.holds(&says(&alloc::format!("{pages} pages, mode {mode}: {seen:x?}")), is_right, got);
    }
    for pages in [0, 1, 64, 1 << 20, 1 << 40, u64::MAX] {
        let got = other.read(probe, op, 0, 0, pages);
        let told = i64::from(probe.word32(PAGES));
        probe.holds(&says(&alloc::format!("{pages:#x} pages to nowhere: told {told:x}")), got == 0, got);
    }
    probe.works(&says("no pages to a wild address"), other.read(probe, op, 0, WILD, 0));
    for pages in [1, 64, u64::MAX - 7] {
        let wild = other.read(probe, op, 0, WILD, pages);
        probe.refuses(&says(&alloc::format!("{pages:#x} pages to a wild address")), wild, Errno::Fault);
    }
    for pages in [u64::MAX - 6, u64::MAX] {
        let got = other.read(probe, op, 0, WILD, pages);
        let is_none = got == 0 && probe.word32(PAGES) == 0;
        probe.holds(&says(&alloc::format!("so many pages that rounding up loses them: {pages:#x}")), is_none, got);
    }
}

/// Memory for shadows, while there are none.
fn memory(probe: &mut Probe, other: Other) {
    for (asked, told) in [(1, 1), (2, 2), (3, 3), (1, 1), (0, 0), (0, 0)] {
        let got = other.shadow(probe, SET_ALLOCATION, 0, asked);
        probe.is(&alloc::format!("{asked} MiB for shadows: {got}"), probe.word32(MIB).into(), told);
        let has = other.allocation(probe);
        probe.is("it has", has, told);
    }
    for much in [1 << 20, u32::MAX] {
        let got = other.shadow(probe, SET_ALLOCATION, 0, much);
        probe.refuses(&alloc::format!("{much:#x} MiB for shadows"), got, Errno::NoMem);
        // Xen has given it all that there was.
        probe.works("it gives back what it has of it", other.shadow(probe, SET_ALLOCATION, 0, 0));
    }
    for lost in [1 << 24, 1 << 31] {
        probe.works(&alloc::format!("{lost:#x} MiB, counted in 32 bits"), other.shadow(probe, SET_ALLOCATION, 0, lost));
        let has = other.allocation(probe);
        probe.is("it has", has, 0);
    }
    let has = other.allocation(probe);
    probe.is("all of it is given back", has, 0);
}

/// Modes of a guest that has no help of the hardware's.
fn modes(probe: &mut Probe, other: Other) {
    // Xen lets a guest whose tables and counts are its own (26) begin, and nothing ends that.
    for mode in [2, 8, 10, 16, 18, 24, 32] {
        let got = other.shadow(probe, ENABLE, mode, 0);
        probe.refuses(&alloc::format!("mode {mode:#x}"), got, Errno::Inval);
        other.shadow(probe, OFF, 0, 0);
    }
    // Xen moves a mode's bits up by ten in 32 bits.
    for mode in [0, 4, 6, 28, 1 << 22, 1 << 31] {
        let got = other.shadow(probe, ENABLE, mode, 0);
        probe.works(&alloc::format!("mode {mode:#x}"), got);
        let again = other.shadow(probe, ENABLE, mode, 0);
        probe.refuses("twice", again, Errno::Inval);
        probe.works("and off", other.shadow(probe, OFF, 0, 0));
    }
}

fn logging(probe: &mut Probe, other: Other) {
    probe.works("a log", other.shadow(probe, ENABLE_LOGDIRTY, 0, 0));
    probe.refuses("twice", other.shadow(probe, ENABLE_LOGDIRTY, 0, 0), Errno::Inval);
    probe.refuses("for testing, too", other.shadow(probe, ENABLE_TEST, 0, 0), Errno::Inval);
    probe.refuses("shadows, too", other.shadow(probe, ENABLE, 0, 0), Errno::Inval);
    let has = other.allocation(probe);
    probe.is("memory for it", has, 1);
    for op in [PEEK, CLEAN] {
        reading(probe, other, op, "with a log");
    }
    probe.refuses("no memory any more", other.shadow(probe, SET_ALLOCATION, 0, 0), Errno::Inval);
    probe.works("less memory", other.shadow(probe, SET_ALLOCATION, 0, 1));
    probe.is("is told", probe.word32(MIB).into(), 1);
    probe.works("more memory", other.shadow(probe, SET_ALLOCATION, 0, 8));
    probe.is("is told", probe.word32(MIB).into(), 8);
    probe.works("the end of the log", other.shadow(probe, OFF, 0, 0));
    let has = other.allocation(probe);
    probe.is("memory after it", has, 0);
    probe.works("twice", other.shadow(probe, OFF, 0, 0));
}

fn testing(probe: &mut Probe, other: Other) {
    probe.works("for testing", other.shadow(probe, ENABLE_TEST, 0, 0));
    probe.refuses("twice", other.shadow(probe, ENABLE_TEST, 0, 0), Errno::Inval);
    let has = other.allocation(probe);
    probe.is("memory for it", has, 1);
    probe.works("a log, too", other.shadow(probe, ENABLE_LOGDIRTY, 0, 0));
    probe.works("the end of both", other.shadow(probe, OFF, 0, 0));
    let has = other.allocation(probe);
    probe.is("memory after both", has, 0);
    probe.works("a log again", other.shadow(probe, ENABLE_LOGDIRTY, 0, 0));
    probe.works("the end of it", other.shadow(probe, OFF, 0, 0));
}
