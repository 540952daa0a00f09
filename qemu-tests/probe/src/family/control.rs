//! Batches of calls, and the calls by which a dom0 controls machine and domains.

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::{domctl, physdev, sysctl};

use crate::judge::{Probe, call};
use crate::raw::WILD;

/// Numbers of the operations asked for here (`domctl.h`, `sysctl.h`).
const GETDOMAININFO: u32 = 5;
const PHYSINFO: u32 = 3;

pub(crate) fn ask(probe: &mut Probe) {
    multicall(probe);
    devices(probe);
    control(probe);
}

fn multicall(probe: &mut Probe) {
    let version = Hypercall::XenVersion as u64;
    // Each entry: number, result, six arguments.
    let list = probe.words(&[version, 9, 0, 0, 0, 0, 0, 0, 63, 9, 0, 0, 0, 0, 0, 0, version, 9, 7, 0, 0, 0, 0, 0]);
    probe.works("multicall", call(Hypercall::Multicall, [list, 3]));
    probe.is("the first result", probe.word(1) as i64, 4 << 16 | 17);
    probe.is("the second is an error of its own", probe.word(9) as i64, -38);
    probe.is("the third", probe.word(17) as i64, 4096);
    let list = probe.words(&[Hypercall::Multicall as u64, 9, probe.address(), 1, 0, 0, 0, 0]);
    let got = call(Hypercall::Multicall, [list, 1]);
    let inner = probe.word(1) as i64;
    probe.holds("no multicall within a multicall", got == 0 && inner == -22, inner);
    probe.works("an empty multicall", call(Hypercall::Multicall, [WILD, 0]));
    probe.refuses("a multicall from a wild list", call(Hypercall::Multicall, [WILD, 1]), Errno::Fault);
    let huge = call(Hypercall::Multicall, [WILD, 0xffff_ffff]);
    probe.refuses("a huge multicall from a wild list", huge, Errno::Fault);
}

fn devices(probe: &mut Probe) {
    let physical = |command: u32, argument| call(Hypercall::PhysdevOp, [command.into(), argument]);
    let argument = probe.words32(&[1]);
    probe.works("iopl 1", physical(physdev::PHYSDEVOP_SET_IOPL, argument));
    let argument = probe.words32(&[4]);
    probe.refuses("iopl 4", physical(physdev::PHYSDEVOP_SET_IOPL, argument), Errno::Inval);
    let argument = probe.words32(&[100_000, 0]);
    probe.refuses("the status of no interrupt", physical(physdev::PHYSDEVOP_IRQ_STATUS_QUERY, argument), Errno::Inval);
    probe.refuses("the end of no interrupt", physical(physdev::PHYSDEVOP_EOI, argument), Errno::Inval);
    let argument = probe.words(&[0, 100_000]);
    probe.refuses("an I/O bitmap of too many ports", physical(physdev::PHYSDEVOP_SET_IOBITMAP, argument), Errno::Inval);
    probe.refuses("a wild address", physical(physdev::PHYSDEVOP_SET_IOPL, WILD), Errno::Fault);
    probe.refuses("an operation that is not there", physical(77, probe.address()), Errno::NoSys);
}

fn control(probe: &mut Probe) {
    let version = domctl::XEN_DOMCTL_INTERFACE_VERSION;
    let ask = |probe: &Probe, command, version, domain| {
        let argument = probe.words32(&[command, version, domain, 0]);
        call(Hypercall::Domctl, [argument])
    };
    if !probe.privileged {
        probe.refuses("domctl by a guest", ask(probe, GETDOMAININFO, version, 0), Errno::Perm);
        let argument = probe.words32(&[PHYSINFO, sysctl::XEN_SYSCTL_INTERFACE_VERSION]);
        probe.refuses("sysctl by a guest", call(Hypercall::Sysctl, [argument]), Errno::Perm);
        return;
    }
    probe.works("getdomaininfo of dom0", ask(probe, GETDOMAININFO, version, 0));
    probe.is("it is dom0", i64::from(probe.word32(4) & 0xffff), 0);
    probe.refuses("getdomaininfo of nobody", ask(probe, GETDOMAININFO, version, 0x1234), Errno::Srch);
    probe.refuses("domctl of another version", ask(probe, GETDOMAININFO, version + 1, 0), Errno::Acces);
    let got = ask(probe, 999, version, 0);
    probe.refuses("a domctl that is not there", got, Errno::NoSys);
    probe.refuses("a domctl from a wild address", call(Hypercall::Domctl, [WILD]), Errno::Fault);
    let argument = probe.words32(&[PHYSINFO, sysctl::XEN_SYSCTL_INTERFACE_VERSION]);
    probe.works("physinfo", call(Hypercall::Sysctl, [argument]));
    let argument = probe.words32(&[PHYSINFO, sysctl::XEN_SYSCTL_INTERFACE_VERSION + 1]);
    probe.refuses("sysctl of another version", call(Hypercall::Sysctl, [argument]), Errno::Acces);
    probe.refuses("a sysctl from a wild address", call(Hypercall::Sysctl, [WILD]), Errno::Fault);
}
