//! Tasks, waits and time limits on the host.

use super::*;
use crate::sync::{Channel, Notify};

#[test]
fn a_spawned_task_gives_its_result_to_who_waits() {
    assert_eq!(run(async { spawn(async { 6 * 7 }).await }), 42);
}

#[test]
fn tasks_take_turns() {
    let log = Rc::new(RefCell::new(std::vec::Vec::new()));
    let writer = |name: u8| {
        let log = log.clone();
        async move {
            for _ in 0..3 {
                log.borrow_mut().push(name);
                yield_now().await;
            }
        }
    };
    let (first, second) = (spawn(writer(1)), spawn(writer(2)));
    run(join(first, second));
    assert_eq!(*log.borrow(), [1, 2, 1, 2, 1, 2]);
}

#[test]
fn who_is_woken_waits_for_one_piece_of_others_work_at_most() {
    let (news, log) = (Rc::new(Notify::new()), Rc::new(RefCell::new(std::vec::Vec::new())));
    let busy = |name: char| {
        let (log, news) = (log.clone(), news.clone());
        async move {
            for piece in 0..5 {
                log.borrow_mut().push(name);
                if name == 'b' && piece == 1 {
                    news.notify();
                }
                yield_now().await;
            }
        }
    };
    let (waits, heard) = (news.clone(), log.clone());
    spawn(async move {
        waits.notified().await;
        heard.borrow_mut().push('!');
    });
    let all = ['a', 'b', 'c', 'd'].map(|name| spawn(busy(name)));
    run(async {
        for one in all {
            one.await;
        }
    });
    assert_eq!(log.borrow().iter().collect::<std::string::String>(), "abcdab!cdabcdabcdabcd");
}

#[test]
fn what_a_task_starts_works_for_the_same() {
    let seen = run(async {
        let owner = || EXECUTOR.with(|executor| executor.owner.get());
        let task = spawn_for(7, async move { (owner(), spawn(async move { owner() }).await) });
        (task.await, owner())
    });
    assert_eq!(seen, ((7, 7), 0));
}

#[test]
fn a_task_may_wait_in_code_that_is_not_async() {
    let (inner, outer) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
    let (waits, wakes) = (inner.clone(), outer.clone());
    run(async {
        let waiting = spawn(async move {
            run(waits.notified());
            yield_now().await;
            7
        });
        // Wakes the outer main while the inner run has the vcpu, and must not be forgotten for it.
        spawn(async move {
            yield_now().await;
            wakes.notify();
            inner.notify();
        });
        outer.notified().await;
        assert_eq!(waiting.await, 7);
    });
}

#[test]
fn select_drops_the_loser() {
    let notify = Notify::new();
    run(async {
        let winner = select(async { 1 }, notify.notified()).await;
        assert_eq!(winner, Either::First(1));
    });
}

#[test]
fn a_channel_hands_over_in_order_and_ends_with_its_sender() {
    run(async {
        let (sender, receiver) = Channel::pair();
        spawn(async move {
            for n in 0..5 {
                sender.send(n);
                yield_now().await;
            }
        });
        let mut seen = std::vec::Vec::new();
        while let Some(n) = receiver.receive().await {
            seen.push(n);
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    });
}

#[test]
fn a_task_that_is_cancelled_is_dropped_where_it_waits() {
    run(async {
        let (held, log) = (Rc::new(()), Rc::new(RefCell::new(std::vec::Vec::new())));
        let (in_task, seen) = (held.clone(), log.clone());
        let task = spawn(async move {
            let _held = in_task;
            seen.borrow_mut().push("began");
            yield_now().await;
            seen.borrow_mut().push("went on");
        });
        yield_now().await;
        task.cancel();
        assert_eq!(Rc::strong_count(&held), 1, "what it held is free at once");
        // It was woken before it was cancelled.
        yield_now().await;
        yield_now().await;
        assert_eq!(*log.borrow(), ["began"]);
        let ended = spawn(async {});
        yield_now().await;
        ended.cancel();
    });
}

#[test]
fn who_lets_nobody_else_run_for_long_is_told_of() {
    std::thread_local!(static TOLD: Cell<(u16, u64)> = const { Cell::new((0, 0)) });
    // A tick is 128 ns.
    crate::time::set_tick(1 << 31, 8);
    on_long_piece(|owner, nanoseconds| TOLD.set((owner, nanoseconds)));
    let tsc = crate::raw::machine::tsc;
    run(async move {
        let begun = tsc();
        spawn_for(7, async move { while tsc() - begun < 100_000_000 {} }).await;
        spawn_for(8, async {}).await;
    });
    let (owner, nanoseconds) = TOLD.get();
    assert!(owner == 7 && nanoseconds >= crate::time::SECOND, "{owner} {nanoseconds}");
}
