//! Who runs where, and until when: mechanism. Policy is the run queue's, and being wrong costs time, never safety.
//!
//! Every vcpu that was created has a seat at one CPU. It is ready when no bit of [`Vcpu::pauses`] is set; whoever clears
//! the last bit wakes it, whoever sets one for a vcpu that runs tells its CPU. A vcpu's state is in its slot, or on the
//! CPU of its seat and nowhere else. [`switch::leave`] is where a CPU decides; one without work looks at the others'
//! (`balance`), and a seat moves only while both plans are locked.

mod balance;
pub mod clock;
pub mod deadlines;
pub mod placement;
pub mod pools;
pub mod run_queue;
pub mod runstate;
pub mod switch;
pub mod timers;
mod vcpu;
pub mod wait;

use crate::{
    Hypervisor,
    config::MAX_CPUS,
    domain::{
        Domain,
        vcpu::{Vcpu, pause},
    },
    heap,
    lock::{Lock, rank},
    machine::{CpuId, Machine},
};
use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use deadlines::{Deadlines, NEVER, Place};
use oxen_abi::{errno::Errno, vcpu::RUNSTATE_RUNNABLE};
use run_queue::{Entity, RunQueue, Seat, Share, Woken};
use spin::Once;
use vcpu::NO_SEAT;
pub use vcpu::VcpuSched;

/// Bits of [`crate::domain::vcpu::Vcpu::work`] and [`CpuShared::work`].
pub mod work {
    /// Another vcpu may have to run.
    pub const RESCHEDULE: u32 = 1 << 0;
    /// Deadlines may have passed.
    pub const TIMER: u32 = 1 << 1;
    /// An NMI waits for the vcpu.
    pub const NMI: u32 = 1 << 2;
    /// The vcpu that runs lets others go first.
    pub const YIELD: u32 = 1 << 3;
    /// The CPU did not take the vcpu's selectors.
    pub const SELECTORS: u32 = 1 << 4;
}

/// Vcpus that one CPU can have.
pub const SEATS: usize = 512;

/// What a physical CPU shares with the others.
#[derive(Debug)]
pub struct CpuShared {
    /// Things to do before guest code runs again on this CPU: bits of [`work`].
    pub work: AtomicU32,
    /// The TLB clock when this CPU last flushed everything.
    pub last_flush: AtomicU32,
    /// Who has a seat here; set when the CPU is brought up.
    plan: Once<Lock<Plan, { rank::RUN_QUEUE }>>,
    deadlines: Once<Lock<Deadlines, { rank::DEADLINES }>>,
    /// When the running vcpu's turn ends, in nanoseconds of system time.
    slice_end: AtomicU64,
    /// For when the timer is armed, in nanoseconds of system time.
    armed: AtomicU64,
    /// Whether others may find work here; a hint, for who then locks the plan.
    is_crowded: AtomicBool,
    /// Nanoseconds without anything to do.
    idle_time: AtomicU64,
}

/// The seats of a CPU, and who has them.
#[derive(Debug)]
struct Plan {
    queue: RunQueue,
    occupants: Box<[Option<Occupant>]>,
}

#[derive(Clone, Debug)]
struct Occupant {
    domain: Arc<Domain>,
    vcpu: Arc<Vcpu>,
}

impl CpuShared {
    /// A CPU that does not run guests yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            work: AtomicU32::new(0),
            last_flush: AtomicU32::new(0),
            plan: Once::new(),
            deadlines: Once::new(),
            slice_end: AtomicU64::new(NEVER),
            armed: AtomicU64::new(NEVER),
            is_crowded: AtomicBool::new(false),
            idle_time: AtomicU64::new(0),
        }
    }

    /// Nanoseconds that this CPU had nothing to do.
    #[must_use]
    pub fn idle_time(&self) -> u64 {
        self.idle_time.load(Ordering::Relaxed)
    }

    /// Whether this CPU runs guests.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.plan.is_completed()
    }
}

impl Default for CpuShared {
    fn default() -> Self {
        Self::new()
    }
}

/// Time and waiting, asked of the machine.
pub trait Clock {
    /// The time stamp counter.
    fn ticks(&self) -> u64;
    /// Ticks per second.
    fn frequency(&self) -> u64;
    /// Arms this CPU's timer for a moment in ticks; replaces what was armed.
    fn arm(&self, deadline: u64);
    /// Lets another CPU look at its work.
    fn kick(&self, cpu: CpuId);
    /// Waits until an interrupt came in.
    fn idle(&self);
    /// Waits a little for another CPU, and serves what others ask of this one meanwhile.
    fn relax(&self) {
        core::hint::spin_loop();
    }
    /// Seconds and nanoseconds since 1970 when the time stamp counter was 0, by the machine's battery clock.
    fn wall_clock_at_boot(&self) -> (u64, u32);
}

/// The machine's own end. On a real machine neither returns.
pub trait Power {
    /// Switches the machine off.
    fn power_off(&self);
    /// Starts the machine anew.
    fn reboot(&self);
    /// Ends after the control domain's crash, so that it is noticed.
    fn fail(&self);
}

impl<M: Machine> Hypervisor<M> {
    /// What this CPU shares with the others.
    #[inline]
    #[must_use]
    pub fn cpu(&self, cpu: CpuId) -> Option<&CpuShared> {
        self.cpus.get(usize::from(cpu.0))
    }

    /// The CPUs that run guests.
    pub fn online_cpus(&self) -> impl Iterator<Item = CpuId> {
        let numbered = (0_u16..).zip(&self.cpus);
        numbered.filter(|(_, shared)| shared.is_online()).map(|(n, _)| CpuId(n))
    }

    /// Nanoseconds since the hypervisor started.
    #[inline]
    #[must_use]
    pub fn now(&self) -> u64 {
        self.time.now(&self.machine)
    }
}

const _: () = assert!(MAX_CPUS <= 64, "affinities are words");

/// Lets a CPU run guests.
///
/// # Errors
/// `NoMem` without memory for its seats, `Inval` for a CPU beyond the limit.
pub fn bring_up<M: Machine>(hv: &Hypervisor<M>, cpu: CpuId) -> Result<(), Errno> {
    let shared = hv.cpu(cpu).ok_or(Errno::Inval)?;
    let deadlines = Deadlines::new(heap::row(&hv.machine, SEATS, |_| Place::EMPTY)?);
    let queue = RunQueue::new(heap::row(&hv.machine, SEATS, |_| Entity::EMPTY)?);
    let occupants = heap::row(&hv.machine, SEATS, |_| None)?;
    shared.deadlines.call_once(|| Lock::new(deadlines));
    shared.plan.call_once(|| Lock::new(Plan { queue, occupants }));
    Ok(())
}

/// Gives a vcpu a seat at the CPU that has the fewest, among those it may run on.
///
/// # Errors
/// `NoMem` when there is none left.
pub fn admit<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
    let (cpu, seat) = take_seat(hv, domain, vcpu)?;
    vcpu.sched.set_seat(cpu, seat);
    Ok(())
}

/// Takes a seat for a vcpu, asleep; it has it when it knows so. CPUs that it would like go before others.
fn take_seat<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) -> Result<(CpuId, Seat), Errno> {
    let allowed = vcpu.sched.allowed.load(Ordering::SeqCst);
    let liked = vcpu.sched.soft_affinity.load(Ordering::Relaxed);
    let taken = |cpu: &CpuId| hv.cpu(*cpu).and_then(|c| c.plan.get()).map_or(SEATS, |p| p.lock().queue.taken());
    let rank = |cpu: &CpuId| (liked >> cpu.0 & 1 == 0, taken(cpu));
    let cpu = hv.online_cpus().filter(|c| allowed >> c.0 & 1 != 0).min_by_key(rank).ok_or(Errno::NoMem)?;
    let plan = hv.cpu(cpu).and_then(|c| c.plan.get()).ok_or(Errno::NoMem)?;
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
fn at_seat<M: Machine, R>(
    hv: &Hypervisor<M>,
    vcpu: &Vcpu,
    work: impl FnOnce(&mut Plan, CpuId, Seat) -> R,
) -> Option<R> {
    loop {
        let (cpu, seat) = vcpu.sched.seat()?;
        let mut plan = hv.cpu(cpu)?.plan.get()?.lock();
        if vcpu.sched.seat() == Some((cpu, seat)) {
            return Some(work(&mut plan, cpu, seat));
        }
    }
}

/// Empties a seat. What is returned is to be dropped when the plan is no longer locked: it may be the last reference.
fn vacate<M: Machine>(hv: &Hypervisor<M>, plan: &mut Plan, cpu: CpuId, seat: Seat) -> Option<Occupant> {
    if let Some(deadlines) = hv.cpu(cpu).and_then(|shared| shared.deadlines.get()) {
        deadlines.lock().set(seat, NEVER);
    }
    plan.queue.quit(seat);
    plan.occupants.get_mut(seat.index())?.take()
}

/// Takes a vcpu's seat away. It is paused and on no CPU ([`wait_until_off`]).
pub fn dismiss<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu) {
    // Nobody gives it another seat meanwhile.
    let pools = hv.pools.lock();
    let gone = at_seat(hv, vcpu, |plan, cpu, seat| {
        vcpu.sched.seat.store(NO_SEAT, Ordering::Release);
        vacate(hv, plan, cpu, seat)
    });
    drop(pools);
    drop(gone);
}

/// Whether a vcpu has its seat where it may run, or none.
pub(crate) fn is_well_placed<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu) -> bool {
    // By the plan's lock: who moves it at this moment has looked at what was allowed before.
    let cpu = at_seat(hv, vcpu, |_, cpu, _| cpu);
    cpu.is_none_or(|cpu| vcpu.sched.allowed.load(Ordering::SeqCst) >> cpu.0 & 1 != 0)
}

/// Moves a paused vcpu that is on no CPU to a CPU on which it may run, if it is not at one.
///
/// # Errors
/// `NoMem` when those have no seat left; the vcpu then stays where it is.
pub fn reseat<M: Machine>(hv: &Hypervisor<M>, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
    if is_well_placed(hv, vcpu) {
        return Ok(());
    }
    let (new_cpu, new_seat) = take_seat(hv, domain, vcpu)?;
    let gone = at_seat(hv, vcpu, |plan, cpu, seat| {
        vcpu.sched.set_seat(new_cpu, new_seat);
        vacate(hv, plan, cpu, seat)
    });
    drop(gone);
    timers::refresh(hv, vcpu);
    Ok(())
}

/// Gives the vcpus of a domain their part anew.
pub fn set_share<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, share: Share) {
    *domain.share.lock() = share;
    let count = domain.each_vcpu().count().clamp(1, usize::from(u16::MAX)) as u16;
    // The cap is the domain's, so each vcpu has its part of it.
    let part = Share { cap: share.cap.div_ceil(count), ..share };
    for vcpu in domain.each_vcpu() {
        at_seat(hv, vcpu, |plan, _, seat| plan.queue.set_share(seat, part));
    }
}

/// Sets work for a CPU, and lets it look if it is another one.
#[inline]
pub fn tell<M: Machine>(hv: &Hypervisor<M>, cpu: CpuId, bits: u32) {
    let Some(shared) = hv.cpu(cpu) else { return };
    shared.work.fetch_or(bits, Ordering::SeqCst);
    if cpu != hv.machine.this_cpu() {
        hv.machine.kick(cpu);
    }
}

/// An event (or an NMI, or a polled port) waits for the vcpu: ends its waiting, and lets the CPU that runs it look. To be called after
/// the event was made visible in `vcpu_info`.
#[inline]
pub fn wake<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu) {
    if vcpu.pauses.load(Ordering::SeqCst) & pause::WAITING != 0 {
        return unpause(hv, vcpu, pause::WAITING);
    }
    if vcpu.sched.is_running()
        && let Some((cpu, _)) = vcpu.sched.seat()
        && cpu != hv.machine.this_cpu()
    {
        hv.machine.kick(cpu);
    }
}

/// Clears reasons not to run; the vcpu becomes ready with the last one.
pub fn unpause<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu, bits: u32) {
    let old = vcpu.pauses.fetch_and(!bits, Ordering::SeqCst);
    if old & bits == 0 || old & !bits != 0 {
        return;
    }
    let woken = at_seat(hv, vcpu, |plan, cpu, seat| {
        let woken = plan.queue.wake(seat);
        (woken, cpu, hv.cpu(cpu).is_some_and(|shared| balance::note(shared, &plan.queue)))
    });
    let Some((woken, cpu, is_crowded)) = woken else { return };
    if woken != Woken::Before {
        vcpu.sched.runstate.lock().enter(RUNSTATE_RUNNABLE, hv.now());
    }
    if woken == Woken::ChoiceDue {
        tell(hv, cpu, work::RESCHEDULE);
    }
    if is_crowded {
        balance::offer(hv, cpu, &vcpu.sched);
    }
}

/// Sets reasons not to run. A vcpu that runs goes on until its CPU heard of it; [`wait_until_off`] waits for that.
pub fn pause<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu, bits: u32) {
    vcpu.pauses.fetch_or(bits, Ordering::SeqCst);
    // Its state may be on the CPU although it does not run there: the CPU may idle with it loaded. Where it has its seat is
    // asked afterwards: if it has moved since, its new CPU saw that it is paused.
    if vcpu.slot.lock().is_none()
        && let Some(cpu) = vcpu.sched.cpu()
    {
        tell(hv, cpu, work::RESCHEDULE);
    }
}

/// Waits until the state of a paused vcpu is back in its slot. Not for the vcpu that asks.
pub fn wait_until_off<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu) {
    while vcpu.slot.lock().is_none() {
        hv.machine.relax();
    }
}
