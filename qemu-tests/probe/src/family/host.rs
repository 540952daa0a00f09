//! What tools for a host ask beside `domctl`: pools, power, machine checks, the build, files of the hypervisor.

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::{hypfs, machine_check, platform, sched, sysctl, vcpu, version};

use crate::judge::{Probe, call};
use crate::raw::WILD;

pub(crate) fn ask(probe: &mut Probe) {
    places(probe);
    probe.words(&[0; 64]);
    let build = |room: u32, probe: &Probe| {
        call(Hypercall::XenVersion, [version::XENVER_BUILD_ID.into(), probe.words32(&[room, 0, 0, 0, 0, 0])])
    };
    if !probe.privileged {
        probe.refuses("a guest asks for the build", build(64, probe), Errno::Perm);
        probe.refuses("for machine checks", call(Hypercall::Mca, [probe.address()]), Errno::Perm);
        probe.refuses("for the hypervisor's files", call(Hypercall::HypfsOp, [0]), Errno::Perm);
        return;
    }
    probe.is("the build's id", build(64, probe), 20);
    probe.holds("it is told", probe.word(1) != 0, probe.word(1) as i64);
    probe.refuses("in too little room", build(19, probe), Errno::NoBufs);
    probe.refuses("in none", build(0, probe), Errno::Inval);
    probe.is("its length", call(Hypercall::XenVersion, [version::XENVER_BUILD_ID.into(), 0]), 20);
    machine_checks(probe);
    files(probe);
    pools(probe);
    processors(probe);
}

/// Where a vcpu runs, by its own word.
fn places(probe: &mut Probe) {
    let pin = |probe: &Probe, cpu: i32| {
        call(Hypercall::SchedOp, [sched::SCHEDOP_PIN_OVERRIDE.into(), probe.words32(&[cpu as u32])])
    };
    let physid = call(Hypercall::VcpuOp, [vcpu::VCPUOP_GET_PHYSID.into(), 0, probe.address()]);
    if !probe.privileged {
        probe.refuses("a guest asks for its processor", physid, Errno::Inval);
        probe.refuses("a guest binds its vcpu", pin(probe, 0), Errno::Perm);
        return;
    }
    // There is one processor, so the vcpu has it for its own.
    probe.works("the processor of a vcpu", physid);
    probe.refuses("an end to what was not begun", pin(probe, -1), Errno::Inval);
    probe.refuses("a processor that there is not", pin(probe, 200), Errno::Inval);
    probe.works("a vcpu bound to a processor", pin(probe, 0));
    probe.refuses("twice", pin(probe, 0), Errno::Busy);
    probe.works("and let go", pin(probe, -1));
    let area = probe.words(&[WILD]);
    let area = call(Hypercall::VcpuOp, [vcpu::VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA.into(), 0, area]);
    probe.works("an area for the time that is not mapped yet", area);
}

fn machine_checks(probe: &mut Probe) {
    let version = machine_check::XEN_MCA_INTERFACE_VERSION;
    let ask = |probe: &Probe, command: u32, version: u32, flags: u32, data: u64| {
        let request = probe.words(&[u64::from(command) | u64::from(version) << 32, flags.into(), 7, data]);
        call(Hypercall::Mca, [request])
    };
    let somewhere = probe.address() + 512;
    probe.works("machine checks", ask(probe, machine_check::XEN_MC_FETCH, version, 1, somewhere));
    probe.is("there are none", i64::from(probe.word32(2)), machine_check::XEN_MC_NODATA.into());
    probe.refuses("to nowhere", ask(probe, machine_check::XEN_MC_FETCH, version, 1, 0), Errno::Inval);
    probe.refuses("of no kind", ask(probe, machine_check::XEN_MC_FETCH, version, 0, somewhere), Errno::Inval);
    probe.refuses("by another version", ask(probe, machine_check::XEN_MC_FETCH, 1, 1, somewhere), Errno::Acces);
    let request = probe.words(&[u64::from(machine_check::XEN_MC_PHYSCPUINFO) | u64::from(version) << 32, 0, 0]);
    probe.works("how many processors there are", call(Hypercall::Mca, [request]));
    probe.holds("more than none", probe.word32(2) >= 1, probe.word32(2).into());
    probe.refuses("a command that is not there", ask(probe, 99, version, 0, 0), Errno::Inval);
}

fn files(probe: &mut Probe) {
    const PATH: usize = 64;
    let path = probe.address() + PATH as u64 * 8;
    let set = |probe: &Probe, text: &[u8]| {
        let mut words = [0; PATH + 4];
        for (at, byte) in text.iter().enumerate() {
            if let Some(word) = words.get_mut(PATH + at / 8) {
                *word |= u64::from(*byte) << (at % 8 * 8);
            }
        }
        probe.words(&words)
    };
    let ask = |command: u32, bytes: usize, buffer: u64, room: u64| {
        call(Hypercall::HypfsOp, [command.into(), path, bytes as u64, buffer, room])
    };
    probe.is("the version of hypfs", call(Hypercall::HypfsOp, [0, 0, 0, 0, 0]), hypfs::XEN_HYPFS_VERSION.into());
    let buffer = set(probe, b"/buildinfo/version/major\0");
    probe.works("a number is read", ask(hypfs::XEN_HYPFS_OP_READ, 25, buffer, 64));
    probe.is("its kind", i64::from(probe.word32(0) & 0xff), hypfs::XEN_HYPFS_TYPE_UINT.into());
    probe.is("its value", i64::from(probe.word32(3)), 4);
    let buffer = set(probe, b"/buildinfo/version/minor\0");
    probe.refuses("without room", ask(hypfs::XEN_HYPFS_OP_READ, 25, buffer, 12), Errno::NoBufs);
    probe.refuses("without any", ask(hypfs::XEN_HYPFS_OP_READ, 25, buffer, 11), Errno::Inval);
    probe.refuses("is not for writing", ask(hypfs::XEN_HYPFS_OP_WRITE_CONTENTS, 25, buffer, 4), Errno::Acces);
    let buffer = set(probe, b"/buildinfo/nothing\0");
    probe.refuses("what is not there", ask(hypfs::XEN_HYPFS_OP_READ, 19, buffer, 64), Errno::NoEnt);
    let buffer = set(probe, b"buildinfo\0");
    probe.refuses("what is no path", ask(hypfs::XEN_HYPFS_OP_READ, 10, buffer, 64), Errno::Inval);
}

fn pools(probe: &mut Probe) {
    let version = sysctl::XEN_SYSCTL_INTERFACE_VERSION;
    let ask = |probe: &Probe, op: u32, pool: u32, domain: u32, cpu: u32| {
        let request = [sysctl::XEN_SYSCTL_CPUPOOL_OP, version, op, pool, 5, domain, cpu, 0, 0, 0, 0, 0];
        call(Hypercall::Sysctl, [probe.words32(&request)])
    };
    let any = sysctl::XEN_SYSCTL_CPUPOOL_PAR_ANY;
    probe.works("a pool", ask(probe, sysctl::XEN_SYSCTL_CPUPOOL_OP_CREATE, any, 0, 0));
    let pool = probe.word32(3);
    probe.holds("has a number", pool != 0, pool.into());
    let again = ask(probe, sysctl::XEN_SYSCTL_CPUPOOL_OP_CREATE, pool, 0, 0);
    probe.refuses("which nobody else has", again, Errno::NoSpc);
    let add = ask(probe, sysctl::XEN_SYSCTL_CPUPOOL_OP_ADDCPU, pool, 0, 0);
    probe.refuses("a processor of another pool", add, Errno::NoDev);
    let last = ask(probe, sysctl::XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, 0, 0);
    probe.refuses("the last processor of dom0's pool", last, Errno::Inval);
    let own = ask(probe, sysctl::XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, pool, 0, 0);
    probe.refuses("dom0 moves itself", own, Errno::Perm);
    probe.works("the next pool from there", ask(probe, sysctl::XEN_SYSCTL_CPUPOOL_OP_INFO, pool, 0, 0));
    probe.is("is the pool", probe.word32(3).into(), pool.into());
    probe.works("it ends", ask(probe, sysctl::XEN_SYSCTL_CPUPOOL_OP_DESTROY, pool, 0, 0));
    let gone = ask(probe, sysctl::XEN_SYSCTL_CPUPOOL_OP_DESTROY, pool, 0, 0);
    probe.refuses("once", gone, Errno::NoEnt);
}

fn processors(probe: &mut Probe) {
    let version = platform::XENPF_INTERFACE_VERSION;
    let ask = |probe: &Probe, command: u32, words: [u32; 4]| {
        let [a, b, c, d] = words;
        call(Hypercall::PlatformOp, [probe.words32(&[command, version, a, b, c, d, 0, 0, 0, 0, 0, 0])])
    };
    probe.works("a processor's make", ask(probe, platform::XENPF_GET_CPU_VERSION, [0; 4]));
    probe.holds("it has a vendor", probe.word32(4) != 0, probe.word32(4).into());
    probe.works("that of none", ask(probe, platform::XENPF_GET_CPU_VERSION, [250, 0, 0, 0]));
    probe.is("has none", probe.word32(4).into(), 0);
    let states = [0, platform::XEN_PM_CX, 0, 0];
    probe.works("no sleep states", ask(probe, platform::XENPF_SET_PROCESSOR_PMINFO, states));
    let states = [250, platform::XEN_PM_CX, 0, 0];
    let nobody = ask(probe, platform::XENPF_SET_PROCESSOR_PMINFO, states);
    probe.refuses("of a processor that there is not", nobody, Errno::Inval);
    probe
        .works("no cores to park", ask(probe, platform::XENPF_CORE_PARKING, [platform::XEN_CORE_PARKING_GET, 9, 0, 0]));
    probe.is("none is parked", probe.word32(3).into(), 0);
    let add = ask(probe, platform::XENPF_CPU_HOTADD, [250, 250, 0, 0]);
    probe.refuses("a new processor", add, Errno::NoSpc);
}
