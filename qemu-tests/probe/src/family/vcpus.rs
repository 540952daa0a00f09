//! Vcpus for which `shared_info` has no room: what works before a guest gives them a `vcpu_info`, and what does not.

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::segments::XEN_LEGACY_MAX_VCPUS;
use oxen_abi::{event_channel as events, vcpu, virq};

use crate::judge::{Probe, call};
use crate::raw::WILD;

/// The first vcpu without a place of its own, and one that nobody gives a place.
const FAR: u64 = XEN_LEGACY_MAX_VCPUS as u64;
const OTHER: u64 = FAR + 1;
/// The last with a place.
const NEAR: u64 = FAR - 1;
/// Nanoseconds of a period that may be set.
const PERIOD: u64 = 10_000_000;

fn op(command: u32, number: u64, argument: u64) -> i64 {
    call(Hypercall::VcpuOp, [command.into(), number, argument])
}

fn event(probe: &Probe, command: u32, words: &[u32]) -> i64 {
    call(Hypercall::EventChannelOp, [command.into(), probe.words32(words)])
}

/// Where there are fewer vcpus, nothing is asked.
pub(crate) fn ask(probe: &mut Probe) {
    if op(vcpu::VCPUOP_IS_UP, OTHER, 0) < 0 {
        return;
    }
    probe.is("a vcpu without a place is down", op(vcpu::VCPUOP_IS_UP, FAR, 0), 0);
    probe.refuses("and is not brought up", op(vcpu::VCPUOP_UP, FAR, 0), Errno::Inval);
    begin(probe, "of one with a place", NEAR, Errno::Fault);
    begin(probe, "of one without", FAR, Errno::Inval);
    ports(probe);
    times(probe);
    place(probe);
    begin(probe, "of one with a place of the guest's", FAR, Errno::Fault);
    begin(probe, "of one that has none still", OTHER, Errno::Inval);
    probe.refuses("it is not brought up by that", op(vcpu::VCPUOP_UP, FAR, 0), Errno::Inval);
}

/// `initialise` with a context that cannot be read, and with one that is all zero.
fn begin(probe: &mut Probe, whose: &str, number: u64, unread: Errno) {
    let got = op(vcpu::VCPUOP_INITIALISE, number, WILD);
    probe.refuses(&alloc::format!("a context from a wild address, {whose}"), got, unread);
    let zero = probe.words(&[0; 1024]);
    let got = op(vcpu::VCPUOP_INITIALISE, number, zero);
    probe.refuses(&alloc::format!("an empty context, {whose}"), got, Errno::Inval);
}

fn ports(probe: &mut Probe) {
    let (near, far) = (NEAR as u32, FAR as u32);
    probe.works("a port for what it is told", event(probe, events::EVTCHNOP_BIND_IPI, &[far, 0]));
    let port = probe.word32(1);
    probe.works("is sent to", event(probe, events::EVTCHNOP_SEND, &[port]));
    probe.works("has a status", event(probe, events::EVTCHNOP_STATUS, &[0x7ff0, port, 0, 0, 0, 0]));
    probe.is("and that vcpu", probe.word32(3).into(), FAR as i64);
    probe.works("is unmasked", event(probe, events::EVTCHNOP_UNMASK, &[port]));
    probe.works("is closed", event(probe, events::EVTCHNOP_CLOSE, &[port]));
    probe.works("a port for its timer", event(probe, events::EVTCHNOP_BIND_VIRQ, &[virq::VIRQ_TIMER, far, 0]));
    let port = probe.word32(2);
    probe.works("is closed as well", event(probe, events::EVTCHNOP_CLOSE, &[port]));
    probe.works("a port of nobody yet", event(probe, events::EVTCHNOP_ALLOC_UNBOUND, &[0x7ff0 | 0x7ff0 << 16, 0]));
    let port = probe.word32(1);
    for number in [far, near, far] {
        probe.works("goes to a vcpu", event(probe, events::EVTCHNOP_BIND_VCPU, &[port, number]));
    }
    probe.works("and is closed", event(probe, events::EVTCHNOP_CLOSE, &[port]));
}

fn times(probe: &mut Probe) {
    let state = probe.words(&[0; 8]);
    probe.works("its runstate", op(vcpu::VCPUOP_GET_RUNSTATE_INFO, FAR, state));
    probe.is("is offline", probe.word32(0).into(), vcpu::RUNSTATE_OFFLINE.into());
    let argument = probe.words(&[PERIOD]);
    probe.works("a periodic timer", op(vcpu::VCPUOP_SET_PERIODIC_TIMER, FAR, argument));
    probe.works("and none", op(vcpu::VCPUOP_STOP_PERIODIC_TIMER, FAR, 0));
    let argument = probe.words(&[0, 0]);
    probe.refuses("a single shot for another", op(vcpu::VCPUOP_SET_SINGLESHOT_TIMER, FAR, argument), Errno::Inval);
    let area = probe.address() + 2048;
    let argument = probe.words(&[area]);
    probe.works("a runstate area", op(vcpu::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, FAR, argument));
    probe.is("is written at once", probe.word(256) as u32 as i64, vcpu::RUNSTATE_OFFLINE.into());
    let argument = probe.words(&[area + 1024]);
    probe.works("a time area", op(vcpu::VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, FAR, argument));
    probe.works("an interrupt that cannot be masked", op(vcpu::VCPUOP_SEND_NMI, OTHER, 0));
    probe.works("down, as it is", op(vcpu::VCPUOP_DOWN, FAR, 0));
}

/// `register_vcpu_info`: a fresh place, all pending and masked, for good.
fn place(probe: &mut Probe) {
    let Some(page) = probe.page() else { return };
    for word in page.words64() {
        word.store(u64::MAX, core::sync::atomic::Ordering::SeqCst);
    }
    let frame = page.mfn().raw();
    let at = |probe: &Probe, offset: u64| probe.words(&[frame, offset]);
    let argument = at(probe, 4);
    probe.refuses("a place that is not aligned", op(vcpu::VCPUOP_REGISTER_VCPU_INFO, FAR, argument), Errno::NxIo);
    let argument = at(probe, 128);
    probe.works("a place", op(vcpu::VCPUOP_REGISTER_VCPU_INFO, FAR, argument));
    let word =
        |index: usize| page.words64().get(16 + index).map_or(0, |word| word.load(core::sync::atomic::Ordering::SeqCst));
    probe.is("pending and masked", word(0) as i64, 0x101);
    probe.is("in every word", word(1) as i64, -1);
    probe.is("no fault yet", word(2) as i64, 0);
    let argument = at(probe, 192);
    probe.refuses("another place", op(vcpu::VCPUOP_REGISTER_VCPU_INFO, FAR, argument), Errno::Inval);
    // The hypervisor keeps the frame.
    core::mem::forget(page);
}
