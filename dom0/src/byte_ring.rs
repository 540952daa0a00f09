//! Byte rings in a page shared with a guest, as console and xenstore use them. The guest may write anything
//! anywhere at any time: indices are read once and believed only if they are possible.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

/// A page of atomic words.
pub type SharedPage = [AtomicU32; 1024];

/// The guest's index cannot be: more than the ring holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun;

/// Where one ring stands in its page, in words of 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// First word of the bytes.
    pub data: usize,
    /// Bytes, a power of two.
    pub size: u32,
    /// Index of the consumer.
    pub consumer: usize,
    /// Index of the producer.
    pub producer: usize,
}

fn word(page: &SharedPage, index: usize) -> Result<&AtomicU32, Overrun> {
    page.get(index).ok_or(Overrun)
}

impl Place {
    fn cell<'a>(&self, page: &'a SharedPage, at: u32) -> Result<(&'a AtomicU32, u32), Overrun> {
        let at = at & (self.size - 1);
        let index = usize::try_from(at / 4).map_err(|_| Overrun)?;
        Ok((word(page, self.data + index)?, at % 4 * 8))
    }

    /// Takes at most `room` bytes that the guest produced; says how many.
    pub fn take(&self, page: &SharedPage, room: usize, out: &mut Vec<u8>) -> Result<usize, Overrun> {
        let consumed = word(page, self.consumer)?.load(Ordering::Relaxed);
        let there = word(page, self.producer)?.load(Ordering::Acquire).wrapping_sub(consumed);
        if there > self.size {
            return Err(Overrun);
        }
        let count = there.min(u32::try_from(room).unwrap_or(u32::MAX));
        for at in 0..count {
            let (cell, shift) = self.cell(page, consumed.wrapping_add(at))?;
            out.push(cell.load(Ordering::Relaxed).wrapping_shr(shift).to_le_bytes()[0]);
        }
        word(page, self.consumer)?.store(consumed.wrapping_add(count), Ordering::Release);
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Puts as many of `bytes` as fit for the guest to consume; says how many.
    pub fn put(&self, page: &SharedPage, bytes: impl Iterator<Item = u8>) -> Result<usize, Overrun> {
        let produced = word(page, self.producer)?.load(Ordering::Relaxed);
        let waiting = produced.wrapping_sub(word(page, self.consumer)?.load(Ordering::Acquire));
        let room = self.size.checked_sub(waiting).ok_or(Overrun)?;
        let mut next = produced;
        for byte in bytes.take(usize::try_from(room).unwrap_or(0)) {
            let (cell, shift) = self.cell(page, next)?;
            // Only this side writes the ring's bytes by the protocol; a guest that does too hurts itself.
            let kept = cell.load(Ordering::Relaxed) & !(0xff << shift);
            cell.store(kept | u32::from(byte) << shift, Ordering::Relaxed);
            next = next.wrapping_add(1);
        }
        word(page, self.producer)?.store(next, Ordering::Release);
        Ok(usize::try_from(next.wrapping_sub(produced)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: Place = Place { data: 0, size: 64, consumer: 20, producer: 21 };

    fn page() -> SharedPage {
        [const { AtomicU32::new(0) }; 1024]
    }

    #[test]
    fn an_impossible_index_is_an_overrun() {
        let page = page();
        page[21].store(65, Ordering::Relaxed);
        assert_eq!(PLACE.take(&page, 100, &mut Vec::new()), Err(Overrun));
        page[20].store(66, Ordering::Relaxed);
        assert_eq!(PLACE.put(&page, core::iter::once(1)), Err(Overrun));
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(start: u32, parts in proptest::collection::vec((0usize..100, 0usize..100), 1..30)) {
            let page = page();
            page[20].store(start, Ordering::Relaxed);
            page[21].store(start, Ordering::Relaxed);
            let (mut sent, mut next, mut got) = (Vec::new(), 0u8, Vec::new());
            for (write, read) in parts {
                let bytes: Vec<u8> = (0..write).map(|_| { next = next.wrapping_add(7); next }).collect();
                let count = PLACE.put(&page, bytes.iter().copied()).unwrap();
                prop_assert!(count == write || sent.len() + count - got.len() == 64);
                sent.extend_from_slice(&bytes[..count]);
                next = sent.last().copied().unwrap_or(0);
                PLACE.take(&page, read, &mut got).unwrap();
                prop_assert!(sent.starts_with(&got));
            }
        }

        #[test]
        fn any_indices_are_survived(consumer: u32, producer: u32) {
            let page = page();
            page[20].store(consumer, Ordering::Relaxed);
            page[21].store(producer, Ordering::Relaxed);
            let mut out = Vec::new();
            let _ = PLACE.take(&page, usize::MAX, &mut out);
            let _ = PLACE.put(&page, core::iter::repeat_n(1, 100));
            prop_assert!(out.len() <= 64);
        }
    }
}
