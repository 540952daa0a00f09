//! The backend's half of a block ring of one or more pages. A request leaves it once, as a private copy.

use core::sync::atomic::{AtomicU32, Ordering, fence};

use oxen_abi::io::blkif::{BlkifRequest, BlkifResponse};
use zerocopy::{FromBytes, IntoBytes};

/// Words of the header: the four indices, and what is left free.
const HEADER: usize = 16;
/// Words of an entry.
const ENTRY: usize = size_of::<BlkifRequest>() / 4;

const REQUEST_PRODUCER: usize = 0;
const REQUEST_EVENT: usize = 1;
const RESPONSE_PRODUCER: usize = 2;
const RESPONSE_EVENT: usize = 3;

/// The frontend claims more requests than the ring holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hostile;

/// The backend's own indices.
#[derive(Debug)]
pub struct BackRing {
    consumed: u32,
    responded: u32,
    size: u32,
}

impl BackRing {
    /// A ring in `words`; goes on where the frontend's response index stands.
    pub fn new(words: &[AtomicU32]) -> Self {
        let room = words.len().saturating_sub(HEADER) / ENTRY;
        let size = room.checked_ilog2().map_or(0, |log| 1 << log);
        let start = words.get(RESPONSE_PRODUCER).map_or(0, |word| word.load(Ordering::Relaxed));
        Self { consumed: start, responded: start, size }
    }

    /// Entries.
    pub fn size(&self) -> u32 {
        self.size
    }

    fn entry<'a>(&self, words: &'a [AtomicU32], index: u32) -> &'a [AtomicU32] {
        let at = HEADER + usize::try_from(index & self.size.wrapping_sub(1)).unwrap_or(0) * ENTRY;
        words.get(at..at + ENTRY).unwrap_or_default()
    }

    /// Takes the next request; after `None` the frontend notifies when it produces one.
    pub fn take(&mut self, words: &[AtomicU32]) -> Result<Option<BlkifRequest>, Hostile> {
        let (Some(producer), Some(event)) = (words.get(REQUEST_PRODUCER), words.get(REQUEST_EVENT)) else {
            return Err(Hostile);
        };
        if producer.load(Ordering::Acquire) == self.consumed {
            event.store(self.consumed.wrapping_add(1), Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
        let produced = producer.load(Ordering::Acquire);
        // Neither more than fit, nor any for which there is no place to answer.
        if produced.wrapping_sub(self.responded) > self.size {
            return Err(Hostile);
        }
        if produced == self.consumed {
            return Ok(None);
        }
        let mut copy = [0u8; size_of::<BlkifRequest>()];
        for (bytes, word) in copy.as_chunks_mut::<4>().0.iter_mut().zip(self.entry(words, self.consumed)) {
            *bytes = word.load(Ordering::Relaxed).to_le_bytes();
        }
        self.consumed = self.consumed.wrapping_add(1);
        BlkifRequest::read_from_bytes(&copy).map(Some).map_err(|_| Hostile)
    }

    /// Answers a request; says whether the frontend wants to be notified.
    pub fn answer(&mut self, words: &[AtomicU32], response: &BlkifResponse) -> bool {
        let (bytes, _) = response.as_bytes().as_chunks::<4>();
        for (word, bytes) in self.entry(words, self.responded).iter().zip(bytes) {
            word.store(u32::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        let old = self.responded;
        self.responded = old.wrapping_add(1);
        if let Some(producer) = words.get(RESPONSE_PRODUCER) {
            producer.store(self.responded, Ordering::Release);
        }
        fence(Ordering::SeqCst);
        let event = words.get(RESPONSE_EVENT).map_or(0, |word| word.load(Ordering::Relaxed));
        self.responded.wrapping_sub(event) < self.responded.wrapping_sub(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn page(pages: usize) -> Vec<AtomicU32> {
        (0..1024 * pages).map(|_| AtomicU32::new(0)).collect()
    }

    #[test]
    fn sizes_are_those_of_the_protocol() {
        assert_eq!(BackRing::new(&page(1)).size(), 32);
        assert_eq!(BackRing::new(&page(2)).size(), 64);
        assert_eq!(BackRing::new(&page(16)).size(), 512);
    }

    #[test]
    fn a_request_is_copied_and_answered() {
        let words = page(1);
        let mut ring = BackRing::new(&words);
        assert_eq!(ring.take(&words), Ok(None));
        assert_eq!(words[REQUEST_EVENT].load(Ordering::Relaxed), 1);
        words[HEADER].store(0x0301, Ordering::Relaxed);
        words[HEADER + 2].store(77, Ordering::Relaxed);
        words[REQUEST_PRODUCER].store(1, Ordering::Relaxed);
        words[RESPONSE_EVENT].store(1, Ordering::Relaxed);
        let request = ring.take(&words).unwrap().unwrap();
        assert_eq!((request.operation, request.nr_segments, request.id), (1, 3, 77));
        let response = BlkifResponse { id: 77, operation: 1, _pad0: 0, status: -1, _pad1: 0 };
        assert!(ring.answer(&words, &response));
        assert_eq!(words[HEADER].load(Ordering::Relaxed), 77);
        assert_eq!(words[HEADER + 2].load(Ordering::Relaxed), 0xffff_0001);
        assert_eq!(words[RESPONSE_PRODUCER].load(Ordering::Relaxed), 1);
        assert!(!ring.answer(&words, &response), "asked for the first only");
    }

    #[test]
    fn too_many_requests_are_hostile() {
        let words = page(1);
        let mut ring = BackRing::new(&words);
        words[REQUEST_PRODUCER].store(33, Ordering::Relaxed);
        assert_eq!(ring.take(&words), Err(Hostile));
        words[REQUEST_PRODUCER].store(32, Ordering::Relaxed);
        (0..32).for_each(|_| assert!(ring.take(&words).unwrap().is_some()));
        words[REQUEST_PRODUCER].store(33, Ordering::Relaxed);
        assert_eq!(ring.take(&words), Err(Hostile), "no place to answer");
    }

    proptest! {
        #[test]
        fn any_producer_is_survived(values in proptest::collection::vec(any::<u32>(), 1..20), near: bool) {
            let words = page(1);
            let mut ring = BackRing::new(&words);
            for value in values {
                words[REQUEST_PRODUCER].store(if near { value % 64 } else { value }, Ordering::Relaxed);
                if let Ok(Some(_)) = ring.take(&words) {
                    prop_assert!(ring.consumed.wrapping_sub(ring.responded) <= 32);
                }
            }
        }
    }
}
