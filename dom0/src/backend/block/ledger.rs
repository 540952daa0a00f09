//! A disk's requests from the moment they leave the ring until their answers stand there: what one instance of the
//! backend leaves to the next.
//!
//! Answers go onto the ring in the order in which they come and take the places of older requests, so the ring alone
//! does not tell which requests are unanswered. The ledger does. A request enters it as it leaves the ring, and leaves
//! it as its answer goes onto the ring, with nothing in between that could wait: wherever an instance ends, the next
//! one finds every request either on the ring, or in the ledger, or answered. Doing a request of the ledger once more
//! is harmless while it has no answer: its frontend leaves pages and sectors alone until then. What the disk still has
//! in work of it has to come to its end before.

use alloc::{collections::BTreeMap, vec::Vec};
use core::cell::{Cell, RefCell};

use oxen_abi::io::blkif::{BlkifRequest, BlkifResponse};
use oxen_domu_lib::task::JoinHandle;
use oxen_ring::{AttachError, BackRing, Overrun, Page, Position};

/// The number of a request: its place in the sequence of all requests of the ring.
pub type Number = u32;

/// Requests off the ring, and how far the ring was served.
#[derive(Debug, Default)]
pub struct Ledger {
    position: Cell<Option<Position>>,
    open: RefCell<BTreeMap<Number, Entry>>,
}

/// A request without an answer, and who works at it.
#[derive(Debug)]
struct Entry {
    request: BlkifRequest,
    worker: Option<JoinHandle<()>>,
}

impl Ledger {
    /// Requests without an answer that nobody works at: those of an instance that has ended.
    pub fn orphans(&self) -> Vec<(Number, BlkifRequest)> {
        let open = self.open.borrow();
        open.iter()
            .filter(|(_, entry)| entry.worker.is_none())
            .map(|(&number, entry)| (number, entry.request))
            .collect()
    }

    /// Says who works at a request.
    pub fn assign(&self, number: Number, worker: JoinHandle<()>) {
        if let Some(entry) = self.open.borrow_mut().get_mut(&number) {
            entry.worker = Some(worker);
        }
    }

    /// Ends the work at all requests where it stands.
    pub fn cancel(&self) {
        let workers: Vec<_> = self.open.borrow_mut().values_mut().filter_map(|entry| entry.worker.take()).collect();
        workers.into_iter().for_each(JoinHandle::cancel);
    }
}

/// A ring that is served by a ledger.
pub struct Desk<'a> {
    ring: BackRing<'a, BlkifRequest, BlkifResponse>,
    ledger: &'a Ledger,
}

impl<'a> Desk<'a> {
    /// Takes a frontend's new ring on, or goes on where the last instance stopped.
    ///
    /// # Errors
    /// The ring has no page, or claims more requests than it has slots.
    pub fn open(pages: &'a [Page], ledger: &'a Ledger) -> Result<Self, AttachError> {
        let ring = match ledger.position.get() {
            Some(position) => BackRing::resume(pages, position)?,
            None => BackRing::attach(pages)?,
        };
        let desk = Self { ring, ledger };
        desk.note();
        Ok(desk)
    }

    fn note(&self) {
        self.ledger.position.set(Some(self.ring.position()));
    }

    /// Requests without an answer.
    pub const fn unanswered(&self) -> u32 {
        self.ring.unanswered()
    }

    /// Takes the next request off the ring.
    ///
    /// # Errors
    /// [`Overrun`]: the frontend claims more requests than there are slots.
    pub fn take(&mut self) -> Result<Option<(Number, BlkifRequest)>, Overrun> {
        let number = self.ring.position().consumed();
        let Some(request) = self.ring.pop()? else { return Ok(None) };
        self.ledger.open.borrow_mut().insert(number, Entry { request, worker: None });
        self.note();
        Ok(Some((number, request)))
    }

    /// Puts the answer to a request of the ledger onto the ring; one that has its answer gets no other.
    pub fn answer(&mut self, number: Number, response: &BlkifResponse) {
        if self.ledger.open.borrow_mut().remove(&number).is_some() {
            // There is a place for it: its request was taken off the ring.
            let _ = self.ring.push(response);
            self.note();
        }
    }

    /// Shows the frontend all answers. Returns whether it wants an event for them.
    #[must_use = "the frontend may be waiting for an event"]
    pub fn publish(&mut self) -> bool {
        let wanted = self.ring.publish();
        self.note();
        wanted
    }

    /// Asks for an event on the next request; returns whether there is one by now.
    ///
    /// # Errors
    /// [`Overrun`]: the frontend claims more requests than there are slots.
    pub fn final_check(&mut self) -> Result<bool, Overrun> {
        self.ring.final_check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU32;
    use oxen_domu_lib::task;
    use oxen_ring::FrontRing;
    use proptest::prelude::*;
    use zerocopy::FromZeros;

    fn pages() -> [Page; 1] {
        [[const { AtomicU32::new(0) }; 1024]]
    }

    fn request(id: u64) -> BlkifRequest {
        BlkifRequest { id, ..BlkifRequest::new_zeroed() }
    }

    fn answer(request: &BlkifRequest) -> BlkifResponse {
        BlkifResponse { id: request.id, ..BlkifResponse::new_zeroed() }
    }

    /// What happens next.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// The frontend makes requests.
        Ask(u8),
        /// The backend takes one.
        Take,
        /// It answers one of those that it has taken.
        Answer(usize),
        /// It shows its answers.
        Publish,
        /// It ends where it stands, and another takes its place.
        Restart,
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (1..8_u8).prop_map(Event::Ask),
            8 => Just(Event::Take),
            6 => any::<usize>().prop_map(Event::Answer),
            3 => Just(Event::Publish),
            2 => Just(Event::Restart),
        ]
    }

    proptest! {
        /// Answered out of order, and begun anew at any moment: every request has one answer in the end.
        #[test]
        fn every_request_is_answered_once_however_often_the_backend_begins_anew(
            events in proptest::collection::vec(any_event(), 1..300)
        ) {
            let (shared, ledger) = (pages(), Ledger::default());
            let mut front = FrontRing::<BlkifRequest, BlkifResponse>::new(&shared).unwrap();
            let (mut asked, mut answers) = (0_u64, Vec::new());
            let mut desk = Desk::open(&shared, &ledger).unwrap();
            let mut in_work: Vec<(Number, BlkifRequest)> = Vec::new();
            for event in events {
                match event {
                    Event::Ask(count) => {
                        for _ in 0..count {
                            asked += u64::from(front.push(&request(asked)).is_ok());
                        }
                        let _ = front.publish();
                    }
                    Event::Take => in_work.extend(desk.take().unwrap()),
                    Event::Answer(which) if !in_work.is_empty() => {
                        let (number, request) = in_work.swap_remove(which % in_work.len());
                        desk.answer(number, &answer(&request));
                    }
                    Event::Answer(_) => {}
                    Event::Publish => _ = desk.publish(),
                    Event::Restart => {
                        desk = Desk::open(&shared, &ledger).unwrap();
                        in_work = ledger.orphans();
                    }
                }
                while let Some(response) = front.pop().unwrap() {
                    answers.push(response.id);
                }
            }
            while let Some(taken) = desk.take().unwrap() {
                in_work.push(taken);
            }
            for (number, request) in in_work {
                desk.answer(number, &answer(&request));
            }
            let _ = desk.publish();
            while let Some(response) = front.pop().unwrap() {
                answers.push(response.id);
            }
            answers.sort_unstable();
            prop_assert_eq!(answers, (0..asked).collect::<Vec<_>>());
            prop_assert!(ledger.open.borrow().is_empty());
        }
    }

    /// The ring alone would give the answered request once more, and forget the other.
    #[test]
    fn a_request_whose_place_another_answer_took_is_not_forgotten() {
        let (shared, ledger) = (pages(), Ledger::default());
        let mut front = FrontRing::<BlkifRequest, BlkifResponse>::new(&shared).unwrap();
        front.push(&request(7)).unwrap();
        front.push(&request(8)).unwrap();
        let _ = front.publish();
        let mut desk = Desk::open(&shared, &ledger).unwrap();
        desk.take().unwrap().unwrap();
        let (number, second) = desk.take().unwrap().unwrap();
        desk.answer(number, &answer(&second));
        let _ = desk.publish();
        let mut desk = Desk::open(&shared, &ledger).unwrap();
        assert_eq!(desk.take(), Ok(None));
        let orphans = ledger.orphans();
        assert_eq!(orphans.iter().map(|(_, request)| request.id).collect::<Vec<_>>(), [7]);
        let (number, first) = orphans[0];
        desk.answer(number, &answer(&first));
        desk.answer(number, &answer(&first));
        let _ = desk.publish();
        let ids: Vec<_> = core::iter::from_fn(|| front.pop().unwrap()).map(|response| response.id).collect();
        assert_eq!(ids, [8, 7]);
    }

    #[test]
    fn who_works_at_a_request_is_stopped_where_it_stands() {
        task::run(async {
            let (shared, ledger) = (pages(), Ledger::default());
            let mut front = FrontRing::<BlkifRequest, BlkifResponse>::new(&shared).unwrap();
            front.push(&request(1)).unwrap();
            let _ = front.publish();
            let (number, _) = Desk::open(&shared, &ledger).unwrap().take().unwrap().unwrap();
            let held = alloc::rc::Rc::new(());
            let in_task = held.clone();
            ledger.assign(
                number,
                task::spawn(async move {
                    task::yield_now().await;
                    drop(in_task);
                }),
            );
            assert!(ledger.orphans().is_empty());
            ledger.cancel();
            assert_eq!((alloc::rc::Rc::strong_count(&held), ledger.orphans().len()), (1, 1));
        });
    }
}
