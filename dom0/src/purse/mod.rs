//! What one guest may take of dom0. Every domain has one purse, from its creation to its end; whatever a guest can make
//! dom0 keep is charged to it before it is taken. Who has nothing left gets an error or waits on its own ring, and
//! nobody else notices.
//!
//! dom0's worst case is a sum: what it needs itself, and for each guest [`PER_GUEST`] bytes of heap and [`MAPPINGS`]
//! grant mappings. A guest is created only if its whole share is free and promised to nobody else.

mod budget;
mod log;

use alloc::{collections::BTreeMap, rc::Rc};
use core::cell::{Cell, RefCell};

pub use budget::{Budget, Charge, Exhausted};
pub use log::{Log, Rate, Suppressed};

/// Bytes of dom0's heap that one guest may take: nodes, watches, transactions and queues of the store, and what its
/// console keeps.
pub const HEAP: usize = 1 << 20;
/// The heap's holes: so many bytes of it may lie idle between those that are taken, for each of these.
const HOLES: usize = 1;
/// Grant mappings of one guest at a time: rings, requests in flight, pages that stay mapped. The hypervisor gives dom0
/// 16384 in all, which is 32 guests' share.
pub const MAPPINGS: usize = 512;
/// Watch events of the store that wait for one guest.
pub const EVENTS: usize = 1024;
/// Bytes that one mapping costs dom0 beside its address: the records of segment, piece and window.
const PER_MAPPING: usize = 256;
/// Bytes of a guest that no charge counts: its configuration, devices, tasks and their stacks of futures.
const FIXED: usize = 64 << 10;
/// Bytes of dom0's heap that one guest costs at most.
pub const PER_GUEST: usize = HEAP * (1 + HOLES) + MAPPINGS * PER_MAPPING + FIXED;

/// Lines on dom0's console that are about one guest or its own words.
pub const LOG_LINES: Rate = Rate { burst: 64, per_second: 4 };
/// Bytes of these lines: a serial line of 115200 baud carries 11520 a second.
pub const LOG_BYTES: Rate = Rate { burst: 8192, per_second: 256 };

/// One domain's budgets.
#[derive(Debug)]
pub struct Purse {
    /// Bytes of dom0's heap.
    pub heap: Budget,
    /// Grant mappings.
    pub mappings: Budget,
    /// Watch events of the store that wait.
    pub events: Budget,
    log: Log,
}

impl Purse {
    /// A guest's, with nothing taken.
    pub fn new() -> Rc<Self> {
        Self::with_limits(HEAP, MAPPINGS)
    }

    /// A purse of other limits.
    pub fn with_limits(heap: usize, mappings: usize) -> Rc<Self> {
        let (heap, mappings, events) = (Budget::new(heap), Budget::new(mappings), Budget::new(EVENTS));
        Rc::new(Self { heap, mappings, events, log: Log::new(LOG_LINES, LOG_BYTES) })
    }

    /// Whether a line of `bytes` bytes that this guest causes may stand on dom0's console at `now` (nanoseconds). Says
    /// how many lines were suppressed since the last one that could.
    ///
    /// # Errors
    /// [`Suppressed`] if there were too many.
    pub fn log(&self, now: u64, bytes: usize) -> Result<u64, Suppressed> {
        self.log.line(now, bytes)
    }
}

/// The purses of all domains, by number. A clone is another handle on the same ones.
#[derive(Clone, Debug)]
pub struct Purses {
    /// dom0's own, which counts and refuses nothing.
    dom0: Rc<Purse>,
    guests: Rc<RefCell<BTreeMap<u16, Rc<Purse>>>>,
    admitted: Rc<Cell<usize>>,
}

/// A guest's share of dom0's heap, promised to one that has no domain yet; dropped when it has, or will not.
#[derive(Debug)]
pub struct Admission(Rc<Cell<usize>>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Purses {
    /// dom0's only.
    pub fn new() -> Self {
        let [heap, mappings, events] = [(); 3].map(|()| Budget::unlimited());
        let dom0 = Rc::new(Purse { heap, mappings, events, log: Log::new(LOG_LINES, LOG_BYTES) });
        Self { dom0, guests: Rc::default(), admitted: Rc::default() }
    }

    /// The purse of `domain`; one without a purse of its own is dom0's doing, and dom0 pays.
    pub fn of(&self, domain: u16) -> Rc<Purse> {
        self.guests.borrow().get(&domain).unwrap_or(&self.dom0).clone()
    }

    /// Gives a domain a purse, unless it has one.
    pub fn open(&self, domain: u16) -> Rc<Purse> {
        if domain == 0 {
            return self.dom0.clone();
        }
        self.guests.borrow_mut().entry(domain).or_insert_with(Purse::new).clone()
    }

    /// The domain is gone. What is still charged stays so until it is let go.
    pub fn close(&self, domain: u16) {
        self.guests.borrow_mut().remove(&domain);
    }

    /// Bytes of heap that are promised to guests and not taken yet.
    pub fn promised(&self) -> usize {
        let rest = |purse: &Rc<Purse>| PER_GUEST.saturating_sub(purse.heap.used());
        self.guests.borrow().values().map(rest).sum::<usize>() + self.admitted.get() * PER_GUEST
    }

    /// Promises one more guest its share, where `free` bytes of heap are there for guests.
    ///
    /// # Errors
    /// [`Exhausted`] if they do not cover what is promised and one share more.
    pub fn admit(&self, free: usize) -> Result<Admission, Exhausted> {
        if free < self.promised().saturating_add(PER_GUEST) {
            return Err(Exhausted);
        }
        self.admitted.set(self.admitted.get() + 1);
        Ok(Admission(self.admitted.clone()))
    }
}

impl Default for Purses {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_has_one_purse_until_it_ends() {
        let purses = Purses::new();
        let first = purses.open(7);
        let charge = first.heap.charge(1000).unwrap();
        assert!(Rc::ptr_eq(&first, &purses.of(7)) && Rc::ptr_eq(&first, &purses.open(7)));
        assert_eq!(purses.promised(), PER_GUEST - 1000);
        purses.close(7);
        let second = purses.open(7);
        assert_eq!((second.heap.used(), purses.promised()), (0, PER_GUEST));
        drop(charge);
        assert_eq!(first.heap.used(), 0);
    }

    #[test]
    fn a_guest_is_admitted_only_where_its_whole_share_is_free() {
        let purses = Purses::new();
        let taken = purses.open(1).heap.charge(HEAP).unwrap();
        let promised = PER_GUEST - taken.amount();
        assert_eq!(purses.admit(promised + PER_GUEST - 1).err(), Some(Exhausted));
        let admission = purses.admit(promised + PER_GUEST).unwrap();
        assert_eq!(purses.admit(promised + PER_GUEST).err(), Some(Exhausted), "promised to the one before");
        purses.open(2);
        drop(admission);
        assert_eq!(purses.promised(), promised + PER_GUEST);
    }

    #[test]
    fn dom0_pays_for_itself_and_for_who_has_no_purse() {
        let purses = Purses::new();
        let charge = purses.of(9).heap.charge(HEAP + 1).unwrap();
        assert_eq!(purses.open(0).heap.used(), charge.amount());
        assert_eq!(purses.promised(), 0);
    }

    #[test]
    fn what_a_guest_says_is_bounded() {
        let purse = Purse::new();
        let through = (0..1000).filter(|_| purse.log(5, 80).is_ok()).count();
        assert_eq!(through as u64, LOG_LINES.burst);
    }
}
