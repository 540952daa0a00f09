//! Locks are taken in the order of their ranks, or a build with debug assertions says so.
#![cfg(debug_assertions)]

use oxen_hv::lock::{self, Held, Lock, SharedLock, both, rank};
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static HELD: &'static Held = Box::leak(Box::new(Held::nothing()));
}

type Outer = Lock<u32, { rank::EVENTS }>;
type Inner = Lock<u32, { rank::CONSOLE }>;

fn watch() {
    lock::watch(|| HELD.with(|held| *held));
}

/// What the panic says by which something ends.
fn panic_of(work: impl FnOnce()) -> String {
    let Err(reason) = catch_unwind(AssertUnwindSafe(work)) else { return "none".into() };
    reason.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn inwards_is_the_way() {
    watch();
    let (outer, inner) = (Outer::new(1), Inner::new(2));
    for _ in 0..3 {
        let (held, further) = (outer.lock(), inner.lock());
        assert_eq!(*held + *further, 3);
    }
    drop(inner.lock());
    drop(outer.lock());
}

#[test]
fn a_wrong_order_panics_though_nobody_waits() {
    watch();
    let (outer, inner) = (Outer::new(1), Inner::new(2));
    let said = panic_of(|| {
        let _held = inner.lock();
        drop(outer.lock());
    });
    assert_eq!(said, "lock order: EVENTS is taken while CONSOLE is held");
    // What the panic let go is held no more.
    drop(outer.lock());
}

#[test]
fn a_lock_that_was_got_by_trying_counts_for_those_after_it() {
    watch();
    let (outer, inner) = (Outer::new(1), Inner::new(2));
    let said = panic_of(|| {
        let held = inner.lock();
        assert!(outer.try_lock().is_some(), "who does not wait hangs nobody");
        drop(held);
        let _held = inner.try_lock();
        drop(outer.lock());
    });
    assert_eq!(said, "lock order: EVENTS is taken while CONSOLE is held");
}

#[test]
fn two_of_one_rank_are_for_the_function_that_orders_them() {
    watch();
    let (first, second) = (Outer::new(1), Outer::new(2));
    for (a, b) in [((1, &first), (2, &second)), ((2, &second), (1, &first))] {
        let (one, other) = both(a, b);
        assert_eq!((*one + other.map_or(0, |other| *other), a.0 + b.0), (3, 3));
    }
    assert!(both((1, &first), (1, &first)).1.is_none());
    let said = panic_of(|| {
        let _held = first.lock();
        drop(second.lock());
    });
    assert_eq!(said, "lock order: EVENTS is taken while EVENTS is held");
}

#[test]
fn readers_keep_the_order_too() {
    watch();
    let (shared, outer) = (SharedLock::<u32, { rank::DOMAINS }>::new(7), Outer::new(1));
    {
        let _held = outer.lock();
        assert_eq!(*shared.read(), 7);
        *shared.write() += 1;
    }
    let said = panic_of(|| {
        let _held = shared.read();
        drop(outer.lock());
    });
    assert_eq!(said, "lock order: EVENTS is taken while DOMAINS is held");
}
