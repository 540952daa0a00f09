//! A bounded counter whose charges give themselves back, and a queue for those who wait for room in it.

use alloc::{collections::VecDeque, rc::Rc};
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

use static_assertions::assert_not_impl_any;

/// What is asked for is not there now, or never can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

/// Somebody who waits for room.
#[derive(Debug)]
struct Waiter {
    ticket: u64,
    amount: usize,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Counter {
    limit: usize,
    used: Cell<usize>,
    peak: Cell<usize>,
    waiters: RefCell<VecDeque<Waiter>>,
    last_ticket: Cell<u64>,
}

/// A bounded counter. A clone is another handle on the same one.
#[derive(Clone)]
pub struct Budget(Rc<Counter>);

impl Budget {
    /// Nothing is taken yet; at most `limit` will be.
    pub fn new(limit: usize) -> Self {
        Self(Rc::new(Counter {
            limit,
            used: Cell::new(0),
            peak: Cell::new(0),
            waiters: RefCell::default(),
            last_ticket: Cell::new(0),
        }))
    }

    /// Counts, and refuses nothing.
    pub fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// What can be taken in all.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// What is taken.
    pub fn used(&self) -> usize {
        self.0.used.get()
    }

    /// The most that was ever taken at a time.
    pub fn peak(&self) -> usize {
        self.0.peak.get()
    }

    /// What can still be taken.
    pub fn left(&self) -> usize {
        self.0.limit - self.0.used.get()
    }

    /// Takes `amount` at once, without overtaking who waits.
    ///
    /// # Errors
    /// [`Exhausted`] if so much is not left, or somebody waits for room already; nothing is taken then.
    pub fn charge(&self, amount: usize) -> Result<Charge, Exhausted> {
        let mut charge = self.empty();
        charge.grow(amount)?;
        Ok(charge)
    }

    /// A charge of nothing, to grow later.
    pub fn empty(&self) -> Charge {
        Charge { budget: self.clone(), amount: 0 }
    }

    /// Takes `amount`, and waits for it behind all who came before. Dropping the future leaves the queue.
    ///
    /// Who holds a charge of the same budget while it waits may wait for itself: take all of a request at once.
    ///
    /// # Errors
    /// [`Exhausted`] at once if `amount` is beyond the limit.
    pub async fn wait_for(&self, amount: usize) -> Result<Charge, Exhausted> {
        if amount > self.0.limit {
            return Err(Exhausted);
        }
        let place = self.queue_up(amount);
        poll_fn(|context| place.poll(context)).await;
        Ok(Charge { budget: self.clone(), amount })
    }

    fn queue_up(&self, amount: usize) -> Place<'_> {
        let ticket = self.0.last_ticket.get() + 1;
        self.0.last_ticket.set(ticket);
        self.0.waiters.borrow_mut().push_back(Waiter { ticket, amount, waker: None });
        Place { budget: self, ticket }
    }

    fn take(&self, amount: usize) -> Result<(), Exhausted> {
        if amount > self.left() {
            return Err(Exhausted);
        }
        self.0.used.set(self.used() + amount);
        self.0.peak.set(self.peak().max(self.used()));
        Ok(())
    }

    fn give(&self, amount: usize) {
        self.0.used.set(self.used() - amount);
        self.wake_first();
    }

    fn wake_first(&self) {
        let waker = self.0.waiters.borrow_mut().front_mut().and_then(|first| first.waker.take());
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.used(), self.limit())
    }
}

/// A place in a budget's queue.
struct Place<'a> {
    budget: &'a Budget,
    ticket: u64,
}

impl Place<'_> {
    /// Ready once this is the first place and there is room, which is taken then.
    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut waiters = self.budget.0.waiters.borrow_mut();
        if let Some(first) = waiters.front()
            && first.ticket == self.ticket
            && self.budget.take(first.amount).is_ok()
        {
            return Poll::Ready(());
        }
        if let Some(mine) = waiters.iter_mut().find(|waiter| waiter.ticket == self.ticket) {
            mine.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.budget.0.waiters.borrow_mut().retain(|waiter| waiter.ticket != self.ticket);
        // Who is first now may find room for less.
        self.budget.wake_first();
    }
}

/// A part of a budget that is taken, until this is dropped.
pub struct Charge {
    budget: Budget,
    amount: usize,
}

// Each charge is given back once.
assert_not_impl_any!(Charge: Clone);

impl Charge {
    /// How much is taken.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Takes `more` besides.
    ///
    /// # Errors
    /// As [`Budget::charge`]; nothing changes then.
    pub fn grow(&mut self, more: usize) -> Result<(), Exhausted> {
        if more != 0 && !self.budget.0.waiters.borrow().is_empty() {
            return Err(Exhausted);
        }
        self.budget.take(more)?;
        self.amount += more;
        Ok(())
    }

    /// Gives `less` back, all of it at most.
    pub fn shrink(&mut self, less: usize) {
        let less = less.min(self.amount);
        self.amount -= less;
        self.budget.give(less);
    }

    /// Takes or gives back as much as leaves `amount` taken.
    ///
    /// # Errors
    /// As [`Budget::charge`]; nothing changes then.
    pub fn resize(&mut self, amount: usize) -> Result<(), Exhausted> {
        match amount.checked_sub(self.amount) {
            Some(more) => self.grow(more),
            None => {
                self.shrink(self.amount - amount);
                Ok(())
            }
        }
    }

    /// Whether this is a charge of `budget`.
    pub fn is_of(&self, budget: &Budget) -> bool {
        Rc::ptr_eq(&self.budget.0, &budget.0)
    }

    /// Takes over what `other` has taken of the same budget; of another budget, it is given back.
    pub fn absorb(&mut self, mut other: Self) {
        if other.is_of(&self.budget) {
            self.amount += core::mem::take(&mut other.amount);
        }
    }

    /// Cuts `amount` off, as a charge of its own; all of it at most.
    #[must_use]
    pub fn split(&mut self, amount: usize) -> Self {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        Self { budget: self.budget.clone(), amount }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give(self.amount);
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charge({})", self.amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use core::future::Future;
    use core::pin::{Pin, pin};
    use oxen_domu_lib::task;
    use proptest::prelude::*;

    #[test]
    fn a_charge_gives_itself_back() {
        let budget = Budget::new(10);
        let mut a = budget.charge(6).unwrap();
        assert_eq!(budget.charge(5).err(), Some(Exhausted));
        assert_eq!(a.grow(5), Err(Exhausted));
        assert_eq!(a.resize(10), Ok(()));
        assert_eq!((budget.used(), budget.left(), budget.charge(0).is_ok()), (10, 0, true));
        let mut b = a.split(4);
        b.absorb(Budget::new(5).charge(5).unwrap());
        b.absorb(a.split(1));
        assert_eq!((a.amount(), b.amount(), budget.used()), (5, 5, 10));
        drop(a);
        assert_eq!((budget.used(), b.amount()), (5, 5));
        drop(b);
        assert_eq!((budget.used(), budget.peak()), (0, 10));
    }

    #[test]
    fn who_waits_is_served_in_order_and_not_overtaken() {
        task::run(async {
            let budget = Budget::new(10);
            let mut held = budget.charge(9).unwrap();
            let log = Rc::new(RefCell::new(Vec::new()));
            for amount in [5, 1, 4] {
                let (budget, log) = (budget.clone(), log.clone());
                task::spawn(async move {
                    let charge = budget.wait_for(amount).await.unwrap();
                    log.borrow_mut().push(amount);
                    task::yield_now().await;
                    drop(charge);
                });
            }
            task::yield_now().await;
            assert_eq!(budget.charge(1).err(), Some(Exhausted), "one is free, but five are waited for");
            held.shrink(1);
            task::yield_now().await;
            assert_eq!(*log.borrow(), [0; 0]);
            drop(held);
            for _ in 0..10 {
                task::yield_now().await;
            }
            assert_eq!((&**log.borrow(), budget.used()), ([5, 1, 4].as_slice(), 0));
        });
    }

    #[test]
    fn who_leaves_the_queue_lets_the_next_through() {
        task::run(async {
            let budget = Budget::new(4);
            let held = budget.charge(3).unwrap();
            let second = budget.clone();
            let impatient = task::select(budget.wait_for(2), task::yield_now());
            let patient = task::spawn(async move { second.wait_for(1).await.is_ok() });
            assert!(matches!(impatient.await, task::Either::Second(())));
            assert!(patient.await);
            drop(held);
            assert_eq!((budget.wait_for(5).await.err(), budget.used()), (Some(Exhausted), 0));
        });
    }

    proptest! {
        /// Whatever is charged, grown, split, waited for and dropped: the sum of what is held is what is used, never
        /// more than the limit; waiters come through in order, and none waits while there is room for the first.
        #[test]
        fn the_counter_is_the_sum_of_what_is_held(
            limit in 0usize..50,
            steps in proptest::collection::vec((0u8..7, 0usize..30, 0usize..8), 0..80)
        ) {
            let budget = Budget::new(limit);
            let mut held: Vec<Charge> = Vec::new();
            type Waiting<'a> = (usize, Pin<Box<dyn Future<Output = Result<Charge, Exhausted>> + 'a>>);
            let mut waiting: VecDeque<Waiting<'_>> = VecDeque::new();
            let mut context = Context::from_waker(Waker::noop());
            for (step, amount, which) in steps {
                let used = budget.used();
                match (step, held.get_mut(which)) {
                    (0, _) => {
                        let charge = budget.charge(amount);
                        prop_assert_eq!(charge.is_ok(), amount == 0 || used + amount <= limit && waiting.is_empty());
                        held.extend(charge);
                    }
                    (1, Some(charge)) => _ = charge.resize(amount),
                    (2, Some(charge)) => { let part = charge.split(amount); held.push(part); }
                    (3 | 4, Some(_)) => drop(held.swap_remove(which)),
                    (5, _) => waiting.push_back((amount, Box::pin(budget.wait_for(amount)))),
                    (6, _) if which < waiting.len() => drop(waiting.remove(which)),
                    _ => {}
                }
                // A turn of the executor; later ones first must not matter.
                let mut first = true;
                let mut left = VecDeque::new();
                while let Some((amount, mut future)) = waiting.pop_front() {
                    match future.as_mut().poll(&mut context) {
                        Poll::Ready(Ok(charge)) => { prop_assert!(first); held.push(charge); }
                        Poll::Ready(Err(Exhausted)) => prop_assert!(amount > limit),
                        Poll::Pending => { first = false; left.push_back((amount, future)); }
                    }
                }
                waiting = left;
                prop_assert_eq!(budget.used(), held.iter().map(Charge::amount).sum::<usize>());
                prop_assert!(budget.used() <= limit);
                prop_assert!(waiting.front().is_none_or(|(amount, _)| *amount > budget.left()));
            }
            drop(waiting);
            held.clear();
            prop_assert_eq!(budget.used(), 0);
            let whole = pin!(budget.wait_for(limit)).poll(&mut context);
            prop_assert!(whole.is_ready());
        }
    }
}
