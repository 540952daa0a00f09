//! `event_channel_op`: ports allocated, bound, rung, closed; ports of others; ports that are not there.

use oxen_abi::errno::Errno;
use oxen_abi::event_channel as abi;
use oxen_abi::hypercall::Hypercall;

use crate::judge::{Probe, call};
use crate::raw::WILD;

const SELF: u32 = 0x7ff0;

fn event(command: u32, argument: u64) -> i64 {
    call(Hypercall::EventChannelOp, [command.into(), argument])
}

fn status(probe: &Probe, port: u32) -> (i64, u32) {
    let argument = probe.words32(&[SELF, port, 0, 0, 0, 0]);
    (event(abi::EVTCHNOP_STATUS, argument), probe.word32(2))
}

pub(crate) fn ask(probe: &mut Probe) {
    let argument = probe.words32(&[SELF | SELF << 16, 0]);
    probe.works("alloc_unbound", event(abi::EVTCHNOP_ALLOC_UNBOUND, argument));
    let unbound = probe.word32(1);
    probe.is("its status is unbound", status(probe, unbound).1.into(), 1);
    let argument = probe.words32(&[SELF, unbound, 0]);
    probe.works("bind_interdomain to our own port", event(abi::EVTCHNOP_BIND_INTERDOMAIN, argument));
    let local = probe.word32(2);
    probe.is("its status is interdomain", status(probe, local).1.into(), 2);
    let argument = probe.words32(&[SELF, unbound, 0]);
    probe.refuses("bind_interdomain twice", event(abi::EVTCHNOP_BIND_INTERDOMAIN, argument), Errno::Inval);
    let argument = probe.words32(&[local]);
    probe.works("send", event(abi::EVTCHNOP_SEND, argument));
    probe.works("unmask", event(abi::EVTCHNOP_UNMASK, argument));
    let argument = probe.words32(&[local, 0]);
    probe.works("bind_vcpu", event(abi::EVTCHNOP_BIND_VCPU, argument));
    let argument = probe.words32(&[local, 77]);
    probe.refuses("bind_vcpu to none", event(abi::EVTCHNOP_BIND_VCPU, argument), Errno::NoEnt);
    let argument = probe.words32(&[local]);
    probe.works("close", event(abi::EVTCHNOP_CLOSE, argument));
    probe.is("the other end is unbound again", status(probe, unbound).1.into(), 1);
    let argument = probe.words32(&[local]);
    probe.refuses("close twice", event(abi::EVTCHNOP_CLOSE, argument), Errno::Inval);
    let argument = probe.words32(&[unbound]);
    probe.works("close the other end", event(abi::EVTCHNOP_CLOSE, argument));
    bound(probe);
    wrong(probe);
}

fn bound(probe: &mut Probe) {
    let argument = probe.words32(&[0, 0]);
    probe.works("bind_ipi", event(abi::EVTCHNOP_BIND_IPI, argument));
    let port = probe.word32(1);
    probe.is("its status is ipi", status(probe, port).1.into(), 5);
    let argument = probe.words32(&[port, 0]);
    probe.refuses("bind_vcpu of an ipi", event(abi::EVTCHNOP_BIND_VCPU, argument), Errno::Inval);
    let argument = probe.words32(&[port]);
    probe.works("send to it", event(abi::EVTCHNOP_SEND, argument));
    probe.works("close it", event(abi::EVTCHNOP_CLOSE, argument));
    // VIRQ_DEBUG is every domain's.
    let argument = probe.words32(&[1, 0, 0]);
    probe.works("bind_virq", event(abi::EVTCHNOP_BIND_VIRQ, argument));
    let port = probe.word32(2);
    let argument = probe.words32(&[1, 0, 0]);
    probe.refuses("bind_virq twice", event(abi::EVTCHNOP_BIND_VIRQ, argument), Errno::Exist);
    let argument = probe.words32(&[port]);
    probe.refuses("send to a virq", event(abi::EVTCHNOP_SEND, argument), Errno::Inval);
    probe.works("close a virq", event(abi::EVTCHNOP_CLOSE, argument));
    let argument = probe.words32(&[200, 0, 0]);
    probe.refuses("bind_virq of none", event(abi::EVTCHNOP_BIND_VIRQ, argument), Errno::Inval);
    let argument = probe.words32(&[1, 99, 0]);
    probe.refuses("bind_virq to no vcpu", event(abi::EVTCHNOP_BIND_VIRQ, argument), Errno::NoEnt);
    let argument = probe.words32(&[99, 0]);
    probe.refuses("bind_ipi to no vcpu", event(abi::EVTCHNOP_BIND_IPI, argument), Errno::NoEnt);
}

fn wrong(probe: &mut Probe) {
    for (what, port) in [("port 0", 0), ("a port beyond the last", 4096), ("a huge port", u32::MAX)] {
        let argument = probe.words32(&[port]);
        let got = event(abi::EVTCHNOP_CLOSE, argument);
        probe.refuses(what, got, Errno::Inval);
        let got = event(abi::EVTCHNOP_SEND, argument);
        probe.refuses(what, got, Errno::Inval);
        let got = event(abi::EVTCHNOP_UNMASK, argument);
        probe.holds(what, got == -22 || port == 0, got);
    }
    let argument = probe.words32(&[SELF | 0x1234 << 16, 0]);
    let got = event(abi::EVTCHNOP_ALLOC_UNBOUND, argument);
    probe.holds("a port for a domain that may come", got == 0 || got == -3, got);
    let argument = probe.words32(&[0x1234, 1, 0]);
    probe.refuses("bind_interdomain to nobody", event(abi::EVTCHNOP_BIND_INTERDOMAIN, argument), Errno::Srch);
    for command in [
        abi::EVTCHNOP_ALLOC_UNBOUND,
        abi::EVTCHNOP_BIND_INTERDOMAIN,
        abi::EVTCHNOP_STATUS,
        abi::EVTCHNOP_CLOSE,
        abi::EVTCHNOP_SEND,
    ] {
        probe.refuses("a wild address", event(command, WILD), Errno::Fault);
    }
    probe.refuses("an operation that is not there", event(77, probe.address()), Errno::NoSys);
}
