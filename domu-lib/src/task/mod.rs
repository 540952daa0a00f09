//! Tasks: one executor for the one vcpu that runs a guest's code.
//!
//! Nothing is interrupted: events stay masked while tasks run, and are looked at between tasks and while the guest has
//! nothing to do. A task may therefore hold `Rc`s and `RefCell`s across its awaits.
//!
//! A task works for somebody: for whom [`spawn_for`] says, or for whom its spawner works. Who has used least of the
//! time comes first, so whoever has much to do takes nothing from those who have little, beyond one piece of it
//! ([`yield_now`] ends a piece). Of one's own tasks, those that were woken run before those that would merely go on.
//!
//! # Example
//!
//! ```
//! use oxen_domu_lib::task;
//!
//! let (left, right) = task::run(async {
//!     let work = task::spawn(async { 6 * 7 });
//!     task::join(work, async {
//!         task::yield_now().await;
//!         "done"
//!     })
//!     .await
//! });
//! assert_eq!((left, right), (42, "done"));
//! ```

mod queues;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};

use crate::raw::local::local;
use queues::Queues;

type Local = Pin<Box<dyn Future<Output = ()>>>;

/// Polls between two looks at events.
const PIECES: usize = 4;

/// Wakers are shared, so this is the part that is locked.
type Ready = Arc<spin::Mutex<Queues>>;

struct Signal {
    id: u64,
    owner: u16,
    ready: Ready,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.ready.lock().add(self.id, self.owner);
    }
}

/// A task, for whom it works, and what wakes it.
struct Task {
    future: Local,
    owner: u16,
    waker: Waker,
}

/// All tasks but the one that is being polled.
#[derive(Default)]
struct Executor {
    tasks: RefCell<BTreeMap<u64, Task>>,
    ready: Ready,
    next: Cell<u64>,
    /// What is being polled, outermost first, and whether it was woken meanwhile. More than one where a task calls
    /// [`run`] itself.
    running: RefCell<Vec<(u64, bool)>>,
    /// For whom the innermost of these works.
    owner: Cell<u16>,
}

impl Executor {
    fn fresh(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// The next task that can be polled. What is being polled already is noted as woken; where that is the innermost
    /// [`run`]'s own future, its turn has come.
    fn next_ready(&self) -> Option<u64> {
        loop {
            let id = self.ready.lock().next()?;
            let mut running = self.running.borrow_mut();
            let Some(place) = running.iter().position(|(running, _)| *running == id) else { return Some(id) };
            let is_innermost = place + 1 == running.len();
            if let Some((_, woken)) = running.get_mut(place) {
                *woken = true;
            }
            if is_innermost {
                return None;
            }
        }
    }

    fn enter(&self, id: u64) {
        self.running.borrow_mut().push((id, false));
    }

    /// Ends the poll that was entered last; returns whether it was woken by who it ran inside.
    fn leave(&self) -> bool {
        self.running.borrow_mut().pop().is_some_and(|(_, woken)| woken)
    }

    /// Whether the innermost [`run`]'s own future was woken; takes the note away.
    fn take_woken(&self) -> bool {
        self.running.borrow_mut().last_mut().is_some_and(|(_, woken)| core::mem::take(woken))
    }

    fn add(&self, owner: u16, future: Local) -> u64 {
        let id = self.fresh();
        let waker = Waker::from(Arc::new(Signal { id, owner, ready: self.ready.clone() }));
        self.tasks.borrow_mut().insert(id, Task { future, owner, waker: waker.clone() });
        waker.wake();
        id
    }
}

local!(static EXECUTOR: Executor = Executor::default());
local!(static ON_LONG_PIECE: Cell<Option<fn(u16, u64)>> = Cell::new(None));

/// What a task does at once and is too long, in nanoseconds.
const LONG_PIECE: u64 = crate::time::SECOND;

/// Says who is told of each piece of a task that let nobody else run for over a second: for whom it worked, and how
/// many nanoseconds.
pub fn on_long_piece(told: fn(u16, u64)) {
    ON_LONG_PIECE.with(|place| place.set(Some(told)));
}

/// The result of a task, when it has one.
struct Slot<T> {
    value: Option<T>,
    waiter: Option<Waker>,
    done: bool,
}

/// What is left of a spawned task: await it for its result. Dropping it leaves the task running.
pub struct JoinHandle<T> {
    slot: Rc<RefCell<Slot<T>>>,
    id: u64,
}

impl<T> JoinHandle<T> {
    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.slot.borrow().done
    }

    /// Ends the task where it waits: its future is dropped before this returns. A task that is being polled, the
    /// current one or one that it runs inside, is left alone.
    pub fn cancel(self) {
        let task = EXECUTOR.with(|executor| executor.tasks.borrow_mut().remove(&self.id));
        // What the future holds may wake or start others when it goes.
        drop(task);
    }
}

impl<T> core::fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.slot.borrow_mut();
        if let Some(value) = slot.value.take() {
            return Poll::Ready(value);
        }
        slot.waiter = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Starts a task, which works for whom the current one works; it runs when the current one waits.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    spawn_for(EXECUTOR.with(|executor| executor.owner.get()), future)
}

/// Starts a task that works for `owner`, a number of the caller's choice; what starts all others works for 0.
pub fn spawn_for<T: 'static>(owner: u16, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    let slot = Rc::new(RefCell::new(Slot { value: None, waiter: None, done: false }));
    let result = slot.clone();
    let task = async move {
        let value = future.await;
        let mut slot = result.borrow_mut();
        slot.value = Some(value);
        slot.done = true;
        if let Some(waiter) = slot.waiter.take() {
            waiter.wake();
        }
    };
    let id = EXECUTOR.with(|executor| executor.add(owner, Box::pin(task)));
    JoinHandle { slot, id }
}

/// Gives `owner`'s tasks time by this weight, relative to others: 256 is the usual one.
pub fn set_weight(owner: u16, weight: u16) {
    EXECUTOR.with(|executor| executor.ready.lock().set_weight(owner, weight));
}

/// Polls some of the tasks that are ready; returns whether there was any.
fn turn() -> bool {
    (0..PIECES).take_while(|_| poll_next()).count() != 0
}

/// Polls the next task, if there is one.
fn poll_next() -> bool {
    let Some(id) = EXECUTOR.with(Executor::next_ready) else { return false };
    // The task is out of the table while it runs, so that it may spawn others.
    let taken = EXECUTOR.with(|executor| executor.tasks.borrow_mut().remove(&id));
    let Some(mut task) = taken else { return true };
    let spawner = EXECUTOR.with(|executor| {
        executor.enter(id);
        executor.owner.replace(task.owner)
    });
    let (begun, stops) = (crate::raw::machine::tsc(), crate::lives::stops());
    let pending = task.future.as_mut().poll(&mut Context::from_waker(&task.waker)).is_pending();
    // What passed while the whole guest was stopped is nobody's.
    let was_stopped = crate::lives::stops() != stops;
    let ticks = if was_stopped { 0 } else { crate::raw::machine::tsc().saturating_sub(begun) };
    if let Some(nanoseconds) = crate::time::long(ticks, LONG_PIECE)
        && let Some(told) = ON_LONG_PIECE.with(Cell::get)
    {
        told(task.owner, nanoseconds);
    }
    let woken = EXECUTOR.with(|executor| {
        executor.owner.set(spawner);
        executor.ready.lock().charge(task.owner, ticks);
        executor.leave()
    });
    if pending {
        let waker = task.waker.clone();
        EXECUTOR.with(|executor| executor.tasks.borrow_mut().insert(id, task));
        if woken {
            waker.wake();
        }
    }
    true
}

/// Runs `main` and every task until `main` ends, and blocks the vcpu while there is nothing to do.
///
/// Tasks that are left stay where they are: a later `run` continues them. A task may call `run` itself, to wait in code
/// that cannot be async; what it runs inside waits with it.
pub fn run<T>(main: impl Future<Output = T>) -> T {
    // The main future may borrow its caller's values, so it is polled here instead of standing in the table.
    let mut main = pin!(main);
    let (id, ready) = EXECUTOR.with(|executor| (executor.fresh(), executor.ready.clone()));
    let owner = EXECUTOR.with(|executor| executor.owner.get());
    let waker = Waker::from(Arc::new(Signal { id, owner, ready }));
    EXECUTOR.with(|executor| executor.enter(id));
    loop {
        if let Poll::Ready(value) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
            EXECUTOR.with(Executor::leave);
            return value;
        }
        loop {
            crate::event::collect();
            crate::time::fire();
            let ran = turn();
            if EXECUTOR.with(Executor::take_woken) {
                break;
            }
            if !ran {
                crate::time::arm();
                crate::event::wait_for_any();
            }
        }
    }
}

/// Lets others run first: all whose owners have used less time, and all of the same owner's that are ready.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        EXECUTOR.with(|executor| executor.ready.lock().is_yielding = true);
        context.waker().wake_by_ref();
        EXECUTOR.with(|executor| executor.ready.lock().is_yielding = false);
        Poll::Pending
    })
    .await;
}

/// The result of whichever of two futures ended first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first one.
    First(A),
    /// The second one.
    Second(B),
}

/// Waits for the first of two futures and drops the other; where both are ready, the first wins.
pub async fn select<A: Future, B: Future>(first: A, second: B) -> Either<A::Output, B::Output> {
    let mut first = pin!(first);
    let mut second = pin!(second);
    poll_fn(|context| {
        if let Poll::Ready(value) = first.as_mut().poll(context) {
            return Poll::Ready(Either::First(value));
        }
        second.as_mut().poll(context).map(Either::Second)
    })
    .await
}

/// Waits for both futures.
pub async fn join<A: Future, B: Future>(first: A, second: B) -> (A::Output, B::Output) {
    let mut first = pin!(first);
    let mut second = pin!(second);
    let (mut a, mut b) = (None, None);
    poll_fn(|context| {
        if a.is_none()
            && let Poll::Ready(value) = first.as_mut().poll(context)
        {
            a = Some(value);
        }
        if b.is_none()
            && let Poll::Ready(value) = second.as_mut().poll(context)
        {
            b = Some(value);
        }
        match (a.take(), b.take()) {
            (Some(first), Some(second)) => Poll::Ready((first, second)),
            (first, second) => {
                (a, b) = (first, second);
                Poll::Pending
            }
        }
    })
    .await
}

/// The time given to a future was over before it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Waits for `future`, but no longer than `nanoseconds`.
///
/// # Errors
/// [`Elapsed`] when the time was over first.
pub async fn timeout<F: Future>(nanoseconds: u64, future: F) -> Result<F::Output, Elapsed> {
    match select(future, crate::time::sleep(nanoseconds)).await {
        Either::First(value) => Ok(value),
        Either::Second(()) => Err(Elapsed),
    }
}

#[cfg(test)]
mod tests;
