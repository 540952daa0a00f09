//! CPUs and the vcpus in their run queues: mechanism. Policy is the run queue's, and being wrong costs time, never
//! safety.
//!
//! Every vcpu that was created is assigned to one CPU, and has an entity in its run queue. It is ready when no bit
//! of [`Vcpu::pauses`] is set; whoever clears the last bit wakes it, whoever sets one for a vcpu that runs tells
//! its CPU. A vcpu's state is in its slot, or on the CPU in whose queue it is and nowhere else. [`crate::run`] is
//! where a CPU decides; one without work looks at the others' queues ([`balance`]), and a vcpu goes from one to
//! another only while both are locked.

pub(crate) mod balance;
pub mod placement;
pub mod timers;

use crate::{
    Hypervisor,
    config::{CPU_PATIENCE, MAX_CPUS},
    domain::{
        Domain,
        vcpu::{Pauses, Vcpu},
    },
    hardware::CpuId,
    heap,
    lock::Lock,
    machine::Machine,
    per_cpu::{CpuSched, MAX_ENTITIES, Unit, Work},
    sched::{
        deadlines::{Deadlines, NEVER, Place},
        run_queue::{Entity, EntityId, RunQueue, Share, Woken},
        vcpu::UNASSIGNED,
    },
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    trace::{TRC_SCHED_BLOCK, TRC_SCHED_RUNSTATE_CHANGE, TRC_SCHED_WAKE, vcpu_and_domain},
    vcpu::{RUNSTATE_BLOCKED, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING},
};

const _: () = assert!(MAX_CPUS <= 64, "affinities are words");

/// Who waits may hold what others need, and the vcpu's domain can neither run nor end.
#[cold]
#[expect(clippy::panic, reason = "a CPU is lost, which only a fault of the machine or a bug causes")]
fn never_off(domain: &Domain, vcpu: &Vcpu) -> ! {
    let cpu = vcpu.sched.cpu().map_or(u16::MAX, |cpu| cpu.0);
    panic!("CPU {cpu} has not let go of {}v{}, which is paused, for {CPU_PATIENCE} s", domain.id, vcpu.id);
}

impl<M: Machine> Hypervisor<M> {
    /// Lets a CPU run guests.
    ///
    /// # Errors
    /// `NoMem` without memory for its run queue, `Inval` for a CPU beyond the limit.
    pub fn bring_up_cpu(&self, cpu: CpuId) -> Result<(), Errno> {
        let shared = self.cpu(cpu).ok_or(Errno::Inval)?;
        let deadlines = Deadlines::new(heap::row(self.machine(), MAX_ENTITIES, |_| Place::EMPTY)?);
        let queue = RunQueue::new(heap::row(self.machine(), MAX_ENTITIES, |_| Entity::EMPTY)?);
        let units = heap::row(self.machine(), MAX_ENTITIES, |_| None)?;
        shared.deadlines.call_once(|| Lock::new(deadlines));
        shared.sched.call_once(|| Lock::new(CpuSched { queue, units }));
        Ok(())
    }

    /// Assigns a vcpu to the CPU that has the fewest, among those it may run on.
    ///
    /// # Errors
    /// `NoMem` when there is none left.
    pub fn admit_vcpu(&self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
        let (cpu, id) = self.take_entity(domain, vcpu)?;
        vcpu.sched.assign(cpu, id);
        Ok(())
    }

    /// Takes an entity in a run queue for a vcpu, asleep; it has it when it knows so. CPUs that
    /// it would like go before others.
    fn take_entity(&self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) -> Result<(CpuId, EntityId), Errno> {
        let allowed = vcpu.sched.allowed.load(Ordering::SeqCst);
        let liked = vcpu.sched.soft_affinity.load(Ordering::Relaxed);
        let taken =
            |cpu: &CpuId| self.cpu(*cpu).and_then(|c| c.sched.get()).map_or(MAX_ENTITIES, |p| p.lock().queue.taken());
        let rank = |cpu: &CpuId| (liked >> cpu.0 & 1 == 0, taken(cpu));
        let cpu = self.online_cpus().filter(|c| allowed >> c.0 & 1 != 0).min_by_key(rank).ok_or(Errno::NoMem)?;
        let sched = self.cpu(cpu).and_then(|c| c.sched.get()).ok_or(Errno::NoMem)?;
        let mut sched = sched.lock();
        let share = domain.share.lock();
        let id = sched.queue.join(*share, domain.id.0).ok_or(Errno::NoMem)?;
        if let Some(place) = sched.units.get_mut(id.index()) {
            *place = Some(Unit { domain: domain.clone(), vcpu: vcpu.clone() });
        }
        Ok((cpu, id))
    }

    /// Works on the run queue that has the vcpu's entity, which cannot move meanwhile. `None` if none has.
    #[inline]
    fn with_run_queue_of<R>(&self, vcpu: &Vcpu, work: impl FnOnce(&mut CpuSched, CpuId, EntityId) -> R) -> Option<R> {
        loop {
            let (cpu, id) = vcpu.sched.assignment()?;
            let mut sched = self.cpu(cpu)?.sched.get()?.lock();
            if vcpu.sched.assignment() == Some((cpu, id)) {
                return Some(work(&mut sched, cpu, id));
            }
        }
    }

    /// Gives an entity back. What is returned is to be dropped when the queue is no longer locked: it may be the last
    /// reference.
    fn detach(&self, sched: &mut CpuSched, cpu: CpuId, id: EntityId) -> Option<Unit> {
        if let Some(deadlines) = self.cpu(cpu).and_then(|shared| shared.deadlines.get()) {
            deadlines.lock().set(id, NEVER);
        }
        sched.queue.quit(id);
        sched.units.get_mut(id.index())?.take()
    }

    /// Assigns a vcpu to no CPU any more. It is paused and on no CPU (`wait_until_off`).
    pub fn unschedule_vcpu(&self, vcpu: &Vcpu) {
        // Nobody assigns it anew meanwhile.
        let pools = self.pools.lock();
        let gone = self.with_run_queue_of(vcpu, |sched, cpu, id| {
            vcpu.sched.assignment.store(UNASSIGNED, Ordering::Release);
            self.detach(sched, cpu, id)
        });
        drop(pools);
        drop(gone);
    }

    /// Whether a vcpu is assigned to a CPU that it may run on, or to none.
    pub(crate) fn is_well_placed(&self, vcpu: &Vcpu) -> bool {
        // By the queue's lock: who moves it at this moment has looked at what was allowed before.
        let cpu = self.with_run_queue_of(vcpu, |_, cpu, _| cpu);
        cpu.is_none_or(|cpu| vcpu.sched.allowed.load(Ordering::SeqCst) >> cpu.0 & 1 != 0)
    }

    /// Moves a paused vcpu that is on no CPU to a CPU on which it may run, if it is not at one.
    ///
    /// # Errors
    /// `NoMem` when their run queues are full; the vcpu then stays where it is.
    pub fn migrate_vcpu(&self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
        if self.is_well_placed(vcpu) {
            return Ok(());
        }
        let (new_cpu, new_id) = self.take_entity(domain, vcpu)?;
        let gone = self.with_run_queue_of(vcpu, |sched, cpu, id| {
            vcpu.sched.assign(new_cpu, new_id);
            self.detach(sched, cpu, id)
        });
        drop(gone);
        self.refresh_deadline(vcpu);
        Ok(())
    }

    /// Gives the vcpus of a domain their part anew.
    pub fn set_share(&self, domain: &Domain, share: Share) {
        *domain.share.lock() = share;
        let count = domain.each_vcpu().count().clamp(1, usize::from(u16::MAX)) as u16;
        // The cap is the domain's, so each vcpu has its part of it.
        let part = Share { cap: share.cap.div_ceil(count), ..share };
        for vcpu in domain.each_vcpu() {
            self.with_run_queue_of(vcpu, |sched, _, id| sched.queue.set_share(id, part));
        }
    }

    /// Sets work for a CPU, and lets it look if it is another one.
    #[inline]
    pub fn raise_work(&self, cpu: CpuId, work: Work) {
        let Some(shared) = self.cpu(cpu) else { return };
        shared.work.insert(work, Ordering::SeqCst);
        if cpu != self.machine().this_cpu() {
            self.machine().kick(cpu);
        }
    }

    /// An event (or an NMI, or a polled port) waits for the vcpu: ends its waiting, and lets the CPU that runs it look.
    /// Call it after the event was made visible in `vcpu_info`.
    #[inline]
    pub fn wake_vcpu(&self, vcpu: &Vcpu) {
        if vcpu.pauses.load(Ordering::SeqCst).intersects(Pauses::WAITING) {
            return self.unpause_vcpu(vcpu, Pauses::WAITING);
        }
        if vcpu.sched.is_running()
            && let Some((cpu, _)) = vcpu.sched.assignment()
            && cpu != self.machine().this_cpu()
        {
            self.machine().kick(cpu);
        }
    }

    /// Clears reasons not to run; the vcpu becomes ready with the last one.
    pub fn unpause_vcpu(&self, vcpu: &Vcpu, reasons: Pauses) {
        let old = vcpu.pauses.remove(reasons, Ordering::SeqCst);
        if !old.intersects(reasons) || !reasons.contains(old) {
            return;
        }
        let woken = self.with_run_queue_of(vcpu, |sched, cpu, id| {
            let woken = sched.queue.wake(id);
            // Before it can be chosen.
            if woken != Woken::Before {
                let is_off = || (!vcpu.sched.is_running()).then_some(RUNSTATE_RUNNABLE);
                self.enter_runstate(vcpu, self.now(), is_off);
            }
            (woken, cpu, self.cpu(cpu).is_some_and(|shared| balance::note(shared, &sched.queue)))
        });
        let Some((woken, cpu, is_crowded)) = woken else { return };
        if woken == Woken::ChoiceDue {
            self.raise_work(cpu, Work::RESCHEDULE);
        }
        if is_crowded {
            self.offer_work(cpu, &vcpu.sched);
        }
    }

    /// A vcpu enters the `RUNSTATE_*` that `decide` says, if it says one; returns whether. It is asked under the lock,
    /// as everybody is who sets or clears `is_running`: who wakes a vcpu and the CPU that leaves it do not mistake each
    /// other's word for the last.
    #[inline(always)]
    pub(crate) fn enter_runstate(&self, vcpu: &Vcpu, now: u64, decide: impl FnOnce() -> Option<i32>) -> bool {
        let mut runstate = vcpu.sched.runstate.lock();
        let Some(state) = decide() else { return false };
        let before = runstate.enter(state, now);
        drop(runstate);
        if self.is_traced() {
            self.note_runstate(vcpu.id, vcpu.domain, before, state);
        }
        true
    }

    /// Notes that a vcpu of a domain goes from one `RUNSTATE_*` to another.
    #[cold]
    #[inline(never)]
    pub(crate) fn note_runstate(&self, vcpu: u32, domain: DomId, before: i32, state: i32) {
        let who = vcpu_and_domain(vcpu, domain);
        let pair = [domain.0.into(), vcpu];
        match state {
            RUNSTATE_RUNNING => self.trace.run(self.machine().this_cpu(), who),
            RUNSTATE_BLOCKED => self.note_words(TRC_SCHED_BLOCK, &pair),
            RUNSTATE_RUNNABLE if before == RUNSTATE_BLOCKED => self.note_words(TRC_SCHED_WAKE, &pair),
            _ => {}
        }
        let states = (before as u32 & 3) << 8 | (state as u32 & 3) << 4;
        self.note_words(TRC_SCHED_RUNSTATE_CHANGE | states, &[who]);
    }

    /// Sets reasons not to run. A vcpu that runs goes on until its CPU heard of it; `wait_until_off` waits for that.
    pub fn pause_vcpu(&self, vcpu: &Vcpu, reasons: Pauses) {
        vcpu.pauses.insert(reasons, Ordering::SeqCst);
        // Its state may be on the CPU although it does not run there: the CPU may idle with it loaded. Where it has its
        // entity is asked afterwards: if it has moved since, its new CPU saw that it is paused.
        if vcpu.slot.lock().is_none()
            && let Some(cpu) = vcpu.sched.cpu()
        {
            self.raise_work(cpu, Work::RESCHEDULE);
        }
    }

    /// Waits until the state of a paused vcpu is back in its slot. Not for the vcpu that asks.
    ///
    /// # Panics
    /// When its CPU has not let go of it for so long that it is lost: the machine cannot go on then.
    pub fn wait_until_off(&self, domain: &Domain, vcpu: &Vcpu) {
        let machine = self.machine();
        let limit = machine.ticks().saturating_add(machine.frequency().saturating_mul(CPU_PATIENCE));
        while vcpu.slot.lock().is_none() {
            machine.relax();
            if machine.ticks() > limit {
                never_off(domain, vcpu);
            }
        }
    }
}
