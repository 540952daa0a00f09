//! Runs of a model: first those that find which atomics take part, then those in which loom has them.

use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Steps of all threads in one run at most: more is a wait without end.
const MAX_STEPS: usize = 20_000;

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// None is: atomics are plain.
    Outside,
    /// To find the atomics that take part, each operation a point at which threads may change.
    Search,
    /// To try what those may show.
    Trial,
}

static PHASE: Mutex<Phase> = Mutex::new(Phase::Outside);
/// The number of the run.
static RUN: AtomicU64 = AtomicU64::new(0);
static TAKING_PART: Mutex<Vec<Arc<dyn Part>>> = Mutex::new(Vec::new());
/// At which threads change while atomics are searched for.
static POINT: Mutex<Option<Arc<loom::sync::atomic::AtomicUsize>>> = Mutex::new(None);
/// The threads of this run that have begun, and their numbers.
static THREADS: Mutex<Vec<(loom::thread::ThreadId, usize)>> = Mutex::new(Vec::new());
/// One model at a time.
static ONE: Mutex<()> = Mutex::new(());

/// An atomic that takes part in a model.
pub(crate) trait Part: Send + Sync {
    /// Is again what it was before the run, and in a trial is loom's.
    fn begin(&self, is_trial: bool);
    /// Is plain again, as before.
    fn end(&self);
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn phase() -> Phase {
    *locked(&PHASE)
}

/// Takes an atomic in that has not taken part before.
///
/// # Panics
/// In a trial: the search has not met it.
#[track_caller]
pub(crate) fn join(part: Arc<dyn Part>) {
    assert_ne!(phase(), Phase::Trial, "the search did not meet the atomic at {}", Location::caller());
    locked(&TAKING_PART).push(part);
}

/// The number of the thread that asks: from 1 on in the order in which the model names them; 0 outside.
pub(crate) fn thread() -> usize {
    if phase() == Phase::Outside {
        return 0;
    }
    let this = loom::thread::current().id();
    locked(&THREADS).iter().find(|(known, _)| *known == this).map_or(0, |&(_, number)| number)
}

/// A thread of the model begins.
fn begin(number: usize) {
    let this = loom::thread::current().id();
    locked(&THREADS).push((this, number));
}

/// A point at which threads may change while atomics are searched for.
pub(crate) fn point() {
    let point = locked(&POINT).clone();
    if let Some(point) = point {
        point.fetch_add(1, SeqCst);
    }
}

/// What a thread does in each turn of a wait for another one.
pub fn wait() {
    if phase() == Phase::Outside {
        std::thread::yield_now();
    } else {
        loom::thread::yield_now();
    }
}

/// Runs `threads` side by side in every way in which at most `preemptions` of them are interrupted, each
/// time from what the world is now, and then `end`, which looks at what came of it and brings back what is
/// not atomic. Says how many ways.
///
/// # Panics
/// When a thread or `end` does; when threads wait for each other for ever.
pub fn check<W: Sync>(world: &'static W, preemptions: usize, threads: &'static [fn(&W)], end: fn(&W)) -> u64 {
    let _one = locked(&ONE);
    let ends = Ends;
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = MAX_STEPS;
    for phase in [Phase::Search, Phase::Trial] {
        *locked(&PHASE) = phase;
        RUN.store(0, SeqCst);
        builder.check(move || {
            RUN.fetch_add(1, SeqCst);
            *locked(&POINT) = Some(Arc::new(loom::sync::atomic::AtomicUsize::new(0)));
            let parts = locked(&TAKING_PART).clone();
            parts.iter().for_each(|part| part.begin(phase == Phase::Trial));
            // The last of them runs here.
            let (last, others) = threads.split_last().expect("a model has threads");
            locked(&THREADS).clear();
            begin(threads.len());
            let run = |(number, thread): (usize, &'static fn(&W))| {
                loom::thread::spawn(move || {
                    begin(number);
                    thread(world);
                })
            };
            let others: Vec<_> = (1..).zip(others).map(run).collect();
            last(world);
            others.into_iter().for_each(|other| other.join().expect("a thread ends"));
            end(world);
            *locked(&POINT) = None;
        });
    }
    drop(ends);
    RUN.load(SeqCst)
}

/// Ends a model, be it by a panic.
struct Ends;

impl Drop for Ends {
    fn drop(&mut self) {
        *locked(&PHASE) = Phase::Outside;
        let parts = core::mem::take(&mut *locked(&TAKING_PART));
        parts.iter().for_each(|part| part.end());
    }
}
