//! The CPUs: one thread is all of them, one after the other. While one waits for others, those go on.

use super::support::{self, CPUS, Fake, on_cpu, this_cpu};
use oxen_abi::domid::DomId;
use oxen_hv::{
    Hypervisor,
    caller::{Caller, Current},
    domain::{Domain, regs::Regs, vcpu::Processor},
    hardware::CpuId,
    per_cpu::Work,
};
use std::{
    cell::{Cell, RefCell},
    sync::{Arc, atomic::Ordering::SeqCst},
};

/// The domain whose vcpus never wait, one on each CPU.
pub(super) const IDLER: DomId = DomId(0x7fe7);
/// How often a CPU may ask in one go whether others are done, before it counts as waiting for ever.
const PATIENCE: u32 = 100_000;
/// How often a CPU tries to have somebody else than the idler.
const TRIES: usize = 6;

/// What is on a CPU.
#[derive(Default)]
struct Cpu {
    current: Option<Current>,
    regs: Regs,
}

thread_local! {
    static MACHINE: Cell<Option<&'static Hypervisor<Fake>>> = const { Cell::new(None) };
    static ON: [RefCell<Cpu>; CPUS] = Default::default();
    static WAITED: Cell<u32> = const { Cell::new(0) };
}

fn bit(cpu: u16) -> u64 {
    1 << cpu
}

/// This thread is the CPUs of a machine from now on.
pub(super) fn become_those_of(hv: &'static Hypervisor<Fake>) {
    MACHINE.set(Some(hv));
    support::while_waiting(go_on_elsewhere);
    hv.cpus.iter().for_each(|cpu| cpu.work.store(Work::empty(), SeqCst));
    on_cpu(0);
}

/// The others do what they are asked for.
fn go_on_elsewhere() {
    WAITED.set(WAITED.get() + 1);
    assert!(WAITED.get() < PATIENCE, "{:?} waits for ever", this_cpu());
    let Some(hv) = MACHINE.get() else { return };
    for cpu in (0..CPUS as u16).filter(|&cpu| cpu != this_cpu().0) {
        if hv.cpu(CpuId(cpu)).is_some_and(|shared| !shared.work.load(SeqCst).is_empty()) {
            leave(hv, cpu);
        }
    }
}

/// All domains.
pub(super) fn domains(hv: &Hypervisor<Fake>) -> Vec<Arc<Domain>> {
    let mut all = Vec::new();
    let mut from = DomId(0);
    while let Some(domain) = hv.domains.next_from(from) {
        from = DomId(domain.id.0 + 1);
        all.push(domain);
    }
    all
}

/// Whether somebody who is assigned to a CPU can run there.
fn has_somebody(hv: &Hypervisor<Fake>, cpu: u16) -> bool {
    domains(hv).iter().any(|domain| {
        domain.each_vcpu().any(|vcpu| vcpu.sched.cpu() == Some(CpuId(cpu)) && vcpu.pauses.load(SeqCst).is_empty())
    })
}

/// The way out of the hypervisor on a CPU, as far as choosing who goes on. Nothing, if the CPU
/// is in the middle of something.
fn leave(hv: &'static Hypervisor<Fake>, cpu: u16) {
    let was = this_cpu();
    ON.with(|on| {
        let Ok(mut on) = on[usize::from(cpu)].try_borrow_mut() else { return };
        on_cpu(cpu);
        let Cpu { current, regs } = &mut *on;
        if has_somebody(hv, cpu) {
            hv.leave(CpuId(cpu), current, regs);
        } else {
            put_away(hv, cpu, current, regs);
        }
    });
    on_cpu(was.0);
}

/// A CPU that has nothing to do gives up whom it has.
fn put_away(hv: &'static Hypervisor<Fake>, cpu: u16, current: &mut Option<Current>, regs: &Regs) {
    if let Some(shared) = hv.cpu(CpuId(cpu)) {
        shared.work.store(Work::empty(), SeqCst);
    }
    let Some(Current { domain, vcpu, mut state }) = current.take() else { return };
    state.regs = *regs;
    hv.machine().save(&mut state);
    hv.machine().unload();
    hv.memory.frames.tlb.leave(domain.owner(), bit(cpu));
    *vcpu.slot.lock() = Some(state);
}

/// All CPUs give up whom they have.
pub(super) fn stop(hv: &'static Hypervisor<Fake>) {
    for cpu in 0..CPUS as u16 {
        on_cpu(cpu);
        ON.with(|on| {
            let Cpu { current, regs } = &mut *on[usize::from(cpu)].borrow_mut();
            put_away(hv, cpu, current, regs);
        });
    }
    on_cpu(0);
}

/// Everybody who is on a CPU.
pub(super) fn each_current(mut act: impl FnMut(&Current)) {
    ON.with(|on| on.iter().for_each(|cpu| cpu.borrow().current.iter().for_each(&mut act)));
}

/// Does what is left to do before a guest goes on; the domain that then does.
pub(super) fn go_on(hv: &'static Hypervisor<Fake>, cpu: u16) -> Option<DomId> {
    on_cpu(cpu);
    WAITED.set(0);
    let shared = hv.cpu(CpuId(cpu))?;
    let armed = hv.machine().peripherals.lock().unwrap().armed[usize::from(cpu)];
    if armed.is_some_and(|at| at <= hv.machine().time.load(SeqCst)) {
        shared.work.insert(Work::TIMER, SeqCst);
    }
    let mut found = None;
    for _ in 0..TRIES {
        let has_none = ON.with(|on| on[usize::from(cpu)].borrow().current.is_none());
        if has_none || !shared.work.load(SeqCst).is_empty() {
            leave(hv, cpu);
        }
        found = with_caller(hv, cpu, |caller| {
            caller.deliver_pending();
            caller.domain.id
        });
        if found == Some(IDLER) {
            shared.work.insert(Work::RESCHEDULE | Work::YIELD, SeqCst);
        }
        if found.is_none() || shared.work.load(SeqCst).is_empty() {
            break;
        }
    }
    found.filter(|&id| id != IDLER)
}

/// Lets the guest that is on a CPU come in.
pub(super) fn with_caller<R>(
    hv: &'static Hypervisor<Fake>,
    cpu: u16,
    act: impl FnOnce(&mut Caller<'_, Fake>) -> R,
) -> Option<R> {
    on_cpu(cpu);
    ON.with(|on| {
        let Cpu { current, regs } = &mut *on[usize::from(cpu)].borrow_mut();
        let Current { domain, vcpu, state } = current.as_mut()?;
        support::run_domain(hv, domain);
        let cpu = CpuId(cpu);
        Some(act(&mut Caller { hv, cpu, shared: hv.cpu(cpu)?, domain, vcpu, state, regs }))
    })
}
