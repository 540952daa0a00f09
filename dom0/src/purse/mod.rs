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
/// Grant mappings of one guest at a time: rings, pages that stay mapped, requests in flight. The hypervisor's limit for
/// dom0 (262144) is more than the sum for all guests that there can be.
pub const MAPPINGS: usize = RING_MAPPINGS + KEPT_MAPPINGS + REQUEST_MAPPINGS;
/// Pages of the rings of a guest's devices: eight disks with rings of the greatest size.
const RING_MAPPINGS: usize = 128;
/// Pages that stay mapped between requests: as many as Linux's block frontend keeps granted for one disk.
const KEPT_MAPPINGS: usize = 352;
/// Pages of requests at a time: as many as the queue of a disk holds, which is no less than one request has.
const REQUEST_MAPPINGS: usize = 256;
/// Pages that dom0 maps for one guest's requests before others have their turn: as many as go to the hypervisor at a
/// time.
pub const TURN: usize = 32;
/// Watch events of the store that wait for one guest.
pub const EVENTS: usize = 1024;
/// Bytes that one mapping costs dom0 beside its address: the records of segment, piece and window.
const PER_MAPPING: usize = 256;
/// Bytes of a guest that no charge counts: its configuration, devices, tasks and their stacks of futures.
const FIXED: usize = 64 << 10;
/// Bytes of dom0's heap that one guest costs at most.
pub const PER_GUEST: usize = HEAP * (1 + HOLES) + MAPPINGS * PER_MAPPING + FIXED;

/// One domain's budgets.
#[derive(Debug)]
pub struct Purse {
    /// Bytes of dom0's heap.
    pub heap: Budget,
    /// Grant mappings.
    pub mappings: Mappings,
    /// Watch events of the store that wait.
    pub events: Budget,
    /// What of a turn of dom0's tasks the guest's requests have used, of [`TURN`].
    pub turn: Budget,
    /// Lines on dom0's console.
    pub log: Rc<Log>,
}

/// Budgets of grant mappings, by how long they last: so who waits for pages of a request waits for requests only, which
/// end by themselves, and never for a ring or a page that stays.
#[derive(Debug)]
pub struct Mappings {
    /// Pages of rings: taken when a device connects, or it does not.
    pub rings: Budget,
    /// Pages that stay mapped because their frontend keeps them granted; beyond these they are mapped anew each time.
    pub kept: Budget,
    /// Pages of requests in flight, which wait for each other.
    pub requests: Budget,
}

impl Purse {
    /// A guest's, with nothing taken; lines about it count in `log`.
    pub fn new(log: Rc<Log>) -> Rc<Self> {
        let mappings = Mappings {
            rings: Budget::new(RING_MAPPINGS),
            kept: Budget::new(KEPT_MAPPINGS),
            requests: Budget::new(REQUEST_MAPPINGS),
        };
        let (heap, events, turn) = (Budget::new(HEAP), Budget::new(EVENTS), Budget::new(TURN));
        Rc::new(Self { heap, mappings, events, turn, log })
    }

    /// One that counts and refuses nothing.
    fn unlimited() -> Rc<Self> {
        let [rings, kept, requests, heap, events, turn] = [(); 6].map(|()| Budget::unlimited());
        Rc::new(Self { heap, mappings: Mappings { rings, kept, requests }, events, turn, log: Log::of_guest() })
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
        Self { dom0: Purse::unlimited(), guests: Rc::default(), admitted: Rc::default() }
    }

    /// The purse of `domain`; one without a purse of its own is dom0's doing, and dom0 pays.
    pub fn of(&self, domain: u16) -> Rc<Purse> {
        self.guests.borrow().get(&domain).unwrap_or(&self.dom0).clone()
    }

    /// Gives a domain a purse, unless it has one.
    pub fn open(&self, domain: u16) -> Rc<Purse> {
        self.open_with(domain, Log::of_guest)
    }

    /// As [`Self::open`] with the log of a guest that has been here before: who ends and starts again and again says no
    /// more for it.
    pub fn open_again(&self, domain: u16, log: &Rc<Log>) -> Rc<Purse> {
        self.open_with(domain, || log.clone())
    }

    fn open_with(&self, domain: u16, log: impl FnOnce() -> Rc<Log>) -> Rc<Purse> {
        if domain == 0 {
            return self.dom0.clone();
        }
        self.guests.borrow_mut().entry(domain).or_insert_with(|| Purse::new(log())).clone()
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
    fn what_a_guest_says_is_bounded_also_when_it_starts_again() {
        let (purses, log) = (Purses::new(), Log::of_guest());
        let mut through = 0;
        for domain in 1..10 {
            let purse = purses.open_again(domain, &log);
            through += (0..100).filter(|_| purse.log.line(5, 80).is_ok()).count();
            purses.close(domain);
        }
        assert_eq!(through as u64, log::LINES.burst);
    }
}
