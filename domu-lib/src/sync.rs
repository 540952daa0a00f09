//! What tasks of one guest use among themselves: a notification, a queue, a lock that waits.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell, RefMut};
use core::future::poll_fn;
use core::task::{Poll, Waker};

/// A flag that tasks wait for: a notification that nobody waited for is kept, two of them are one.
#[derive(Debug, Default)]
pub struct Notify {
    pending: Cell<bool>,
    waiters: RefCell<Vec<Waker>>,
}

impl Notify {
    /// A notification that has not come yet.
    pub const fn new() -> Self {
        Self { pending: Cell::new(false), waiters: RefCell::new(Vec::new()) }
    }

    /// Lets one waiter through, now or later.
    pub fn notify(&self) {
        self.pending.set(true);
        for waiter in self.waiters.take() {
            waiter.wake();
        }
    }

    /// Waits for a notification and uses it up.
    pub async fn notified(&self) {
        poll_fn(|context| {
            if self.pending.take() {
                return Poll::Ready(());
            }
            let mut waiters = self.waiters.borrow_mut();
            // A task that waits for several things at once looks here again and again.
            if !waiters.iter().any(|waiter| waiter.will_wake(context.waker())) {
                waiters.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

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
