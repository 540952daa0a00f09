//! Locks, and the one order in which they may be taken: each has a [`rank`].
//!
//! A CPU takes a lock only while all that it holds have lower ranks. A build with `debug_assertions` (the host's tests,
//! above all) keeps what each CPU holds and panics where that is broken, whether or not it would have hung; other
//! builds keep nothing and pay nothing.

use core::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
};
use spin::{
    mutex::{TicketMutex, TicketMutexGuard},
    rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use static_assertions::{assert_not_impl_any, const_assert};

pub mod rank;

#[cfg(debug_assertions)]
mod order {
    use super::rank;
    use core::fmt;
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

    /// How many locks of each rank a CPU holds.
    #[derive(Debug)]
    pub struct Held([AtomicU8; rank::NAMES.len()]);

    impl Held {
        /// Nothing is held.
        #[must_use]
        pub const fn nothing() -> Self {
            Self([const { AtomicU8::new(0) }; rank::NAMES.len()])
        }
    }

    /// The names of the ranks of which locks are held, outermost first.
    impl fmt::Display for Held {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let held = rank::NAMES.iter().zip(&self.0).filter(|(_, count)| count.load(Relaxed) != 0);
            let mut names = held.map(|(name, _)| *name);
            f.write_str(names.next().unwrap_or("none"))?;
            names.try_for_each(|name| write!(f, ", {name}"))
        }
    }

    static HELD: spin::Once<fn() -> &'static Held> = spin::Once::new();

    /// Says where a CPU keeps what it holds. Once, at boot.
    pub fn watch(held_here: fn() -> &'static Held) {
        HELD.call_once(|| held_here);
    }

    /// That the CPU holds a lock.
    #[derive(Debug)]
    pub(super) struct Mark(Option<&'static AtomicU8>);

    impl Mark {
        /// Takes the mark of a lock, where no lock of this rank is held, or only such as come before it.
        #[track_caller]
        #[expect(clippy::panic, reason = "that is what a build with debug assertions is for")]
        pub(super) fn new(rank: u8, is_further: bool) -> Self {
            let Some(Held(counts)) = HELD.get().map(|held| held()) else { return Self(None) };
            let name = |rank: usize| rank::NAMES.get(rank).copied().unwrap_or_default();
            let first_bad = usize::from(rank) + usize::from(is_further);
            let is_held = |&(at, count): &(usize, &AtomicU8)| at >= first_bad && count.load(Relaxed) != 0;
            if let Some((above, _)) = counts.iter().enumerate().rfind(is_held) {
                panic!("lock order: {} is taken while {} is held", name(rank.into()), name(above));
            }
            Self::unordered(rank)
        }

        /// Takes the mark of a lock for which nobody waited.
        pub(super) fn unordered(rank: u8) -> Self {
            let count = HELD.get().and_then(|held| held().0.get(usize::from(rank)));
            count.inspect(|count| _ = count.fetch_add(1, Relaxed));
            Self(count)
        }
    }

    impl Drop for Mark {
        fn drop(&mut self) {
            self.0.inspect(|count| _ = count.fetch_sub(1, Relaxed));
        }
    }
}

#[cfg(not(debug_assertions))]
mod order {
    #[derive(Debug)]
    pub(super) struct Mark;

    impl Mark {
        #[inline(always)]
        pub(super) const fn new(_rank: u8, _is_further: bool) -> Self {
            Self
        }

        #[inline(always)]
        pub(super) const fn unordered(_rank: u8) -> Self {
            Self
        }
    }
}

use order::Mark;
#[cfg(debug_assertions)]
pub use order::{Held, watch};

/// A fair spin lock. The hypervisor runs with interrupts off, so no interrupt handler can find it taken by its own CPU.
#[derive(Debug, Default)]
pub struct Lock<T, const RANK: u8> {
    inner: TicketMutex<T, Attentive>,
    #[cfg(loom)]
    gate: gate::Gate,
}

/// A held [`Lock`]. It stays on the CPU that took it.
#[derive(Debug)]
pub struct Guard<'a, T> {
    inner: TicketMutexGuard<'a, T>,
    #[cfg(loom)]
    _gate: gate::Inside<'a>,
    _mark: Mark,
    _stays: PhantomData<*const ()>,
}

/// The lock that loom sees, around the one that it does not.
#[cfg(loom)]
mod gate {
    use core::sync::atomic::{AtomicBool, Ordering};

    #[derive(Debug, Default)]
    pub(super) struct Gate(AtomicBool);

    #[derive(Debug)]
    pub(super) struct Inside<'a>(&'a Gate);

    impl Gate {
        pub(super) const fn new() -> Self {
            Self(AtomicBool::new(false))
        }

        pub(super) fn try_enter(&self) -> Option<Inside<'_>> {
            (!self.0.swap(true, Ordering::Acquire)).then(|| Inside(self))
        }

        pub(super) fn enter(&self) -> Inside<'_> {
            loop {
                if let Some(inside) = self.try_enter() {
                    return inside;
                }
                super::attend();
                oxen_model::wait();
            }
        }
    }

    impl Drop for Inside<'_> {
        fn drop(&mut self) {
            self.0.0.store(false, Ordering::Release);
        }
    }
}

assert_not_impl_any!(Guard<'static, u8>: Clone, Send);
const_assert!(cfg!(debug_assertions) || size_of::<Mark>() == 0);

impl<T, const RANK: u8> Lock<T, RANK> {
    /// A free lock around a value.
    pub const fn new(value: T) -> Self {
        Self {
            inner: TicketMutex::new(value),
            #[cfg(loom)]
            gate: gate::Gate::new(),
        }
    }

    #[inline(always)]
    fn taken(&self, mark: Mark) -> Guard<'_, T> {
        #[cfg(loom)]
        let gate = self.gate.enter();
        Guard {
            inner: self.inner.lock(),
            #[cfg(loom)]
            _gate: gate,
            _mark: mark,
            _stays: PhantomData,
        }
    }

    /// Waits for the lock and takes it. No lock of this rank or one further in may be held.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock(&self) -> Guard<'_, T> {
        self.taken(Mark::new(RANK, false))
    }

    /// Takes the lock if nobody has it. Who does not wait keeps no order.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        #[cfg(loom)]
        let gate = self.gate.try_enter()?;
        let inner = self.inner.try_lock()?;
        Some(Guard {
            inner,
            #[cfg(loom)]
            _gate: gate,
            _mark: Mark::unordered(RANK),
            _stays: PhantomData,
        })
    }

    /// The same as [`Self::lock`] where locks of this rank may be held: those of owners before this one,
    /// in the order that all agree on.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub(crate) fn lock_next(&self) -> Guard<'_, T> {
        self.taken(Mark::new(RANK, true))
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A lock that many may hold to read, or one to write.
#[derive(Debug)]
pub struct SharedLock<T, const RANK: u8>(RwLock<T, Attentive>);

/// A [`SharedLock`] held in one of the two ways.
#[derive(Debug)]
pub struct SharedGuard<G> {
    inner: G,
    _mark: Mark,
}

impl<T, const RANK: u8> SharedLock<T, RANK> {
    /// A free lock around a value.
    pub const fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }

    /// Waits until nobody writes.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn read(&self) -> SharedGuard<RwLockReadGuard<'_, T>> {
        let mark = Mark::new(RANK, false);
        SharedGuard { inner: self.0.read(), _mark: mark }
    }

    /// Waits until nobody reads or writes.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn write(&self) -> SharedGuard<RwLockWriteGuard<'_, T, Attentive>> {
        let mark = Mark::new(RANK, false);
        SharedGuard { inner: self.0.write(), _mark: mark }
    }
}

impl<G: Deref> Deref for SharedGuard<G> {
    type Target = G::Target;

    #[inline]
    fn deref(&self) -> &G::Target {
        &self.inner
    }
}

impl<G: DerefMut> DerefMut for SharedGuard<G> {
    #[inline]
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.inner
    }
}

/// Waiting with an ear for other CPUs: the one that holds the lock may itself wait until this one has flushed.
#[derive(Debug)]
pub struct Attentive;

static LISTEN: spin::Once<fn()> = spin::Once::new();

/// Says what a CPU does while it waits for a lock: what others ask of it, with interrupts off. Once, at boot.
pub fn listen_while_waiting(listen: fn()) {
    LISTEN.call_once(|| listen);
}

impl spin::RelaxStrategy for Attentive {
    #[inline(always)]
    fn relax() {
        attend();
    }
}

/// One turn of waiting; out of line, as locks are nearly always free.
#[cold]
#[inline(never)]
fn attend() {
    if let Some(listen) = LISTEN.get() {
        listen();
    }
    core::hint::spin_loop();
}

/// Takes the locks of two owners in the order of their numbers, once only if they are the same.
#[inline]
#[cfg_attr(debug_assertions, track_caller)]
pub fn both<'a, T, const RANK: u8>(
    a: (u32, &'a Lock<T, RANK>),
    b: (u32, &'a Lock<T, RANK>),
) -> (Guard<'a, T>, Option<Guard<'a, T>>) {
    match a.0.cmp(&b.0) {
        core::cmp::Ordering::Equal => (a.1.lock(), None),
        core::cmp::Ordering::Less => {
            let first = a.1.lock();
            (first, Some(b.1.lock_next()))
        }
        core::cmp::Ordering::Greater => {
            let second = b.1.lock();
            (a.1.lock_next(), Some(second))
        }
    }
}
