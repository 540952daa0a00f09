//! What tasks of one guest use among themselves: a notification, a value that is set once, a queue, a lock that waits.
//!
//! # Example
//!
//! ```
//! use oxen_domu_lib::sync::Channel;
//! use oxen_domu_lib::task;
//!
//! let (sender, receiver) = Channel::pair();
//! let sum = task::spawn(async move {
//!     let mut sum = 0;
//!     while let Some(number) = receiver.receive().await {
//!         sum += number;
//!     }
//!     sum
//! });
//! [1, 2, 3].into_iter().for_each(|number| sender.send(number));
//! drop(sender);
//! assert_eq!(task::run(sum), 6);
//! ```

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell, RefCell, RefMut};
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

use static_assertions::assert_not_impl_any;

/// Tasks that are all woken when something changes, and then look again.
#[derive(Debug, Default)]
pub struct Waiters(RefCell<Vec<Waker>>);

impl Waiters {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    /// Lets all look again who wait.
    pub fn wake(&self) {
        self.0.take().into_iter().for_each(Waker::wake);
    }

    /// One look of a task that waits.
    pub(crate) fn poll<T>(&self, context: &Context<'_>, look: impl FnOnce() -> Option<T>) -> Poll<T> {
        if let Some(answer) = look() {
            return Poll::Ready(answer);
        }
        let mut waiters = self.0.borrow_mut();
        // A task that waits for several things at once looks here again and again.
        if !waiters.iter().any(|waiter| waiter.will_wake(context.waker())) {
            waiters.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until `look` has an answer.
    pub async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| self.poll(context, &mut look)).await
    }
}

/// A flag that tasks wait for: a notification that nobody waited for is kept, two of them are one.
#[derive(Debug, Default)]
pub struct Notify {
    pending: Cell<bool>,
    waiters: Waiters,
}

impl Notify {
    /// A notification that has not come yet.
    pub const fn new() -> Self {
        Self { pending: Cell::new(false), waiters: Waiters::new() }
    }

    /// Lets one waiter through, now or later.
    pub fn notify(&self) {
        self.pending.set(true);
        self.waiters.wake();
    }

    /// Waits for a notification and uses it up.
    pub async fn notified(&self) {
        self.waiters.until(|| self.pending.take().then_some(())).await;
    }
}

/// A value that is set once and stays: whoever waits for it gets it, however many they are and whenever they come.
#[derive(Debug)]
pub struct Latch<T> {
    value: OnceCell<T>,
    waiters: Waiters,
}

impl<T> Default for Latch<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Latch<T> {
    /// A latch without its value.
    pub const fn new() -> Self {
        Self { value: OnceCell::new(), waiters: Waiters::new() }
    }

    /// Sets the value and wakes all who wait for it; one that is there already stays as it is.
    pub fn set(&self, value: T) {
        if self.value.set(value).is_ok() {
            self.waiters.wake();
        }
    }

    /// Returns whether the value is there.
    pub fn is_set(&self) -> bool {
        self.value.get().is_some()
    }
}

impl<T: Clone> Latch<T> {
    /// The value, if it is there.
    pub fn get(&self) -> Option<T> {
        self.value.get().cloned()
    }

    /// Waits for the value.
    pub async fn wait(&self) -> T {
        self.waiters.until(|| self.get()).await
    }
}

// One vcpu runs all tasks: what they share among themselves never goes to another thread.
assert_not_impl_any!(Notify: Sync);
assert_not_impl_any!(Latch<()>: Sync);

/// A queue between tasks.
#[derive(Debug)]
pub struct Channel<T> {
    queue: RefCell<VecDeque<T>>,
    arrived: Notify,
    senders: Cell<usize>,
    /// Nobody will receive any more.
    closed: Cell<bool>,
}

impl<T> Channel<T> {
    /// The two ends of a new queue.
    pub fn pair() -> (Sender<T>, Receiver<T>) {
        let channel = Rc::new(Self {
            queue: RefCell::new(VecDeque::new()),
            arrived: Notify::new(),
            senders: Cell::new(1),
            closed: Cell::new(false),
        });
        (Sender(channel.clone()), Receiver(channel))
    }
}

/// The end that fills a queue; the queue ends when the last sender is dropped.
#[derive(Debug)]
pub struct Sender<T>(Rc<Channel<T>>);

impl<T> Sender<T> {
    /// Puts a value at the queue's end; where nobody will receive it, drops it.
    pub fn send(&self, value: T) {
        drop(self.try_send(value));
    }

    /// Puts a value at the queue's end.
    ///
    /// # Errors
    /// The value, where nobody will receive it.
    pub fn try_send(&self, value: T) -> Result<(), T> {
        if self.0.closed.get() {
            return Err(value);
        }
        self.0.queue.borrow_mut().push_back(value);
        self.0.arrived.notify();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.set(self.0.senders.get() + 1);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.senders.set(self.0.senders.get() - 1);
        self.0.arrived.notify();
    }
}

/// The end that empties a queue.
#[derive(Debug)]
pub struct Receiver<T>(Rc<Channel<T>>);

impl<T> Receiver<T> {
    /// The oldest value if there is one.
    pub fn try_receive(&self) -> Option<T> {
        self.0.queue.borrow_mut().pop_front()
    }

    /// Waits for the oldest value; `None` when no sender is left.
    pub async fn receive(&self) -> Option<T> {
        loop {
            if let Some(value) = self.try_receive() {
                return Some(value);
            }
            if self.0.senders.get() == 0 {
                return None;
            }
            self.0.arrived.notified().await;
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.closed.set(true);
    }
}

/// A value that one task at a time uses, across its awaits.
#[derive(Debug, Default)]
pub struct Lock<T> {
    value: RefCell<T>,
    freed: Notify,
}

/// The use of a locked value.
#[derive(Debug)]
pub struct Guard<'a, T> {
    value: RefMut<'a, T>,
    freed: &'a Notify,
}

impl<T> Lock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { value: RefCell::new(value), freed: Notify::new() }
    }

    /// Waits until nobody else uses the value.
    pub async fn lock(&self) -> Guard<'_, T> {
        loop {
            if let Ok(value) = self.value.try_borrow_mut() {
                return Guard { value, freed: &self.freed };
            }
            self.freed.notified().await;
        }
    }
}

impl<T> core::ops::Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> core::ops::DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // Who is woken looks later, when the value is free.
        self.freed.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task;

    #[test]
    fn a_latch_lets_all_through_who_waited_and_all_who_come_later() {
        task::run(async {
            let latch = Rc::new(Latch::new());
            let waiting: Vec<_> = (0..3)
                .map(|_| {
                    let latch = latch.clone();
                    task::spawn(async move { latch.wait().await })
                })
                .collect();
            task::yield_now().await;
            assert!(!latch.is_set() && waiting.iter().all(|task| !task.is_finished()));
            latch.set(7);
            for task in waiting {
                assert_eq!(task.await, 7);
            }
            assert_eq!((latch.wait().await, latch.wait().await), (7, 7));
        });
    }

    #[test]
    fn what_a_latch_was_set_to_first_stays() {
        let latch = Latch::new();
        latch.set("first");
        latch.set("second");
        assert_eq!(latch.get(), Some("first"));
    }

    #[test]
    fn a_task_that_looks_at_a_latch_again_and_again_is_woken_once() {
        task::run(async {
            let latch = Latch::<()>::new();
            for _ in 0..100 {
                let other = Notify::new();
                other.notify();
                task::select(latch.wait(), other.notified()).await;
            }
            assert_eq!(latch.waiters.0.borrow().len(), 1);
        });
    }
}
