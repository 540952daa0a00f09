//! How often this guest was stopped and restored, and who waits for the next time.

use core::cell::Cell;
use core::future::poll_fn;
use core::task::Context;

use crate::raw::local::local;
use crate::sync::Waiters;

#[derive(Default)]
struct Lives {
    restores: Cell<u64>,
    /// How often the guest was stopped, whatever came then.
    stops: Cell<u64>,
    waiters: Waiters,
}

local!(static LIVES: Lives = Lives::default());

/// How often this guest has been restored.
pub fn restores() -> u64 {
    LIVES.with(|lives| lives.restores.get())
}

/// How often it was stopped, to be restored or to go on.
pub(crate) fn stops() -> u64 {
    LIVES.with(|lives| lives.stops.get())
}

/// Waits until the guest has been restored more often than `count` times.
pub async fn restored(count: u64) {
    let look = |context: &mut Context<'_>, lives: &Lives| {
        lives.waiters.poll(context, || (lives.restores.get() > count).then_some(()))
    };
    poll_fn(|context| LIVES.with(|lives| look(context, lives))).await;
}

/// Notes that it was stopped.
pub(crate) fn has_stopped() {
    LIVES.with(|lives| lives.stops.set(lives.stops.get() + 1));
}

/// Notes that it has been restored.
pub(crate) fn has_been_restored() {
    LIVES.with(|lives| {
        lives.restores.set(lives.restores.get() + 1);
        lives.waiters.wake();
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task;

    #[test]
    fn who_waits_for_a_restore_is_woken_by_the_next_one_and_not_by_a_stop() {
        let count = restores();
        let waiting = task::spawn(restored(count));
        task::run(task::yield_now());
        has_stopped();
        task::run(task::yield_now());
        assert!(!waiting.is_finished());
        has_been_restored();
        task::run(waiting);
        assert_eq!((restores(), stops() > 0), (count + 1, true));
        task::run(restored(count));
    }
}
