//! Several CPUs at once: vcpus that are woken, paused, moved and ended from elsewhere while they run.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domid::DomId,
    errno::Errno,
    sched::{SCHEDOP_BLOCK, SCHEDOP_YIELD},
};
use oxen_hv::{
    Hypervisor,
    caller::{Caller, Current},
    domain::{Config, Domain, regs::Regs, vcpu::Pauses},
    hardware::CpuId,
    per_cpu::Work,
};
use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};
use support::{CPUS, Fake, boot, dice::Dice, guest::Guest, on_cpu};

type Domains = Mutex<Vec<Arc<Domain>>>;

/// Where vcpus may run that may run on several CPUs.
const ROAMING: u64 = (1 << CPUS) - 2;

/// A domain whose vcpus are up, on the CPUs that run guests: all but CPU 0. Every other one may run on any of them.
fn make(hv: &'static Hypervisor<Fake>, vcpus: u32) -> Arc<Domain> {
    let domain = hv.create_domain(&Config { id: None, is_privileged: false, ..Config::CONTROL }).unwrap();
    for id in 0..vcpus {
        hv.add_vcpu(&domain, id).unwrap();
        let vcpu = domain.vcpu(id).unwrap();
        let one = 1 << (1 + id as usize % (CPUS - 1));
        hv.set_hard_affinity(&domain, vcpu, if id % 2 == 0 { one } else { ROAMING }).unwrap();
        vcpu.is_initialised.store(true, SeqCst);
        let mark = u64::from(domain.id.0) << 8 | u64::from(id);
        vcpu.slot.lock().as_mut().unwrap().regs.rip = mark;
        hv.unpause_vcpu(vcpu, Pauses::DOWN);
    }
    hv.unpause_by_controller(&domain).unwrap();
    domain
}

/// Runs guests on one CPU: they block, yield, set timers and wake each other.
fn run_cpu(hv: &'static Hypervisor<Fake>, cpu: u16, domains: &Domains, stop: &AtomicBool) {
    on_cpu(cpu);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(cpu) + 7));
    let mut current: Option<Current> = None;
    let mut regs = Regs::default();
    let shared = hv.cpu(CpuId(cpu)).unwrap();
    while !stop.load(SeqCst) {
        hv.leave(CpuId(cpu), &mut current, &mut regs);
        let running = current.as_mut().unwrap();
        assert_eq!(regs.rip, u64::from(running.domain.id.0) << 8 | u64::from(running.vcpu.id));
        assert_eq!(running.vcpu.sched.cpu(), Some(CpuId(cpu)), "it runs where it is assigned");
        // The first domain's vcpus never wait: CPU 1 always has one, the others can run out of work.
        let may_wait = running.domain.id != DomId(1);
        let mut caller = Caller {
            hv,
            cpu: CpuId(cpu),
            shared,
            domain: &running.domain,
            vcpu: &running.vcpu,
            state: &mut running.state,
            regs: &mut regs,
        };
        let now = hv.now();
        match dice.wide(8) {
            0 | 1 if may_wait => drop(caller.sched_op(&mut [SCHEDOP_BLOCK.into(), 0, 0, 0, 0, 0])),
            2 => drop(caller.set_timer_op(&mut [now + dice.wide(500_000), 0, 0, 0, 0, 0])),
            3 => {
                let victim = {
                    let domains = domains.lock().unwrap();
                    domains[dice.wide(domains.len() as u64) as usize].clone()
                };
                victim.each_vcpu().for_each(|vcpu| hv.wake_vcpu(vcpu));
            }
            _ => drop(caller.sched_op(&mut [SCHEDOP_YIELD.into(), 0, 0, 0, 0, 0])),
        }
        hv.machine().time.fetch_add(dice.wide(20_000), SeqCst);
        shared.work.insert(Work::TIMER, SeqCst);
    }
    // The guest stays where it is: whoever ends it must be able to have it, so this CPU gives everything up.
    if let Some(last) = current.take() {
        *last.vcpu.slot.lock() = Some(last.state);
    }
}

fn move_vcpu(hv: &'static Hypervisor<Fake>, domain: &Arc<Domain>, dice: &mut Dice) -> Result<(), Errno> {
    let vcpu = domain.vcpu(dice.wide(domain.each_vcpu().count() as u64) as u32).unwrap();
    let wanted = 1 << (1 + dice.wide(CPUS as u64 - 1));
    // Whether it runs at that moment or not.
    if dice.wide(2) == 0 {
        return hv.set_hard_affinity(domain, vcpu, wanted).map(drop);
    }
    hv.pause_domain(domain);
    hv.wait_until_domain_off(domain);
    let moved = hv.set_hard_affinity(domain, vcpu, wanted);
    hv.unpause_domain(domain);
    moved.map(drop)
}

#[test]
fn what_is_done_from_elsewhere_loses_no_vcpu() {
    on_cpu(0);
    let hv = boot(1024);
    let free = hv.memory.frames.free_frames();
    hv.machine().idle_step.store(1000, SeqCst);
    let domains: Arc<Domains> = Arc::default();
    let base = make(hv, 2);
    domains.lock().unwrap().push(base);
    (0..4).for_each(|n| domains.lock().unwrap().push(make(hv, 1 + n)));
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (1..CPUS as u16)
        .map(|cpu| {
            let (domains, stop) = (domains.clone(), stop.clone());
            thread::spawn(move || run_cpu(hv, cpu, &domains, &stop))
        })
        .collect();
    let mut dice = Dice(0x1234_5678_9abc_def1);
    for _ in 0..150 {
        let which = 1 + dice.wide(4) as usize;
        let domain = domains.lock().unwrap()[which].clone();
        match dice.wide(10) {
            0..=2 => {
                hv.pause_domain(&domain);
                hv.wait_until_domain_off(&domain);
                domain.each_vcpu().for_each(|v| assert!(!v.sched.is_running()));
                hv.unpause_domain(&domain);
            }
            3..=5 => move_vcpu(hv, &domain, &mut dice).unwrap(),
            6 | 7 => domain.each_vcpu().for_each(|vcpu| hv.wake_vcpu(vcpu)),
            8 => {
                while hv.tear_down(&domain).is_err() {}
                assert!(hv.domains.get(domain.id).is_none());
                domains.lock().unwrap()[which] = make(hv, 1 + dice.wide(4) as u32);
            }
            _ => thread::yield_now(),
        }
    }
    stop.store(true, SeqCst);
    for thread in threads {
        // It may wait for work.
        while !thread.is_finished() {
            for vcpu in domains.lock().unwrap().iter().flat_map(|domain| domain.each_vcpu()) {
                vcpu.sched.allowed.store(ROAMING, SeqCst);
                hv.wake_vcpu(vcpu);
            }
        }
        thread.join().unwrap();
    }
    let last = std::mem::take(&mut *domains.lock().unwrap());
    for domain in last {
        while hv.tear_down(&domain).is_err() {}
    }
    assert_eq!(hv.memory.frames.free_frames(), free);
}

#[test]
#[should_panic(expected = "CPU 0 has not let go of d1v0, which is paused, for 60 s")]
fn a_cpu_that_never_lets_go_of_a_vcpu_is_named() {
    static HV: OnceLock<&Hypervisor<Fake>> = OnceLock::new();
    on_cpu(0);
    let hv = *HV.get_or_init(|| boot(64));
    // A second passes at each look.
    support::while_waiting(|| _ = HV.get().unwrap().machine().time.fetch_add(1_000_000_000, SeqCst));
    // Its state is here and never put back.
    let guest = Guest::new(hv, 1, false, 8);
    hv.pause_by_controller(&guest.domain).unwrap();
    hv.wait_until_domain_off(&guest.domain);
}
