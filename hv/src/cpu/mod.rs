//! CPUs and the vcpus in their run queues: mechanism. Policy is the run queue's, and being wrong costs time, never
//! safety.
//!
//! Every vcpu that was created has a slot in the run queue of one CPU. It is ready when no bit of [`Vcpu::pauses`] is
//! set; whoever clears the last bit wakes it, whoever sets one for a vcpu that runs tells its CPU. A vcpu's state is in
//! its slot, or on the CPU in whose queue it is and nowhere else. [`crate::run`] is where a CPU decides; one without
//! work looks at the others' queues ([`balance`]), and a vcpu goes from one to another only while both are locked.

pub(crate) mod balance;
pub mod placement;
pub mod timers;

use crate::{
    Hypervisor,
    config::MAX_CPUS,
    domain::{
        Domain,
        vcpu::{Pauses, Vcpu},
    },
    hardware::CpuId,
    heap,
    lock::Lock,
    machine::Machine,
    per_cpu::{Occupant, Plan, SEATS, Work},
    sched::{
        deadlines::{Deadlines, NEVER, Place},
        run_queue::{Entity, RunQueue, Seat, Share, Woken},
        vcpu::NO_SEAT,
    },
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{errno::Errno, vcpu::RUNSTATE_RUNNABLE};

const _: () = assert!(MAX_CPUS <= 64, "affinities are words");

impl<M: Machine> Hypervisor<M> {
    /// Lets a CPU run guests.
    ///
    /// # Errors
    /// `NoMem` without memory for its seats, `Inval` for a CPU beyond the limit.
    pub fn bring_up_cpu(&self, cpu: CpuId) -> Result<(), Errno> {
        let shared = self.cpu(cpu).ok_or(Errno::Inval)?;
        let deadlines = Deadlines::new(heap::row(self.machine(), SEATS, |_| Place::EMPTY)?);
        let queue = RunQueue::new(heap::row(self.machine(), SEATS, |_| Entity::EMPTY)?);
        let occupants = heap::row(self.machine(), SEATS, |_| None)?;
        shared.deadlines.call_once(|| Lock::new(deadlines));
        shared.plan.call_once(|| Lock::new(Plan { queue, occupants }));
        Ok(())
    }

    /// Gives a vcpu a seat at the CPU that has the fewest, among those it may run on.
    ///
    /// # Errors
    /// `NoMem` when there is none left.
    pub fn admit_vcpu(&self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
        let (cpu, seat) = self.take_slot(domain, vcpu)?;
        vcpu.sched.set_seat(cpu, seat);
        Ok(())
    }

    /// Takes a seat for a vcpu, asleep; it has it when it knows so. CPUs that it would like go before others.
    fn take_slot(&self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) -> Result<(CpuId, Seat), Errno> {
        let allowed = vcpu.sched.allowed.load(Ordering::SeqCst);
        let liked = vcpu.sched.soft_affinity.load(Ordering::Relaxed);
        let taken = |cpu: &CpuId| self.cpu(*cpu).and_then(|c| c.plan.get()).map_or(SEATS, |p| p.lock().queue.taken());
        let rank = |cpu: &CpuId| (liked >> cpu.0 & 1 == 0, taken(cpu));
        let cpu = self.online_cpus().filter(|c| allowed >> c.0 & 1 != 0).min_by_key(rank).ok_or(Errno::NoMem)?;
        let plan = self.cpu(cpu).and_then(|c| c.plan.get()).ok_or(Errno::NoMem)?;
        let mut plan = plan.lock();
        let share = domain.share.lock();
        let seat = plan.queue.join(*share, domain.id.0).ok_or(Errno::NoMem)?;
        if let Some(place) = plan.occupants.get_mut(seat.index()) {
            *place = Some(Occupant { domain: domain.clone(), vcpu: vcpu.clone() });
        }
        Ok((cpu, seat))
    }

    /// Works on the plan in which the vcpu has its seat, which cannot move meanwhile. `None` if it has none.
    #[inline]
    fn with_run_queue_of<R>(&self, vcpu: &Vcpu, work: impl FnOnce(&mut Plan, CpuId, Seat) -> R) -> Option<R> {
        loop {
            let (cpu, seat) = vcpu.sched.seat()?;
            let mut plan = self.cpu(cpu)?.plan.get()?.lock();
            if vcpu.sched.seat() == Some((cpu, seat)) {
                return Some(work(&mut plan, cpu, seat));
            }
        }
    }

    /// Empties a seat. What is returned is to be dropped when the plan is no longer locked: it may be the last
    /// reference.
    fn detach(&self, plan: &mut Plan, cpu: CpuId, seat: Seat) -> Option<Occupant> {
        if let Some(deadlines) = self.cpu(cpu).and_then(|shared| shared.deadlines.get()) {
            deadlines.lock().set(seat, NEVER);
        }
        plan.queue.quit(seat);
        plan.occupants.get_mut(seat.index())?.take()
    }

    /// Takes a vcpu's seat away. It is paused and on no CPU (`wait_until_off`).
    pub fn unschedule_vcpu(&self, vcpu: &Vcpu) {
        // Nobody gives it another seat meanwhile.
        let pools = self.pools.lock();
        let gone = self.with_run_queue_of(vcpu, |plan, cpu, seat| {
            vcpu.sched.seat.store(NO_SEAT, Ordering::Release);
            self.detach(plan, cpu, seat)
        });
        drop(pools);
        drop(gone);
    }

    /// Whether a vcpu has its seat where it may run, or none.
    pub(crate) fn is_well_placed(&self, vcpu: &Vcpu) -> bool {
        // By the plan's lock: who moves it at this moment has looked at what was allowed before.
        let cpu = self.with_run_queue_of(vcpu, |_, cpu, _| cpu);
        cpu.is_none_or(|cpu| vcpu.sched.allowed.load(Ordering::SeqCst) >> cpu.0 & 1 != 0)
    }

    /// Moves a paused vcpu that is on no CPU to a CPU on which it may run, if it is not at one.
    ///
    /// # Errors
    /// `NoMem` when those have no seat left; the vcpu then stays where it is.
    pub fn migrate_vcpu(&self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
        if self.is_well_placed(vcpu) {
            return Ok(());
        }
        let (new_cpu, new_seat) = self.take_slot(domain, vcpu)?;
        let gone = self.with_run_queue_of(vcpu, |plan, cpu, seat| {
            vcpu.sched.set_seat(new_cpu, new_seat);
            self.detach(plan, cpu, seat)
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
            self.with_run_queue_of(vcpu, |plan, _, seat| plan.queue.set_share(seat, part));
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
            && let Some((cpu, _)) = vcpu.sched.seat()
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
        let woken = self.with_run_queue_of(vcpu, |plan, cpu, seat| {
            let woken = plan.queue.wake(seat);
            (woken, cpu, self.cpu(cpu).is_some_and(|shared| balance::note(shared, &plan.queue)))
        });
        let Some((woken, cpu, is_crowded)) = woken else { return };
        if woken != Woken::Before {
            vcpu.sched.runstate.lock().enter(RUNSTATE_RUNNABLE, self.now());
        }
        if woken == Woken::ChoiceDue {
            self.raise_work(cpu, Work::RESCHEDULE);
        }
        if is_crowded {
            self.offer_work(cpu, &vcpu.sched);
        }
    }

    /// Sets reasons not to run. A vcpu that runs goes on until its CPU heard of it; `wait_until_off` waits for that.
    pub fn pause_vcpu(&self, vcpu: &Vcpu, reasons: Pauses) {
        vcpu.pauses.insert(reasons, Ordering::SeqCst);
        // Its state may be on the CPU although it does not run there: the CPU may idle with it loaded. Where it has its
        // seat is asked afterwards: if it has moved since, its new CPU saw that it is paused.
        if vcpu.slot.lock().is_none()
            && let Some(cpu) = vcpu.sched.cpu()
        {
            self.raise_work(cpu, Work::RESCHEDULE);
        }
    }

    /// Waits until the state of a paused vcpu is back in its slot. Not for the vcpu that asks.
    pub fn wait_until_off(&self, vcpu: &Vcpu) {
        while vcpu.slot.lock().is_none() {
            self.machine().relax();
        }
    }
}
