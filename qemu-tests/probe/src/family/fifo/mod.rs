//! `event_channel_op`, the FIFO interface: its set-up, its words and queues, what the guest writes there, the way back.
//!
//! Only in dom0's place: the way back closes every port of the guest, its console's among them.

mod frames;
mod queues;

use core::sync::atomic::Ordering;

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::event_channel as abi;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::sched;
use oxen_domu_lib::event;
use oxen_domu_lib::memory::Page;

use crate::judge::{Probe, call};
use crate::raw::{self, WILD};

const SELF: u32 = DomId::SELF.0 as u32;
const PENDING: u32 = 1 << abi::EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << abi::EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << abi::EVTCHN_FIFO_LINKED;
const BUSY: u32 = 1 << abi::EVTCHN_FIFO_BUSY;
/// Where the control block stands in its page.
const OFFSET: u32 = 256;
/// No page has this number.
const NO_FRAME: u64 = 1 << 37;

/// The shared pages.
struct Fifo {
    control: Page,
    array: Page,
}

fn event(command: u32, argument: u64) -> i64 {
    call(Hypercall::EventChannelOp, [command.into(), argument])
}

fn with(probe: &Probe, command: u32, words: &[u32]) -> i64 {
    event(command, probe.words32(words))
}

fn init(probe: &Probe, frame: u64, offset: u32, vcpu: u32) -> i64 {
    event(abi::EVTCHNOP_INIT_CONTROL, probe.words(&[frame, u64::from(offset) | u64::from(vcpu) << 32, 0]))
}

fn expand(probe: &Probe, frame: u64) -> i64 {
    event(abi::EVTCHNOP_EXPAND_ARRAY, probe.words(&[frame]))
}

fn send(probe: &Probe, port: u32) -> i64 {
    with(probe, abi::EVTCHNOP_SEND, &[port])
}

fn ipi(probe: &Probe, vcpu: u32) -> u32 {
    if with(probe, abi::EVTCHNOP_BIND_IPI, &[vcpu, 0]) == 0 { probe.word32(1) } else { 0 }
}

fn close(probe: &Probe, port: u32) -> i64 {
    with(probe, abi::EVTCHNOP_CLOSE, &[port])
}

fn set_priority(probe: &Probe, port: u32, priority: u32) -> i64 {
    with(probe, abi::EVTCHNOP_SET_PRIORITY, &[port, priority])
}

/// Polls a port until a time that has passed.
fn poll(probe: &Probe, port: u32) -> i64 {
    let list = probe.address() + 64;
    let request = probe.words(&[list, 1, 1, 0, 0, 0, 0, 0, port.into()]);
    call(Hypercall::SchedOp, [sched::SCHEDOP_POLL.into(), request])
}

impl Fifo {
    fn word(&self, port: u32) -> u32 {
        self.array.words32().get(port as usize).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn set(&self, port: u32, value: u32) {
        self.array.words32().iter().skip(port as usize).take(1).for_each(|word| word.store(value, Ordering::SeqCst));
    }

    fn control(&self, index: usize) -> u32 {
        let word = self.control.words32().get(OFFSET as usize / 4 + index);
        word.map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn head(&self, priority: usize) -> u32 {
        self.control(2 + priority)
    }

    /// As a guest that has served everything: nothing is ready, linked or pending, no upcall waits.
    fn serve(&self) {
        event::settle(0);
        self.control.words32().iter().for_each(|word| word.store(0, Ordering::SeqCst));
        self.array.words32().iter().for_each(|word| word.store(0, Ordering::SeqCst));
    }
}

pub(crate) fn ask(probe: &mut Probe) {
    if !probe.privileged {
        return;
    }
    let (Some(control), Some(array)) = (probe.page(), probe.page()) else { return };
    let fifo = Fifo { control, array };
    let early = refused(probe, &fifo);
    begin(probe, &fifo, early);
    queues::ask(probe, &fifo);
    frames::ask(probe, &fifo);
    end(probe, &fifo, early);
    compatible(probe);
}

/// Before there is a control block: what is refused, and a port that is pending by then.
fn refused(probe: &mut Probe, fifo: &Fifo) -> u32 {
    let early = ipi(probe, 0);
    let frame = fifo.control.mfn().raw();
    let got = event(abi::EVTCHNOP_RESET_CONT, probe.words32(&[SELF]));
    probe.refuses("to go on with a reset that nobody began", got, Errno::Busy);
    probe.refuses("expand_array, two-level", expand(probe, fifo.array.mfn().raw()), Errno::OpNotSupp);
    probe.refuses("expand_array of no frame, two-level", expand(probe, NO_FRAME), Errno::OpNotSupp);
    probe.refuses("set_priority, two-level", set_priority(probe, early, 3), Errno::NoSys);
    probe.refuses("set_priority of 16, two-level", set_priority(probe, early, 16), Errno::NoSys);
    probe.refuses("set_priority of no port, two-level", set_priority(probe, 60, 3), Errno::NoSys);
    probe.refuses("set_priority beyond the ports, two-level", set_priority(probe, 1 << 20, 3), Errno::Inval);
    probe.refuses("init_control for no vcpu", init(probe, frame, OFFSET, 99), Errno::NoEnt);
    probe.refuses("init_control for no vcpu, across pages", init(probe, frame, 4096, 99), Errno::NoEnt);
    probe.refuses("init_control across pages", init(probe, frame, 4096 - 64, 0), Errno::Inval);
    probe.refuses("init_control far out", init(probe, frame, u32::MAX - 7, 0), Errno::Inval);
    probe.refuses("init_control at half a word", init(probe, frame, 4, 0), Errno::Inval);
    probe.refuses("init_control at no frame", init(probe, NO_FRAME, OFFSET, 0), Errno::Inval);
    probe.refuses("init_control at a huge frame", init(probe, u64::MAX, OFFSET, 0), Errno::Inval);
    probe.refuses("init_control in a page table", init(probe, raw::cr3() >> 12, OFFSET, 0), Errno::Inval);
    for command in [abi::EVTCHNOP_INIT_CONTROL, abi::EVTCHNOP_EXPAND_ARRAY, abi::EVTCHNOP_SET_PRIORITY] {
        probe.refuses("a wild address", event(command, WILD), Errno::Fault);
    }
    probe.refuses("still two-level", expand(probe, fifo.array.mfn().raw()), Errno::OpNotSupp);
    probe.works("send, two-level", send(probe, early));
    probe.is("it is pending", event::bits(early).0.into(), 1);
    early
}

/// The first control block and the first page of words; a port that was pending is raised again.
fn begin(probe: &mut Probe, fifo: &Fifo, early: u32) {
    event::settle(0);
    probe.works("init_control", init(probe, fifo.control.mfn().raw(), OFFSET, 0));
    probe.is("a link has 17 bits", (probe.word32(4) & 0xff).into(), 17);
    probe.is("nothing is ready", fifo.control(0).into(), 0);
    probe.refuses("init_control again", init(probe, fifo.control.mfn().raw(), OFFSET, 0), Errno::Inval);
    probe.refuses("init_control at no frame", init(probe, NO_FRAME, OFFSET, 0), Errno::Inval);
    probe.is("a port without its word is not pending", poll(probe, early), 0);
    probe.works("send to a port without its word", send(probe, early));
    probe.works("unmask of a port without its word", with(probe, abi::EVTCHNOP_UNMASK, &[early]));
    probe.works("set_priority of a port without its word", set_priority(probe, early, 6));
    probe.is("it has not been raised", event::upcall().0.into(), 0);
    probe.refuses("expand_array by no frame", expand(probe, NO_FRAME), Errno::Inval);
    probe.refuses("expand_array by a page table", expand(probe, raw::cr3() >> 12), Errno::Inval);
    probe.works("expand_array", expand(probe, fifo.array.mfn().raw()));
    probe.is("what was pending is again", fifo.word(early).into(), (PENDING | LINKED).into());
    probe.is("its queue is ready", fifo.control(0).into(), 1 << 6);
    probe.is("it is the head", fifo.head(6).into(), early.into());
    probe.is("an upcall waits", event::upcall().0.into(), 1);
    probe.is("nothing of it in shared_info is cleared", event::bits(early).0.into(), 1);
    probe.works("close", close(probe, early));
    probe.is("closed, it is not pending, but linked", fifo.word(early).into(), LINKED.into());
    probe.is("closed, it is the head", fifo.head(6).into(), early.into());
    fifo.serve();
}

/// The way back to two levels.
fn end(probe: &mut Probe, fifo: &Fifo, early: u32) {
    fifo.serve();
    let port = ipi(probe, 0);
    send(probe, port);
    probe.works("reset", with(probe, abi::EVTCHNOP_RESET, &[SELF]));
    probe.is("the word is not pending", fifo.word(port).into(), 0);
    probe.refuses("two-level again", expand(probe, fifo.array.mfn().raw()), Errno::OpNotSupp);
    probe.works("status of a port beyond two levels", with(probe, abi::EVTCHNOP_STATUS, &[SELF, 4100, 0, 0, 0, 0]));
    probe.is("it is closed", probe.word32(2).into(), 0);
    probe.works("unmask of it", with(probe, abi::EVTCHNOP_UNMASK, &[4100]));
    probe.refuses("send to it", send(probe, 4100), Errno::Inval);
    probe.refuses("set_priority of it", set_priority(probe, 4100, 3), Errno::NoSys);
    let port = ipi(probe, 0);
    probe.works("send, two-level", send(probe, port));
    probe.is("pending there", event::bits(port).0.into(), 1);
    probe.is("and not here", fifo.word(port).into(), 0);
    while ipi(probe, 0) != 0 {}
    probe.refuses("all ports of two levels are taken", with(probe, abi::EVTCHNOP_BIND_IPI, &[0, 0]), Errno::NoSpc);
    probe.works("init_control once more", init(probe, fifo.control.mfn().raw(), OFFSET, 0));
    fifo.serve();
    for other in (1..4096).filter(|other| ![port, early].contains(other)) {
        close(probe, other);
    }
    probe.works("expand_array once more", expand(probe, fifo.array.mfn().raw()));
    probe.is("it is raised", (fifo.word(port) & !0x1_ffff).into(), (PENDING | LINKED).into());
    let last = fifo.word(port) & 0x1_ffff;
    probe.is("and behind it what once was pending before its word was there", last.into(), early.into());
    probe.works("reset", with(probe, abi::EVTCHNOP_RESET, &[SELF]));
    fifo.serve();
}

/// The hypercall of before Xen 3.2: the command stands before its structure.
fn compatible(probe: &mut Probe) {
    let compat = |probe: &Probe, words: &[u32]| call(Hypercall::EventChannelOpCompat, [probe.words32(words)]);
    probe.works("alloc_unbound", compat(probe, &[abi::EVTCHNOP_ALLOC_UNBOUND, SELF | SELF << 16, 0]));
    let unbound = probe.word32(2);
    probe.works("bind_interdomain", compat(probe, &[abi::EVTCHNOP_BIND_INTERDOMAIN, SELF, unbound, 0]));
    let port = probe.word32(3);
    probe.works("status", compat(probe, &[abi::EVTCHNOP_STATUS, SELF, port, 0, 0, 0, 0]));
    probe.is("it is interdomain", probe.word32(3).into(), 2);
    probe.works("send", compat(probe, &[abi::EVTCHNOP_SEND, port]));
    probe.works("unmask", compat(probe, &[abi::EVTCHNOP_UNMASK, unbound]));
    probe.works("bind_vcpu", compat(probe, &[abi::EVTCHNOP_BIND_VCPU, port, 0]));
    probe.works("close", compat(probe, &[abi::EVTCHNOP_CLOSE, port]));
    probe.works("close", compat(probe, &[abi::EVTCHNOP_CLOSE, unbound]));
    probe.works("bind_ipi", compat(probe, &[abi::EVTCHNOP_BIND_IPI, 0, 0]));
    let port = probe.word32(2);
    probe.works("close", compat(probe, &[abi::EVTCHNOP_CLOSE, port]));
    probe.works("bind_virq", compat(probe, &[abi::EVTCHNOP_BIND_VIRQ, 1, 0, 0]));
    let port = probe.word32(3);
    probe.works("close", compat(probe, &[abi::EVTCHNOP_CLOSE, port]));
    probe.refuses("bind_pirq of none", compat(probe, &[abi::EVTCHNOP_BIND_PIRQ, 100_000, 0, 0]), Errno::Inval);
    for command in [abi::EVTCHNOP_RESET, abi::EVTCHNOP_INIT_CONTROL, abi::EVTCHNOP_EXPAND_ARRAY, 13, 14, 99] {
        probe.refuses("a command that it has not", compat(probe, &[command, 0, 0, 0]), Errno::NoSys);
    }
    probe.refuses("a wild address", call(Hypercall::EventChannelOpCompat, [WILD]), Errno::Fault);
}
