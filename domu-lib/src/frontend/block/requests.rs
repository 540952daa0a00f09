//! The requests that are under way, and what the backend says of them: every answer is judged here before it counts.

use alloc::collections::BTreeMap;

use oxen_abi::io::blkif::{BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_OKAY, BlkifRequest, BlkifResponse};
use oxen_ring::FrontRing;
use zerocopy::{Immutable, IntoBytes};

use super::{BlockError, ProtocolError};

/// What an answer was for, and what it says.
type Answered<T> = (T, Result<(), BlockError>);

/// The ring, and for each request on it what its answer is for.
pub(super) struct Requests<'a, T> {
    ring: FrontRing<'a, BlkifRequest, BlkifResponse>,
    under_way: BTreeMap<u64, T>,
    next: u64,
}

impl<'a, T> Requests<'a, T> {
    /// Nothing is under way on this ring.
    pub(super) const fn new(ring: FrontRing<'a, BlkifRequest, BlkifResponse>) -> Self {
        Self { ring, under_way: BTreeMap::new(), next: 0 }
    }

    /// Whether there is room for a request.
    pub(super) const fn has_room(&self) -> bool {
        self.ring.free() > 0
    }

    /// Whether every request has its answer.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Puts the request that `make` makes of its number on the ring; gives back what the answer is for where there is
    /// no room.
    pub(super) fn push<Q: IntoBytes + Immutable>(&mut self, make: impl FnOnce(u64) -> Q, what: T) -> Result<(), T> {
        let id = self.next;
        if self.ring.push_as(&make(id)).is_err() {
            return Err(what);
        }
        self.next = id.wrapping_add(1);
        self.under_way.insert(id, what);
        Ok(())
    }

    /// The next request that has its answer, and what that says.
    ///
    /// # Errors
    /// [`ProtocolError`] when the backend says what cannot be.
    pub(super) fn answered(&mut self) -> Result<Option<Answered<T>>, ProtocolError> {
        let Some(response) = self.ring.pop().map_err(ProtocolError::Index)? else { return Ok(None) };
        let what = self.under_way.remove(&response.id).ok_or(ProtocolError::Id(response.id))?;
        let outcome = match response.status {
            BLKIF_RSP_OKAY => Ok(()),
            BLKIF_RSP_EOPNOTSUPP => Err(BlockError::NotSupported),
            _ => Err(BlockError::Failed),
        };
        Ok(Some((what, outcome)))
    }

    /// Shows the backend the requests; returns whether it wants an event.
    pub(super) fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Asks for an event on the next answer; returns whether some came meanwhile.
    ///
    /// # Errors
    /// [`ProtocolError`] when the backend says what cannot be.
    pub(super) fn final_check(&mut self) -> Result<bool, ProtocolError> {
        self.ring.final_check().map_err(ProtocolError::Index)
    }

    /// Forgets all that is under way, and hands it over in the order in which it was put on the ring.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = T> {
        core::mem::take(&mut self.under_way).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU32, Ordering};
    use oxen_ring::{BackRing, Page};
    use proptest::prelude::*;
    use std::vec::Vec;
    use zerocopy::FromZeros;

    fn page() -> [Page; 1] {
        [[const { AtomicU32::new(0) }; 1024]]
    }

    fn answer(id: u64, status: i16) -> BlkifResponse {
        BlkifResponse { id, status, ..BlkifResponse::new_zeroed() }
    }

    fn make(id: u64) -> BlkifRequest {
        BlkifRequest { id, ..BlkifRequest::new_zeroed() }
    }

    #[test]
    fn answers_in_any_order_go_to_who_asked() {
        let page = page();
        let mut requests = Requests::new(FrontRing::new(&page).unwrap());
        ["a", "b", "c"].into_iter().for_each(|what| requests.push(make, what).unwrap());
        assert!(requests.publish() && !requests.is_idle());
        let mut back = BackRing::<BlkifRequest, BlkifResponse>::attach(&page).unwrap();
        while back.pop().unwrap().is_some() {}
        for (id, status) in [(2, 0), (0, -1), (1, -2)] {
            back.push(&answer(id, status)).unwrap();
        }
        let _ = back.publish();
        assert_eq!(requests.answered(), Ok(Some(("c", Ok(())))));
        assert_eq!(requests.answered(), Ok(Some(("a", Err(BlockError::Failed)))));
        assert_eq!(requests.answered(), Ok(Some(("b", Err(BlockError::NotSupported)))));
        assert_eq!((requests.answered(), requests.is_idle()), (Ok(None), true));
    }

    #[test]
    fn what_cannot_be_is_said_as_what_it_is() {
        let page = page();
        let mut requests = Requests::new(FrontRing::new(&page).unwrap());
        requests.push(make, ()).unwrap();
        let _ = requests.publish();
        let mut back = BackRing::<BlkifRequest, BlkifResponse>::attach(&page).unwrap();
        back.pop().unwrap();
        back.push(&answer(7, 0)).unwrap();
        let _ = back.publish();
        let error = requests.answered().unwrap_err();
        assert_eq!(std::format!("{error}"), "an answer to request 7, which is not under way");
        page[0][2].store(9, Ordering::Relaxed);
        let error = BlockError::from(requests.answered().unwrap_err());
        assert_eq!(std::format!("{error}"), "the backend broke the protocol: ring index 9 beyond 1");
        assert_eq!(requests.abandon().count(), 1);
    }

    /// One thing that a backend does.
    #[derive(Clone, Copy, Debug)]
    enum Deed {
        /// Answers a request that it has taken.
        Serve(usize, i16),
        /// Answers with any bytes.
        Answer([u8; 16]),
        /// Writes any word anywhere in the page.
        Poke(usize, u32),
        /// The frontend asks for something.
        Ask,
    }

    fn deed() -> impl Strategy<Value = Deed> {
        let word = prop_oneof![2 => 0..4_usize, 1 => 0..1024_usize];
        let value = prop_oneof![any::<u32>(), 0..600_u32];
        prop_oneof![
            8 => (any::<usize>(), -3..2_i16).prop_map(|(which, status)| Deed::Serve(which, status)),
            2 => any::<[u8; 16]>().prop_map(Deed::Answer),
            1 => (word, value).prop_map(|(word, value)| Deed::Poke(word, value)),
            12 => Just(Deed::Ask),
        ]
    }

    proptest! {
        /// Whatever a backend does, each request is answered once at most, and none is forgotten.
        #[test]
        fn no_backend_breaks_the_requests(deeds in proptest::collection::vec(deed(), 0..300)) {
            let page = page();
            let mut requests = Requests::new(FrontRing::new(&page).unwrap());
            let mut back = BackRing::<BlkifRequest, BlkifResponse>::attach(&page).unwrap();
            let (mut asked, mut taken, mut told) = (0_u64, Vec::new(), Vec::new());
            for deed in deeds {
                match deed {
                    Deed::Ask => {
                        asked += u64::from(requests.push(make, asked).is_ok());
                        let _ = requests.publish();
                    }
                    Deed::Serve(which, status) => {
                        while let Ok(Some(request)) = back.pop() {
                            taken.push(request.id);
                        }
                        if !taken.is_empty() {
                            let id = taken.swap_remove(which % taken.len());
                            let _ = back.push(&answer(id, status));
                        }
                        let _ = back.publish();
                    }
                    Deed::Answer(bytes) => {
                        let _ = back.pop();
                        let _ = back.push_as(&bytes);
                        let _ = back.publish();
                    }
                    Deed::Poke(word, value) => page[0][word].store(value, Ordering::Relaxed),
                }
                let broken = loop {
                    match requests.answered() {
                        Ok(Some((what, _))) => told.push(what),
                        Ok(None) => break false,
                        Err(_) => break true,
                    }
                };
                prop_assert!(asked - told.len() as u64 <= 32, "more are under way than there are slots");
                if broken || requests.final_check().is_err() {
                    break;
                }
            }
            told.extend(requests.abandon());
            told.sort_unstable();
            prop_assert_eq!(told, (0..asked).collect::<Vec<_>>());
        }
    }
}
