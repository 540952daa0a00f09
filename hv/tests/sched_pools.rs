//! Where vcpus run: affinities and pools of CPUs are obeyed, by who runs at that moment as well.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domid::DomId,
    errno::Errno,
    sched::SCHEDOP_PIN_OVERRIDE,
    sysctl::{
        Sysctl, SysctlCpupoolOp, XEN_SYSCTL_CPUPOOL_OP, XEN_SYSCTL_CPUPOOL_OP_ADDCPU, XEN_SYSCTL_CPUPOOL_OP_CREATE,
        XEN_SYSCTL_CPUPOOL_OP_DESTROY, XEN_SYSCTL_CPUPOOL_OP_INFO, XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
        XEN_SYSCTL_CPUPOOL_OP_RMCPU, XEN_SYSCTL_CPUPOOL_PAR_ANY,
    },
    vcpu::VCPUOP_GET_PHYSID,
};
use oxen_hv::{
    Hypervisor,
    addr::GuestAddr,
    caller::{Caller, Current},
    domain::{Config, Domain, regs::Regs, vcpu::Pauses},
    hardware::CpuId,
};
use std::sync::{Arc, atomic::Ordering::SeqCst};
use support::{CPUS, Fake, boot, guest::Guest, on_cpu, this_cpu};
use zerocopy::{FromZeros, IntoBytes};

const ALL: u64 = (1 << CPUS) - 1;

/// A domain with vcpus that are up, on these CPUs.
fn domain(hv: &'static Hypervisor<Fake>, vcpus: u32, cpus: u64) -> Arc<Domain> {
    let domain = hv.create_domain(&Config { id: None, is_privileged: false, ..Config::CONTROL }).unwrap();
    for id in 0..vcpus {
        hv.add_vcpu(&domain, id).unwrap();
        let vcpu = domain.vcpu(id).unwrap();
        hv.set_hard_affinity(&domain, vcpu, cpus).unwrap();
        vcpu.is_initialised.store(true, SeqCst);
        hv.unpause_vcpu(vcpu, Pauses::DOWN);
    }
    hv.unpause_by_controller(&domain).unwrap();
    domain
}

fn cpu_of(domain: &Domain, vcpu: u32) -> u16 {
    domain.vcpu(vcpu).unwrap().sched.cpu().unwrap().0
}

/// The CPU leaves for a guest.
fn leave(hv: &'static Hypervisor<Fake>, current: &mut Option<Current>) {
    hv.leave(this_cpu(), current, &mut Regs::default());
}

#[test]
fn a_vcpu_that_runs_where_it_may_not_any_more_leaves_at_once() {
    on_cpu(0);
    let hv = boot(256);
    let moving = domain(hv, 1, 1);
    let mut current = None;
    leave(hv, &mut current);
    assert!(moving.vcpu(0).unwrap().sched.is_running());
    let other = domain(hv, 1, 1);
    assert_eq!(hv.set_hard_affinity(&moving, moving.vcpu(0).unwrap(), 1 << 2 | 1 << 40), Ok(1 << 2));
    assert_eq!(cpu_of(&moving, 0), 0, "its state is on the CPU");
    leave(hv, &mut current);
    assert_eq!(current.unwrap().domain.id, other.id);
    assert_eq!(cpu_of(&moving, 0), 2);
    assert_eq!(moving.vcpu(0).unwrap().pauses.load(SeqCst), Pauses::empty(), "it goes on there");
    assert_eq!(hv.set_hard_affinity(&moving, moving.vcpu(0).unwrap(), 1 << 40), Err(Errno::Inval));
}

#[test]
fn a_new_vcpu_sits_where_it_would_like_to_if_it_may() {
    on_cpu(0);
    let hv = boot(256);
    let wishing = domain(hv, 1, ALL);
    let vcpu = wishing.vcpu(0).unwrap();
    assert_eq!(hv.set_soft_affinity(&wishing, vcpu, 1 << 3 | 1 << 50), Ok(1 << 3));
    hv.set_hard_affinity(&wishing, vcpu, ALL & !(1 << cpu_of(&wishing, 0))).unwrap();
    assert_eq!(cpu_of(&wishing, 0), 3);
    hv.pin_override(&wishing, vcpu, Some(1)).unwrap();
    assert_eq!(hv.set_soft_affinity(&wishing, vcpu, 1), Err(Errno::Busy), "its kernel wants another");
    assert_eq!(vcpu.sched.soft_affinity.load(SeqCst), 1 << 3 | 1 << 50);
}

fn pool(control: &mut Guest, request: SysctlCpupoolOp) -> Result<SysctlCpupoolOp, Errno> {
    let op = Sysctl::new(XEN_SYSCTL_CPUPOOL_OP, &request);
    control.hv.machine().write_guest(GuestAddr::new(0), op.as_bytes()).unwrap();
    control.call(Caller::sysctl, [0; 4])?;
    let mut answer = Sysctl::new_zeroed();
    control.hv.machine().read_guest(GuestAddr::new(0), answer.as_mut_bytes()).unwrap();
    Ok(answer.get())
}

#[test]
fn pools_divide_the_cpus_and_a_domain_follows_its_pool() {
    on_cpu(0);
    let mut control = Guest::new(boot(512), 0, true, 64);
    control.build_home(4);
    let hv = control.hv;
    let zero = SysctlCpupoolOp { sched_id: 5, ..FromZeros::new_zeroed() };
    let made = pool(&mut control, SysctlCpupoolOp { op: XEN_SYSCTL_CPUPOOL_OP_CREATE, cpupool_id: u32::MAX, ..zero });
    let id = made.unwrap().cpupool_id;
    let on = |op, cpupool_id, cpu| SysctlCpupoolOp { op, cpupool_id, cpu, ..zero };
    assert_eq!(pool(&mut control, on(XEN_SYSCTL_CPUPOOL_OP_ADDCPU, id, 3)), Err(Errno::NoDev));
    pool(&mut control, on(XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, 3)).unwrap();
    let guest = domain(hv, 4, ALL);
    assert!((0..4).all(|vcpu| cpu_of(&guest, vcpu) != 3), "a free CPU is nobody's");
    let to = |domid: DomId| SysctlCpupoolOp {
        op: XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
        cpupool_id: id,
        domid: domid.0.into(),
        ..zero
    };
    assert_eq!(pool(&mut control, to(guest.id)), Err(Errno::NoEnt), "a pool without CPUs");
    pool(&mut control, on(XEN_SYSCTL_CPUPOOL_OP_ADDCPU, id, XEN_SYSCTL_CPUPOOL_PAR_ANY)).unwrap();
    assert_eq!(pool(&mut control, to(DomId::DOM0)), Err(Errno::Perm));
    pool(&mut control, to(guest.id)).unwrap();
    assert!((0..4).all(|vcpu| cpu_of(&guest, vcpu) == 3));
    let told = pool(&mut control, on(XEN_SYSCTL_CPUPOOL_OP_INFO, 1, 0)).unwrap();
    assert_eq!((told.cpupool_id, told.sched_id, told.n_dom), (id, 5, 1));
    assert_eq!(pool(&mut control, on(XEN_SYSCTL_CPUPOOL_OP_RMCPU, id, 3)), Err(Errno::Busy), "it has a domain");
    assert_eq!(pool(&mut control, on(XEN_SYSCTL_CPUPOOL_OP_DESTROY, id, 0)), Err(Errno::Busy));
    pool(&mut control, SysctlCpupoolOp { cpupool_id: 0, ..to(guest.id) }).unwrap();
    assert!((0..4).all(|vcpu| cpu_of(&guest, vcpu) != 3));
    pool(&mut control, on(XEN_SYSCTL_CPUPOOL_OP_RMCPU, id, 3)).unwrap();
    pool(&mut control, on(XEN_SYSCTL_CPUPOOL_OP_DESTROY, id, 0)).unwrap();
    assert_eq!(pool(&mut control, on(XEN_SYSCTL_CPUPOOL_OP_INFO, 1, 0)), Err(Errno::NoEnt));
}

#[test]
fn who_was_bound_to_a_cpu_that_leaves_the_pool_is_bound_no_more() {
    on_cpu(0);
    let hv = boot(256);
    let bound = domain(hv, 1, 1 << 2);
    hv.remove_cpu_from_pool(0, Some(2)).unwrap();
    assert_ne!(cpu_of(&bound, 0), 2);
    assert_eq!(bound.vcpu(0).unwrap().sched.affinity.load(SeqCst), u64::MAX);
    assert_eq!(hv.set_hard_affinity(&bound, bound.vcpu(0).unwrap(), 1 << 2), Err(Errno::Inval));
    assert!(hv.online_cpus().any(|cpu| cpu == CpuId(2)), "it is still there");
    hv.add_cpu_to_pool(0, None).unwrap();
    hv.set_hard_affinity(&bound, bound.vcpu(0).unwrap(), 1 << 2).unwrap();
    assert_eq!(cpu_of(&bound, 0), 2);
}

#[test]
fn a_kernel_binds_its_vcpu_for_a_while_and_is_told_the_processor() {
    on_cpu(0);
    let mut control = Guest::new(boot(256), 0, true, 64);
    control.build_home(4);
    let bind = |control: &mut Guest, cpu: i32| {
        control.hv.machine().write_guest(GuestAddr::new(0), cpu.as_bytes()).unwrap();
        control.call(Caller::sched_op, [SCHEDOP_PIN_OVERRIDE.into(), 0, 0, 0])
    };
    assert_eq!(bind(&mut control, -1), Err(Errno::Inval), "nothing is to end");
    assert_eq!(bind(&mut control, 40), Err(Errno::Inval));
    bind(&mut control, 1).unwrap();
    assert_eq!(bind(&mut control, 2), Err(Errno::Busy));
    let (domain, vcpu) = (control.domain.clone(), control.vcpu.clone());
    assert_eq!(control.hv.set_hard_affinity(&domain, &vcpu, ALL), Err(Errno::Busy));
    assert_eq!(vcpu.sched.allowed.load(SeqCst), 1 << 1);
    bind(&mut control, -1).unwrap();
    let physid = [VCPUOP_GET_PHYSID.into(), 0, 0x100, 0];
    assert_eq!(control.call(Caller::vcpu_op, physid), Err(Errno::Inval), "it may run anywhere");
    control.hv.set_hard_affinity(&domain, &vcpu, 1 << 2).unwrap();
    control.call(Caller::vcpu_op, physid).unwrap();
    let mut told = [0_u32; 2];
    control.hv.machine().read_guest(GuestAddr::new(0x100), told.as_mut_bytes()).unwrap();
    assert_eq!(told, [2, 2]);
    let mut guest = Guest::new(control.hv, 1, false, 64);
    guest.build_home(4);
    assert_eq!(bind(&mut guest, 1), Err(Errno::Perm));
}
