//! The running loop under random waking, waiting, pausing and ending: who runs may run,
//! and every state is in one place.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod clocks;
mod predictions;
#[path = "../support/mod.rs"]
mod support;

use oxen_abi::{
    domid::DomId,
    sched::{SCHEDOP_BLOCK, SCHEDOP_POLL, SCHEDOP_WATCHDOG, SCHEDOP_YIELD, SHUTDOWN_WATCHDOG},
    vcpu::{VCPUOP_DOWN, VCPUOP_GET_RUNSTATE_INFO, VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, XEN_RUNSTATE_UPDATE},
    vm_assist::Assists,
};
use oxen_hv::{
    Hypervisor,
    caller::{Caller, Current},
    domain::{Config, Domain, regs::Regs, vcpu::Pauses},
    per_cpu::Work,
    reply::{Args, Reply},
    sched::run_queue::Share,
};
use std::sync::{Arc, atomic::Ordering::SeqCst};
use support::{Fake, boot, dice::Dice, guest::Guest, this_cpu};

/// A CPU as the machine's exit path drives it.
struct Cpu {
    hv: &'static Hypervisor<Fake>,
    current: Option<Current>,
    regs: Regs,
}

impl Cpu {
    fn new(hv: &'static Hypervisor<Fake>) -> Self {
        Self { hv, current: None, regs: Regs::default() }
    }

    /// Back to a guest: whoever is current then may run.
    fn leave(&mut self) {
        self.hv.leave(this_cpu(), &mut self.current, &mut self.regs);
        let current = self.current.as_ref().unwrap();
        assert_eq!(current.vcpu.pauses.load(SeqCst), Pauses::empty(), "who runs may run");
        assert!(current.vcpu.slot.lock().is_none() && current.vcpu.sched.is_running());
    }

    /// Some time passes in the guest, and the timer interrupts it if it is due.
    fn run(&mut self, nanoseconds: u64) {
        self.hv.machine().time.fetch_add(nanoseconds, SeqCst);
        let armed = self.hv.machine().peripherals.lock().unwrap().armed[usize::from(this_cpu().0)];
        let shared = self.hv.cpu(this_cpu()).unwrap();
        if armed.is_some_and(|at| at <= self.hv.machine().time.load(SeqCst)) {
            shared.work.insert(Work::TIMER, SeqCst);
        }
        if !shared.work.load(SeqCst).is_empty() {
            self.leave();
        }
    }

    /// The vcpu that runs, as a handler sees it.
    fn caller(&mut self) -> Caller<'_, Fake> {
        let current = self.current.as_mut().unwrap();
        Caller {
            hv: self.hv,
            cpu: this_cpu(),
            shared: self.hv.cpu(this_cpu()).unwrap(),
            domain: &current.domain,
            vcpu: &current.vcpu,
            state: &mut current.state,
            regs: &mut self.regs,
        }
    }

    fn call<'a>(&'a mut self, handler: fn(&mut Caller<'a, Fake>, &mut Args) -> Reply, args: [u64; 3]) -> Reply {
        handler(&mut self.caller(), &mut [args[0], args[1], args[2], 0, 0, 0])
    }

    fn who(&self) -> (DomId, u32) {
        let current = self.current.as_ref().unwrap();
        (current.domain.id, current.vcpu.id)
    }
}

/// A domain whose vcpus are up, as if they had contexts.
fn domain(hv: &'static Hypervisor<Fake>, id: u16, vcpus: u32) -> Arc<Domain> {
    let domain = hv.create_domain(&Config { id: Some(DomId(id)), is_privileged: id == 0, ..Config::CONTROL }).unwrap();
    for id in 0..vcpus {
        hv.add_vcpu(&domain, id).unwrap();
        let vcpu = domain.vcpu(id).unwrap();
        vcpu.is_initialised.store(true, SeqCst);
        hv.set_hard_affinity(&domain, vcpu, 1).unwrap();
        vcpu.slot.lock().as_mut().unwrap().regs.rip = u64::from(id) + 1000 * u64::from(domain.id.0);
        hv.unpause_vcpu(vcpu, Pauses::DOWN);
    }
    hv.unpause_by_controller(&domain).unwrap();
    domain
}

#[test]
fn weights_and_caps_hold_through_the_running_loop() {
    let hv = boot(256);
    let mut cpu = Cpu::new(hv);
    let domains: Vec<_> = (1..=3).map(|id| domain(hv, id, 1)).collect();
    hv.set_share(&domains[0], Share { weight: 512, cap: 0 });
    hv.set_share(&domains[2], Share { weight: 256, cap: 10 });
    cpu.leave();
    for _ in 0..20_000 {
        cpu.run(500_000);
    }
    let ran: Vec<_> = domains.iter().map(|d| d.vcpu(0).unwrap().sched.runstate.lock().ran(hv.now()) as f64).collect();
    let total: f64 = ran.iter().sum();
    for (ran, part) in ran.iter().zip([0.6, 0.3, 0.1]) {
        assert!((ran / total - part).abs() < 0.02, "{ran} of {total}, not {part}");
    }
}

#[test]
fn a_yield_with_nobody_else_asks_nothing_of_the_exit_path() {
    let hv = boot(256);
    let mut cpu = Cpu::new(hv);
    let first = domain(hv, 1, 1);
    cpu.leave();
    cpu.call(Caller::sched_op, [SCHEDOP_YIELD.into(), 0, 0]).unwrap();
    assert_eq!(hv.cpu(this_cpu()).unwrap().work.load(SeqCst), Work::empty());
    let other = domain(hv, 2, 1);
    cpu.leave();
    let before = cpu.who();
    cpu.call(Caller::sched_op, [SCHEDOP_YIELD.into(), 0, 0]).unwrap();
    cpu.leave();
    assert_ne!(cpu.who(), before);
    assert_eq!(first.shutdown.load(SeqCst), other.shutdown.load(SeqCst));
}

#[test]
fn a_watchdog_ends_a_domain_that_does_not_feed_it() {
    let hv = boot(512);
    let mut guest = Guest::new(hv, 1, false, 64);
    let home = guest.build_home(1);
    hv.machine().words(home.data[0])[0].store(5 << 32, SeqCst);
    assert_eq!(guest.call(Caller::sched_op, [SCHEDOP_WATCHDOG.into(), 0, 0, 0]), Ok(1));
    let other = domain(hv, 2, 1);
    let mut cpu = Cpu::new(hv);
    cpu.leave();
    assert_eq!(cpu.who().0, DomId(2));
    cpu.run(4_900_000_000);
    assert!(!guest.domain.is_shut_down());
    cpu.run(200_000_000);
    assert_eq!(guest.domain.shutdown.load(SeqCst), SHUTDOWN_WATCHDOG);
    assert!(!other.is_shut_down());
}

#[test]
fn a_runstate_area_says_what_the_vcpu_does() {
    let hv = boot(512);
    let mut guest = Guest::new(hv, 1, false, 64);
    let home = guest.build_home(2);
    guest.domain.memory.set_assists(Assists::RUNSTATE_UPDATE_FLAG);
    let words = hv.machine().words(home.data[0]);
    words[0].store(0x1000, SeqCst);
    let register = VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA.into();
    assert_eq!(guest.call(Caller::vcpu_op, [register, 0, 0, 0]), Ok(0));
    *guest.vcpu.slot.lock() = Some(guest.state);
    let mut cpu = Cpu::new(hv);
    guest.vcpu.pauses.store(Pauses::DOWN, SeqCst);
    hv.unpause_vcpu(&guest.vcpu, Pauses::DOWN);
    cpu.leave();
    let area = hv.machine().words(home.data[1]);
    let state = || area[0].load(SeqCst) & 0xff;
    assert_eq!((state(), area[1].load(SeqCst) & XEN_RUNSTATE_UPDATE), (0, 0));
    let other = domain(hv, 2, 1);
    cpu.leave();
    if cpu.who().0 == DomId(1) {
        cpu.call(Caller::sched_op, [SCHEDOP_YIELD.into(), 0, 0]).unwrap();
        cpu.leave();
    }
    assert_eq!(cpu.who().0, other.id);
    assert_eq!(state(), 1, "it waits for the CPU");
    let asked = u64::from(VCPUOP_GET_RUNSTATE_INFO);
    assert!(cpu.call(Caller::vcpu_op, [asked, 0, 0xffff_8000_0000_0000]).is_err(), "not into the hypervisor");
}

/// Every state is in its vcpu's slot or on the CPU, and the times of every vcpu add up to its life.
fn check(hv: &Hypervisor<Fake>, cpu: &Cpu, domains: &[Arc<Domain>]) {
    for vcpu in domains.iter().flat_map(|d| d.each_vcpu()) {
        let is_current = cpu.current.as_ref().is_some_and(|c| Arc::ptr_eq(&c.vcpu, vcpu));
        assert_eq!(vcpu.slot.lock().is_none(), is_current);
        let expected = u64::from(vcpu.id) + 1000 * u64::from(vcpu.domain.0);
        let rip = vcpu.slot.lock().as_ref().map_or(cpu.regs.rip, |s| s.regs.rip);
        assert_eq!(rip, expected, "registers follow their vcpu");
        let info = vcpu.sched.runstate.lock().until(hv.now());
        assert_eq!(info.time.iter().sum::<u64>(), hv.now(), "vcpus are made at time 0, and no time is lost");
    }
}

#[test]
fn any_order_of_events_keeps_the_loop_whole() {
    for seed in 1..=30 {
        let hv = boot(512);
        hv.machine().idle_step.store(10_000, SeqCst);
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut cpu = Cpu::new(hv);
        let mut domains: Vec<_> = (1..=4).map(|id| domain(hv, id, 1 + u32::from(id) % 3)).collect();
        // One domain is left alone but for its clock, so that somebody always runs in the end.
        let clock = domain(hv, 9, 1);
        hv.set_periodic_timer(clock.vcpu(0).unwrap(), 3_000_000);
        cpu.leave();
        domains.push(clock);
        for _ in 0..3000 {
            step(hv, &mut cpu, &mut dice, &domains);
            check(hv, &cpu, &domains);
        }
        end(hv, &mut cpu, &mut domains);
    }
}

fn step(hv: &'static Hypervisor<Fake>, cpu: &mut Cpu, dice: &mut Dice, domains: &[Arc<Domain>]) {
    let victims = &domains[..4];
    let domain = &victims[dice.wide(4) as usize];
    let vcpu = domain.vcpu(dice.wide(domain.each_vcpu().count() as u64) as u32).unwrap();
    let is_clock = cpu.who().0 == DomId(9);
    match dice.wide(14) {
        0 | 1 if !is_clock => drop(cpu.call(Caller::sched_op, [SCHEDOP_BLOCK.into(), 0, 0])),
        2 => drop(cpu.call(Caller::sched_op, [SCHEDOP_YIELD.into(), 0, 0])),
        3 => drop(cpu.call(Caller::set_timer_op, [hv.now() + dice.wide(5_000_000), 0, 0])),
        4 | 5 => hv.wake_vcpu(vcpu),
        6 => drop(hv.pause_by_controller(domain)),
        7 | 8 => drop(hv.unpause_by_controller(domain)),
        9 if !is_clock => drop(cpu.call(Caller::vcpu_op, [VCPUOP_DOWN.into(), dice.wide(4), 0])),
        10 | 11 => {
            for vcpu in domain.each_vcpu() {
                hv.unpause_vcpu(vcpu, Pauses::DOWN);
            }
            hv.resume_domain(domain);
        }
        12 => hv.set_share(domain, Share { weight: 1 + dice.wide(999) as u16, cap: dice.wide(3) as u16 * 30 }),
        _ => hv.set_periodic_timer(vcpu, dice.wide(3) * 2_000_000),
    }
    cpu.run(dice.wide(2_000_000));
}

/// Domains can be ended in whatever state that left them, as long as another one runs meanwhile.
fn end(hv: &'static Hypervisor<Fake>, cpu: &mut Cpu, domains: &mut Vec<Arc<Domain>>) {
    let clock = domains.pop().unwrap();
    while cpu.who().0 != clock.id {
        cpu.call(Caller::sched_op, [SCHEDOP_BLOCK.into(), 0, 0]).unwrap();
        let current = cpu.current.as_ref().unwrap();
        let this = domains.iter().find(|d| d.id == current.domain.id).unwrap().clone();
        let _ = hv.pause_by_controller(&this);
        cpu.leave();
    }
    for domain in domains.drain(..) {
        while hv.tear_down(&domain).is_err() {}
        assert!(hv.domains.get(domain.id).is_none());
        assert_eq!(Arc::strong_count(&domain), 1, "nobody else remembers it");
    }
    cpu.run(50_000_000);
    assert_eq!(cpu.who().0, clock.id);
}

#[test]
fn polling_ends_with_the_port_the_time_or_at_once() {
    let hv = boot(512);
    let mut guest = Guest::new(hv, 1, false, 64);
    let home = guest.build_home(1);
    let port = guest.caller().bind_ipi(0).unwrap();
    let words = hv.machine().words(home.data[0]);
    // The list of ports follows the request.
    let ask = |deadline: u64| {
        for (word, value) in words.iter().zip([24, 1, deadline, port.into()]) {
            word.store(value, SeqCst);
        }
    };
    ask(0);
    guest.caller().send_event(port).unwrap();
    assert_eq!(guest.call(Caller::sched_op, [SCHEDOP_POLL.into(), 0, 0, 0]), Ok(0));
    assert_eq!(guest.vcpu.pauses.load(SeqCst), Pauses::empty(), "it is pending already");
    // Take the event.
    hv.machine().words(guest.domain.shared_info)[256].store(0, SeqCst);
    guest.state.info.upcall_pending().store(0, SeqCst);
    assert_eq!(guest.call(Caller::sched_op, [SCHEDOP_POLL.into(), 0, 0, 0]), Ok(0));
    assert_eq!(guest.vcpu.pauses.load(SeqCst), Pauses::POLLING);
    guest.caller().send_event(port).unwrap();
    assert_eq!(guest.vcpu.pauses.load(SeqCst), Pauses::empty());
    hv.machine().words(guest.domain.shared_info)[256].store(0, SeqCst);
    guest.state.info.upcall_pending().store(0, SeqCst);
    ask(5_000);
    assert_eq!(guest.call(Caller::sched_op, [SCHEDOP_POLL.into(), 0, 0, 0]), Ok(0));
    assert_eq!(guest.vcpu.pauses.load(SeqCst), Pauses::POLLING);
    *guest.vcpu.slot.lock() = Some(guest.state);
    let mut cpu = Cpu::new(hv);
    cpu.leave();
    assert!(hv.now() >= 5_000 && cpu.who().0 == DomId(1));
}
