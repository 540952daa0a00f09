//! `sched_op`, `vcpu_op`, `set_timer_op`: yielding, polling, watchdogs, timers, vcpus that are not there.

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::{event_channel, sched, vcpu};

use crate::judge::{Probe, call};
use crate::raw::WILD;

fn schedule(command: u32, argument: u64) -> i64 {
    call(Hypercall::SchedOp, [command.into(), argument])
}

fn processor(command: u32, number: u64, argument: u64) -> i64 {
    call(Hypercall::VcpuOp, [command.into(), number, argument])
}

pub(crate) fn ask(probe: &mut Probe) {
    probe.works("yield", schedule(sched::SCHEDOP_YIELD, 0));
    probe.refuses("poll from a wild address", schedule(sched::SCHEDOP_POLL, WILD), Errno::Fault);
    let request = probe.words(&[WILD, 1, 1]);
    probe.refuses("poll of a wild list", schedule(sched::SCHEDOP_POLL, request), Errno::Fault);
    let request = probe.words(&[WILD, 129, 1]);
    probe.refuses("poll of too many", schedule(sched::SCHEDOP_POLL, request), Errno::Inval);
    let ports = probe.address() + 1024;
    let mut words = [0; 129];
    words[..3].copy_from_slice(&[ports, 1, 1]);
    words[128] = 1 << 30;
    let request = probe.words(&words);
    probe.refuses("poll of a port beyond the last", schedule(sched::SCHEDOP_POLL, request), Errno::Inval);
    for port in [0, 63] {
        words[128] = port;
        let request = probe.words(&words);
        probe.refuses("poll of a port that is not in use", schedule(sched::SCHEDOP_POLL, request), Errno::Inval);
    }
    words[128] = 4000;
    let request = probe.words(&words);
    probe.refuses("poll of a port beyond the buckets there are", schedule(sched::SCHEDOP_POLL, request), Errno::Inval);
    let argument = probe.words32(&[0, 0]);
    call(Hypercall::EventChannelOp, [event_channel::EVTCHNOP_BIND_IPI.into(), argument]);
    let port = probe.word32(1);
    words[128] = port.into();
    let request = probe.words(&words);
    probe.works("poll until a time that has passed", schedule(sched::SCHEDOP_POLL, request));
    let argument = probe.words32(&[port]);
    call(Hypercall::EventChannelOp, [event_channel::EVTCHNOP_SEND.into(), argument]);
    (words[1], words[128]) = (2, u64::from(port) | 4000 << 32);
    let request = probe.words(&words);
    probe.works("poll of a port that is pending, and none", schedule(sched::SCHEDOP_POLL, request));
    (words[0], words[1], words[128]) = (WILD, 1, 0);
    let request = probe.words(&words);
    let got = schedule(sched::SCHEDOP_POLL, request);
    probe.holds("poll of a wild list", got == -14 || got == 0, got);
    let argument = probe.words32(&[port]);
    call(Hypercall::EventChannelOp, [event_channel::EVTCHNOP_CLOSE.into(), argument]);
    probe.refuses("shutdown from a wild address", schedule(sched::SCHEDOP_SHUTDOWN, WILD), Errno::Fault);
    let request = probe.words32(&[0x1234, 0]);
    let wanted = if probe.privileged { Errno::Srch } else { Errno::Perm };
    let got = schedule(sched::SCHEDOP_REMOTE_SHUTDOWN, request);
    probe.holds("remote_shutdown of nobody", got == -3 || got == -i64::from(wanted as u16), got);
    let request = probe.words32(&[0, 20]);
    let watchdog = schedule(sched::SCHEDOP_WATCHDOG, request);
    probe.holds("a watchdog", watchdog >= 1, watchdog);
    let request = probe.words32(&[watchdog as u32, 0]);
    probe.works("is called off", schedule(sched::SCHEDOP_WATCHDOG, request));
    let request = probe.words32(&[99, 20]);
    probe.refuses("a watchdog that is not there", schedule(sched::SCHEDOP_WATCHDOG, request), Errno::Inval);
    probe.refuses("an operation that is not there", schedule(99, probe.address()), Errno::NoSys);
    probe.works("a timer in the past of the epoch is none", call(Hypercall::SetTimerOp, [0]));
    vcpus(probe);
}

fn vcpus(probe: &mut Probe) {
    let scratch = probe.words(&[0; 64]);
    probe.is("vcpu 0 is up", processor(vcpu::VCPUOP_IS_UP, 0, 0), 1);
    probe.refuses("vcpu 99 is not there", processor(vcpu::VCPUOP_IS_UP, 99, 0), Errno::NoEnt);
    probe.refuses("nor can be brought up", processor(vcpu::VCPUOP_UP, 99, 0), Errno::NoEnt);
    probe.works("get_runstate_info", processor(vcpu::VCPUOP_GET_RUNSTATE_INFO, 0, scratch));
    probe.is("it is running", i64::from(probe.word32(0)), 0);
    probe.holds("since some time", probe.word(1) > 0, probe.word(1) as i64);
    let runstate = processor(vcpu::VCPUOP_GET_RUNSTATE_INFO, 0, WILD);
    probe.refuses("get_runstate_info, wild", runstate, Errno::Fault);
    probe.works("stop_periodic_timer", processor(vcpu::VCPUOP_STOP_PERIODIC_TIMER, 0, 0));
    let period = probe.words(&[1]);
    let got = processor(vcpu::VCPUOP_SET_PERIODIC_TIMER, 0, period);
    probe.refuses("a period of a nanosecond", got, Errno::Inval);
    let past = probe.words(&[1, 1]);
    let got = processor(vcpu::VCPUOP_SET_SINGLESHOT_TIMER, 0, past);
    probe.works("a single shot in the past fires at once", got);
    probe.works("stop_singleshot_timer", processor(vcpu::VCPUOP_STOP_SINGLESHOT_TIMER, 0, 0));
    let wild = processor(vcpu::VCPUOP_SET_SINGLESHOT_TIMER, 0, WILD);
    probe.refuses("a single shot from a wild address", wild, Errno::Fault);
    let area = probe.words(&[0x200, 0]);
    let got = processor(vcpu::VCPUOP_REGISTER_VCPU_INFO, 0, area);
    probe.holds("vcpu_info in the hypervisor's frame", got < 0, got);
    let area = probe.words(&[0, 4090]);
    probe.refuses("vcpu_info across pages", processor(vcpu::VCPUOP_REGISTER_VCPU_INFO, 0, area), Errno::NxIo);
    let wild = processor(vcpu::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, WILD);
    probe.refuses("a runstate area from a wild address", wild, Errno::Fault);
    probe.refuses("an operation that is not there", processor(99, 0, scratch), Errno::NoSys);
}
