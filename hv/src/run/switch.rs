//! The running loop: from one vcpu to the next, and waiting while there is none.

use crate::{
    Hypervisor,
    caller::Current,
    cpu::balance,
    domain::{
        Domain,
        regs::Regs,
        vcpu::{Pauses, Vcpu, VcpuState},
    },
    hardware::CpuId,
    machine::Machine,
    per_cpu::{CpuSched, CpuShared, Unit, Work},
    sched::{clock, run_queue::Choice},
    speculation,
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::domid::DomId;
use oxen_abi::trace::{TRC_SCHED_CONTINUE_RUNNING, vcpu_and_domain};
use oxen_abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING};
use oxen_abi::virq::VIRQ_TBUF;

impl<M: Machine> Hypervisor<M> {
    /// Does what waits on this CPU, and sees to it that the right vcpu is on it; waits while none can run.
    ///
    /// For the machine's exit path: to be called with interrupts off, whenever the CPU's `work` is not zero before
    /// guest code goes on, and to begin with when a CPU was brought up (`current` is `None` then). On return `current`
    /// is a vcpu that may run, everything of it is loaded and `regs` are its registers; the caller then delivers what
    /// is pending for it (`trap::deliver_pending`), looks at `work` once more and goes to the guest. `regs` are the
    /// registers that the entry path saved, those of `current` on the way in and on the way out.
    pub fn leave(&'static self, cpu: CpuId, current: &mut Option<Current>, regs: &mut Regs) {
        let Some(shared) = self.cpu(cpu) else { return };
        let mut now = self.now();
        loop {
            let mut todo = shared.work.take(Ordering::SeqCst);
            if todo.contains(Work::TIMER) {
                let first = self.expire_deadlines(cpu, now, current.as_ref());
                if shared.work.load(Ordering::SeqCst).is_empty() {
                    if todo == Work::TIMER && goes_on(shared, current.as_ref(), now) {
                        self.arm_timer(shared, first.min(shared.slice_end.load(Ordering::Relaxed)), now);
                        return;
                    }
                } else {
                    todo |= shared.work.take(Ordering::SeqCst) - Work::TIMER;
                }
            }
            if todo.contains(Work::TRACED) {
                self.raise_global_virq(VIRQ_TBUF);
            }
            let Some((choice, next)) = choose(shared, current.as_ref(), now, todo.contains(Work::YIELD)) else {
                return;
            };
            match (choice.next.is_some(), next) {
                (true, None) => self.keep_running(current.as_mut(), now),
                (true, Some(next)) => {
                    if !self.switch_to(cpu, current, regs, next, now) {
                        shared.work.insert(Work::RESCHEDULE, Ordering::Relaxed);
                    }
                }
                (false, _) => {
                    self.begin_idling(cpu);
                    self.idle_with(cpu, current, regs, now);
                    if self.take_over_vcpu(cpu) {
                        shared.work.insert(Work::RESCHEDULE, Ordering::Relaxed);
                    }
                }
            }
            self.arm_timer_for_next(shared, choice.until, now);
            if !shared.work.load(Ordering::SeqCst).is_empty() {
                if choice.next.is_none() {
                    self.end_idling(cpu);
                }
                now = self.now();
                continue;
            }
            if choice.next.is_some() {
                return;
            }
            now = self.wait_for_work(shared, cpu, now);
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// The CPU waits for an interrupt, from `since` on; returns when it came.
    #[inline(always)]
    fn wait_for_work(&'static self, shared: &CpuShared, cpu: CpuId, since: u64) -> u64 {
        if self.is_traced() {
            self.idle_noted(cpu);
        } else {
            self.machine().idle();
        }
        self.end_idling(cpu);
        let now = self.now();
        shared.add_idle_time(now.saturating_sub(since));
        let is_due = shared.armed.load(Ordering::Relaxed) <= now;
        if is_due && !shared.work.load(Ordering::Relaxed).contains(Work::TIMER) {
            shared.work.insert(Work::TIMER, Ordering::Relaxed);
        }
        now
    }
}

/// Whether nothing has happened that makes another choice due: who has to be chosen anew, or to stop, has work left for
/// the CPU, and the turn of the vcpu that runs is not over.
fn goes_on(shared: &CpuShared, current: Option<&Current>, now: u64) -> bool {
    now < shared.slice_end.load(Ordering::Relaxed) && current.is_some_and(|current| current.vcpu.sched.is_running())
}

/// Asks the policy, and lets it choose among those who can run. The unit only if it is not `current`.
fn choose(shared: &CpuShared, current: Option<&Current>, now: u64, yields: bool) -> Option<(Choice, Option<Unit>)> {
    let mut sched = shared.sched.get()?.lock();
    let CpuSched { queue, units } = &mut *sched;
    let choice = queue.choose(now, yields, |id| {
        let unit = units.get(id.index()).and_then(Option::as_ref);
        unit.is_some_and(|unit| unit.vcpu.pauses.load(Ordering::SeqCst).is_empty())
    });
    balance::note(shared, queue);
    let next = choice.next.and_then(|id| units.get(id.index())?.as_ref());
    let next = next.filter(|unit| current.is_none_or(|c| !Arc::ptr_eq(&c.vcpu, &unit.vcpu)));
    Some((choice, next.cloned()))
}

impl<M: Machine> Hypervisor<M> {
    /// The vcpu that was on the CPU goes on.
    fn keep_running(&self, current: Option<&mut Current>, now: u64) {
        let Some(current) = current else { return };
        let is_running = &current.vcpu.sched.is_running;
        let was_off = || (!is_running.swap(true, Ordering::SeqCst)).then_some(RUNSTATE_RUNNING);
        if self.enter_runstate(&current.vcpu, now, was_off) {
            self.publish_runstate(&current.domain, &current.vcpu, &current.state);
        } else if self.is_traced() {
            self.note_staying(&current.vcpu);
        }
    }

    #[cold]
    #[inline(never)]
    fn note_staying(&self, vcpu: &Vcpu) {
        let who = vcpu_and_domain(vcpu.id, vcpu.domain);
        self.trace.run(self.machine().this_cpu(), who);
        self.note_words(TRC_SCHED_CONTINUE_RUNNING, &[who]);
    }

    /// Xen has a domain that runs where nobody else does, and its tools expect to hear of it.
    #[cold]
    #[inline(never)]
    fn idle_noted(&self, cpu: CpuId) {
        self.note_runstate(cpu.0.into(), DomId::IDLE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING);
        self.machine().idle();
        self.note_runstate(cpu.0.into(), DomId::IDLE, RUNSTATE_RUNNING, RUNSTATE_RUNNABLE);
    }

    /// Nobody can run. A vcpu that only waits for an event keeps the CPU's registers: it is likely to be the next.
    fn idle_with(&self, cpu: CpuId, current: &mut Option<Current>, regs: &Regs, now: u64) {
        let Some(staying) = current else { return };
        self.note_stopped(&staying.domain, &staying.vcpu, &staying.state, now);
        if !(staying.vcpu.pauses.load(Ordering::SeqCst) - Pauses::WAITING).is_empty() {
            let last = self.deschedule(current, regs);
            self.machine().unload();
            self.release_state(cpu, last, None);
        }
    }

    /// Puts the vcpu that was on the CPU away and loads another. Not done if that one was paused or moved since it was
    /// chosen, or has no state, which pauses it.
    fn switch_to(&self, cpu: CpuId, current: &mut Option<Current>, regs: &mut Regs, next: Unit, now: u64) -> bool {
        let Unit { domain, vcpu } = next;
        let state = {
            let mut slot = vcpu.slot.lock();
            // Whoever saw the state here could pause the vcpu, move it, take it apart, and must not find the state gone
            // for a moment meanwhile. From here on they see that it runs.
            if !vcpu.pauses.load(Ordering::SeqCst).is_empty() || vcpu.sched.cpu() != Some(cpu) {
                return false;
            }
            slot.take()
        };
        let Some(mut state) = state else {
            vcpu.pauses.insert(Pauses::DOWN, Ordering::SeqCst);
            return false;
        };
        if let Some(last) = current {
            self.note_stopped(&last.domain, &last.vcpu, &last.state, now);
        }
        let last = self.deschedule(current, regs);
        self.memory.frames.tlb.enter(domain.owner(), bit(cpu));
        *regs = state.regs;
        state.traps_tsc = domain.tsc.is_emulated();
        state.ways = self.speculation.of_vcpu(domain.is_privileged(), state.spec_ctrl);
        self.part_predictions(cpu, &domain);
        state.loaded = self.memory.roots_to_load(&domain.memory, vcpu.id, state.user_root, state.kernel_root);
        state.selectors_wait = !self.machine().load(&state);
        if state.selectors_wait {
            vcpu.work.insert(Work::SELECTORS, Ordering::Relaxed);
        }
        self.release_state(cpu, last, Some(&domain));
        if state.traps_tsc {
            clock::publish(&state.info, self.time_info(&domain));
        } else {
            self.time.publish_if_lost(&state.info);
        }
        self.enter_runstate(&vcpu, now, || {
            vcpu.sched.is_running.store(true, Ordering::SeqCst);
            Some(RUNSTATE_RUNNING)
        });
        self.publish_runstate(&domain, &vcpu, &state);
        *current = Some(Current { domain, vcpu, state });
        true
    }

    /// What one guest taught the CPU to predict is forgotten before another runs there.
    fn part_predictions(&self, cpu: CpuId, domain: &Domain) {
        let is_another = self.cpu(cpu).is_some_and(|shared| shared.comes_from_another(domain.owner()));
        if is_another && self.speculation.switch_barrier {
            self.machine().write_msr(speculation::PRED_CMD, speculation::IBPB);
        }
    }

    /// A vcpu no longer runs, and its guest can read so.
    fn note_stopped(&self, domain: &Domain, vcpu: &Vcpu, state: &VcpuState, now: u64) {
        let has_stopped = self.enter_runstate(vcpu, now, || {
            vcpu.sched.is_running.swap(false, Ordering::SeqCst).then(|| {
                let why = vcpu.pauses.load(Ordering::SeqCst) - Pauses::MOVING;
                if why.is_empty() {
                    RUNSTATE_RUNNABLE
                } else if Pauses::WAITING.contains(why) {
                    RUNSTATE_BLOCKED
                } else {
                    RUNSTATE_OFFLINE
                }
            })
        });
        if has_stopped {
            self.publish_runstate(domain, vcpu, state);
        }
    }

    /// Takes what is the vcpu's out of the CPU, all but its root.
    fn deschedule(&self, current: &mut Option<Current>, regs: &Regs) -> Option<Current> {
        let mut last = current.take()?;
        last.state.regs = *regs;
        self.machine().save(&mut last.state);
        Some(last)
    }

    /// Another root is loaded, and with it every translation of the last one's domain is gone, unless it is `now`'s
    /// too: others may do with the vcpu and the domain as they like.
    fn release_state(&self, cpu: CpuId, last: Option<Current>, now: Option<&Arc<Domain>>) {
        let Some(Current { domain, vcpu, state }) = last else { return };
        if now.is_none_or(|now| !Arc::ptr_eq(now, &domain)) {
            self.memory.frames.tlb.leave(domain.owner(), bit(cpu));
        }
        *vcpu.slot.lock() = Some(state);
        if vcpu.pauses.load(Ordering::SeqCst).intersects(Pauses::MOVING) {
            self.finish_leaving(&domain, &vcpu);
        }
    }
}

const fn bit(cpu: CpuId) -> u64 {
    1 << (cpu.0 & 63)
}
