//! The policy by itself: shares, caps, turns.

use super::*;
use proptest::prelude::*;
use std::vec::Vec;

fn queue(shares: &[Share]) -> (RunQueue, Vec<EntityId>) {
    let mut queue = RunQueue::new(vec![Entity::EMPTY; 16].into_boxed_slice());
    let ids = shares.iter().map(|&s| queue.join(s, 1).unwrap()).collect();
    (queue, ids)
}

/// Runs whoever is chosen until the moment the queue names, for `total` nanoseconds; who had how much.
fn run(queue: &mut RunQueue, ids: &[EntityId], total: u64) -> Vec<u64> {
    let mut used = vec![0; ids.len()];
    let mut now = 0;
    while now < total {
        let choice = queue.choose(now, false, |_| true);
        let until = choice.until.min(total).max(now + 1);
        if let Some(i) = choice.next.and_then(|s| ids.iter().position(|&t| t == s)) {
            used[i] += until - now;
        }
        now = until;
    }
    used
}

#[test]
fn time_is_shared_by_weight() {
    let share = |weight| Share { weight, cap: 0 };
    let (mut queue, ids) = queue(&[share(256), share(512), share(256)]);
    ids.iter().for_each(|&s| assert_ne!(queue.wake(s), Woken::Before));
    let used = run(&mut queue, &ids, 30_000_000_000);
    for (part, expected) in used.iter().zip([7.5e9, 15e9, 7.5e9]) {
        assert!((*part as f64 / expected - 1.0).abs() < 0.02, "{used:?}");
    }
}

#[test]
fn what_sleepers_leave_goes_to_the_others_by_weight() {
    let share = |weight| Share { weight, cap: 0 };
    let (mut queue, ids) = queue(&[share(512), share(256), share(256), share(256)]);
    queue.wake(ids[0]);
    queue.wake(ids[1]);
    let mut used = [0_u64; 4];
    let mut awake_until = [u64::MAX, u64::MAX, 0, 0];
    let mut now = 0;
    while now < 10_000_000_000 {
        // The last two wake every 4 ms, for 50 us of work.
        if now % 4_000_000 == 0 {
            for sleeper in [2, 3] {
                awake_until[sleeper] = used[sleeper] + 50_000;
                queue.wake(ids[sleeper]);
            }
        }
        let choice = queue.choose(now, false, |s| used[s.index()] < awake_until[s.index()]);
        used[choice.next.unwrap().index()] += 10_000;
        now += 10_000;
    }
    let ratio = used[0] as f64 / used[1] as f64;
    assert!((1.9..2.1).contains(&ratio), "{used:?}");
}

#[test]
fn a_cap_holds_even_on_an_idle_machine() {
    let (mut queue, ids) = queue(&[Share { weight: 256, cap: 25 }, Share { weight: 1, cap: 10 }]);
    ids.iter().for_each(|&s| assert_ne!(queue.wake(s), Woken::Before));
    let used = run(&mut queue, &ids, 10_000_000_000);
    assert!((used[0] as f64 / 2.5e9 - 1.0).abs() < 0.02, "{used:?}");
    assert!(used[1] <= 1_010_000_000, "{used:?}");
}

#[test]
fn caps_that_come_to_all_of_the_cpu_are_had() {
    for caps in [&[100][..], &[50, 50], &[70, 30], &[200]] {
        let shares: Vec<_> = caps.iter().map(|&cap| Share { weight: 256, cap }).collect();
        let (mut queue, ids) = queue(&shares);
        ids.iter().for_each(|&s| assert_ne!(queue.wake(s), Woken::Before));
        let used = run(&mut queue, &ids, 10_000_000_000);
        for (part, cap) in used.iter().zip(caps) {
            let expected = 1e8 * f64::from((*cap).min(100));
            assert!((*part as f64 / expected - 1.0).abs() < 0.05, "{caps:?}: {used:?}");
        }
    }
}

#[test]
fn who_wakes_with_credit_goes_before_a_hog() {
    let (mut queue, ids) = queue(&[Share::default(); 2]);
    queue.wake(ids[0]);
    assert_eq!(queue.choose(0, false, |_| true).next, Some(ids[0]));
    assert_eq!(queue.wake(ids[1]), Woken::ChoiceDue);
    // The first one's own moment of going first is over by now.
    assert_eq!(queue.choose(5_000_000, false, |_| true).next, Some(ids[1]));
}

#[test]
fn who_wakes_another_is_not_put_off_at_once() {
    let (mut queue, ids) = queue(&[Share::default(); 2]);
    ids.iter().for_each(|&s| assert_ne!(queue.wake(s), Woken::Before));
    let first = Choice { next: Some(ids[0]), until: BOOST_SLICE };
    assert_eq!(queue.choose(0, false, |_| true), first, "both were woken");
    assert_eq!(queue.choose(BOOST_SLICE, false, |_| true).next, Some(ids[1]));
    let start = BOOST_SLICE + 10;
    assert_eq!(queue.choose(start, false, |id| id == ids[0]).next, Some(ids[0]), "the other sleeps");
    assert_eq!(queue.wake(ids[1]), Woken::ChoiceDue);
    let kept = Choice { next: Some(ids[0]), until: start + RATE_LIMIT };
    assert_eq!(queue.choose(start + 10, false, |_| true), kept);
    assert_eq!(queue.choose(kept.until, false, |_| true).next, Some(ids[1]));
}

#[test]
fn who_wakes_somebody_of_another_group_is_put_off_at_once() {
    let mut queue = RunQueue::new(vec![Entity::EMPTY; 16].into_boxed_slice());
    let ids = [1, 2].map(|group| queue.join(Share::default(), group).unwrap());
    ids.iter().for_each(|&s| assert_ne!(queue.wake(s), Woken::Before));
    assert_eq!(queue.choose(0, false, |_| true).next, Some(ids[0]));
    assert_eq!(queue.choose(BOOST_SLICE, false, |id| id == ids[0]).next, Some(ids[0]));
    assert_eq!(queue.wake(ids[1]), Woken::ChoiceDue);
    assert_eq!(queue.choose(BOOST_SLICE + 10, false, |_| true).next, Some(ids[1]));
}

#[test]
fn who_runs_alone_is_never_disturbed() {
    let (mut queue, ids) = queue(&[Share::default(); 2]);
    queue.wake(ids[0]);
    assert_eq!(queue.choose(0, false, |_| true), Choice { next: Some(ids[0]), until: u64::MAX });
    assert_eq!(queue.choose(10 * SLICE, true, |_| true).until, u64::MAX);
}

#[test]
fn a_yield_lets_the_other_run() {
    let (mut queue, ids) = queue(&[Share::default(); 2]);
    ids.iter().for_each(|&s| assert_ne!(queue.wake(s), Woken::Before));
    let first = queue.choose(0, false, |_| true).next.unwrap();
    let second = queue.choose(10, true, |_| true).next.unwrap();
    assert_ne!(first, second);
    assert_eq!(queue.choose(20, true, |_| true).next, Some(first));
}

#[test]
fn nobody_unready_is_chosen_and_sleepers_can_wake_again() {
    let (mut queue, ids) = queue(&[Share::default(); 2]);
    ids.iter().for_each(|&s| assert_ne!(queue.wake(s), Woken::Before));
    assert_eq!(queue.choose(0, false, |s| s == ids[1]).next, Some(ids[1]));
    assert_eq!(queue.choose(5, false, |_| false).next, None);
    assert_eq!(queue.wake(ids[0]), Woken::ChoiceDue);
    assert_eq!(queue.choose(6, false, |_| true).next, Some(ids[0]));
}

proptest! {
    #[test]
    fn a_ready_seat_always_gets_its_turn(
        ops in proptest::collection::vec((0..6_u8, 0..6_usize, 0..40_000_000_u64), 1..300)
    ) {
        let share = |i: usize| Share { weight: 1 + 100 * i as u16, cap: if i == 5 { 20 } else { 0 } };
        let (mut queue, ids) = queue(&(0..6).map(share).collect::<Vec<_>>());
        let mut ready = [false; 6];
        let mut now = 0;
        for (op, who, delta) in ops {
            now += delta;
            match op {
                0 | 1 => { ready[who] = true; queue.wake(ids[who]); }
                2 => ready[who] = false,
                _ => {
                    let choice = queue.choose(now, op == 3, |s| ready[s.index()]);
                    if let Some(id) = choice.next { prop_assert!(ready[id.index()]); }
                    let only_capped = ready[..5].iter().all(|r| !r);
                    if choice.next.is_none() && !only_capped { prop_assert!(false, "someone waits, nobody runs"); }
                }
            }
            // Falling asleep is noticed at the next choice, and every wake after it counts.
            for (i, &id) in ids.iter().enumerate() { if ready[i] { queue.wake(id); } }
        }
        for &id in &ids { queue.wake(id); }
        let mut seen = [false; 6];
        let end = now + 300 * PERIOD;
        while now < end {
            let choice = queue.choose(now, false, |_| true);
            seen[choice.next.unwrap().index()] = true;
            now = choice.until.max(now + 1);
        }
        prop_assert!(seen.iter().all(|&s| s), "{seen:?}");
    }

    #[test]
    fn a_seat_given_back_is_in_no_list(order in Just([0, 1, 2, 3]).prop_shuffle(), leaver in 0..4_usize) {
        let (mut queue, ids) = queue(&[Share::default(); 4]);
        for i in order { queue.wake(ids[i]); }
        queue.quit(ids[leaver]);
        for i in 0..8 {
            let id = queue.choose(i * SLICE, false, |_| true).next.unwrap();
            prop_assert_ne!(id, ids[leaver]);
        }
        prop_assert_eq!(queue.taken(), 3);
    }
}
