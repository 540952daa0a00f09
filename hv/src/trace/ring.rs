//! The ring of one CPU: records that it writes and the control domain takes (`t_buf`, `trace.h`).
//!
//! Two words stand at its begin: how far the control domain has read, and how far was written, in bytes, modulo twice
//! the bytes of the data behind them. So a full ring and an empty one are not the same. A record lies in one piece:
//! where the end of the data has no room for it, a record of nothing fills that. What finds no room at all is counted,
//! and the next record that does is preceded by one that says how many were lost.

use crate::{
    addr::PAGE_SIZE,
    heap::{self, Reserve},
};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use oxen_abi::{
    errno::Errno,
    trace::{TRACE_EXTRA_MAX, TRC_LOST_RECORDS, TRC_TRACE_WRAP_BUFFER, header},
};

/// Words of a page.
pub(super) const PAGE_WORDS: usize = PAGE_SIZE as usize / 4;
/// A page of a ring.
pub(super) type Page = &'static [AtomicU32; PAGE_WORDS];

/// Words at the begin of a ring: read, and written.
const META_WORDS: u32 = 2;
/// Words of a record beside what it says: the header and a time stamp.
const HEAD_WORDS: u32 = 3;
/// Words that a record of lost records says.
const LOST_WORDS: u32 = 4;

/// A CPU's ring. Only that CPU writes to it, and is not interrupted by itself.
#[derive(Debug)]
pub(super) struct Ring {
    pages: Box<[Option<Page>]>,
    /// Words of data.
    words: u32,
    /// How far was written, as the ring says in bytes. What stands there anybody who maps the ring can change.
    written: AtomicU32,
    /// Records that found no room since the last that did.
    lost: AtomicU32,
    /// When the first of them came.
    lost_since: AtomicU64,
    /// Domain and vcpu that the CPU runs, for who asks whose records were lost.
    running: AtomicU32,
}

/// What came of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It stands in the ring.
    Yes,
    /// Likewise, and with it half of the ring is full.
    HalfFull,
    /// There was no room.
    No,
}

impl Ring {
    /// An empty ring in so many pages, which hold zeros.
    ///
    /// # Errors
    /// `NoMem` without memory for the list of pages, `Inval` if there are not so many, or none.
    pub(super) fn new(
        machine: &impl Reserve,
        count: usize,
        mut next: impl FnMut() -> Option<Page>,
    ) -> Result<Self, Errno> {
        let pages = heap::row(machine, count, |_| next())?;
        if pages.iter().any(Option::is_none) {
            return Err(Errno::Inval);
        }
        Ok(Self {
            pages,
            words: ((count * PAGE_WORDS) as u32).checked_sub(META_WORDS).ok_or(Errno::Inval)?,
            written: AtomicU32::new(0),
            lost: AtomicU32::new(0),
            lost_since: AtomicU64::new(0),
            running: AtomicU32::new(u32::MAX),
        })
    }

    /// The CPU runs another vcpu from now on.
    pub(super) fn run(&self, vcpu_and_domain: u32) {
        self.running.store(vcpu_and_domain, Ordering::Relaxed);
    }

    /// What was lost is not told of any more.
    pub(super) fn forget_lost(&self) {
        self.lost.store(0, Ordering::Relaxed);
    }

    /// Writes a record, for whose `extra` there is room in one, at most [`TRACE_EXTRA_MAX`] words.
    pub(super) fn write(&self, event: u32, time: u64, extra: &[u32]) -> Written {
        debug_assert!(extra.len() <= TRACE_EXTRA_MAX);
        let lost = self.lost.load(Ordering::Relaxed);
        let begin = self.written.load(Ordering::Relaxed) / 4;
        let needed = HEAD_WORDS + extra.len() as u32;
        let first = if lost == 0 { begin } else { self.after(begin, HEAD_WORDS + LOST_WORDS) };
        let end = self.after(first, needed);
        let Some(used) = self.used(begin).filter(|used| used + self.between(begin, end) <= self.words) else {
            if lost == 0 {
                self.lost_since.store(time, Ordering::Relaxed);
            }
            self.lost.store(lost.saturating_add(1), Ordering::Relaxed);
            return Written::No;
        };
        if lost != 0 {
            let since = self.lost_since.load(Ordering::Relaxed);
            // Domain and vcpu the other way round than in a runstate's record.
            let who = self.running.load(Ordering::Relaxed).rotate_left(16);
            self.put(begin, TRC_LOST_RECORDS, time, &[lost, who, since as u32, (since >> 32) as u32]);
            self.lost.store(0, Ordering::Relaxed);
        }
        self.put(first, event, time, extra);
        self.written.store(end * 4, Ordering::Relaxed);
        if let Some(written) = self.word(1) {
            written.store(end * 4, Ordering::Release);
        }
        let half = self.words / 2;
        if used < half && used + self.between(begin, end) >= half { Written::HalfFull } else { Written::Yes }
    }

    /// Words that wait to be read; `None` where what the reader says cannot be.
    fn used(&self, written: u32) -> Option<u32> {
        let read = self.word(0)?.load(Ordering::Acquire);
        let is_sound = read.is_multiple_of(4) && read / 4 < 2 * self.words;
        is_sound.then(|| self.between(read / 4, written)).filter(|&used| used <= self.words)
    }

    /// Words from one place to another.
    const fn between(&self, from: u32, to: u32) -> u32 {
        if to >= from { to - from } else { to + 2 * self.words - from }
    }

    /// A place so many words further on.
    const fn ahead(&self, place: u32, words: u32) -> u32 {
        let next = place + words;
        if next >= 2 * self.words { next - 2 * self.words } else { next }
    }

    /// Words from a place to the end of the data.
    const fn to_end(&self, place: u32) -> u32 {
        if place < self.words { self.words - place } else { 2 * self.words - place }
    }

    /// The place behind a record of so many words that is put at `place`.
    const fn after(&self, place: u32, words: u32) -> u32 {
        let to_end = self.to_end(place);
        self.ahead(place, if to_end < words { to_end + words } else { words })
    }

    /// Puts a record at `place`, or at the begin of the data where it does not fit there.
    fn put(&self, place: u32, event: u32, time: u64, extra: &[u32]) {
        let to_end = self.to_end(place);
        let mut at = place;
        if to_end < HEAD_WORDS + extra.len() as u32 {
            // Nothing has at most one word less than the greatest record, and that one has a time stamp.
            let has_time = to_end > 1 + TRACE_EXTRA_MAX as u32;
            let says = to_end - if has_time { HEAD_WORDS } else { 1 };
            self.set(at, header(TRC_TRACE_WRAP_BUFFER, says as usize, has_time));
            (1..to_end).for_each(|word| self.set(at + word, 0));
            at = self.ahead(at, to_end);
        }
        self.set(at, header(event, extra.len(), true));
        self.set(at + 1, time as u32);
        self.set(at + 2, (time >> 32) as u32);
        for (word, &value) in (at + HEAD_WORDS..).zip(extra) {
            self.set(word, value);
        }
    }

    /// Sets a word of the data.
    fn set(&self, place: u32, value: u32) {
        let place = if place < self.words { place } else { place - self.words };
        if let Some(word) = self.word(META_WORDS + place) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn word(&self, index: u32) -> Option<&'static AtomicU32> {
        (*self.pages.get(index as usize / PAGE_WORDS)?)?.get(index as usize % PAGE_WORDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxen_abi::trace::Record;
    use proptest::prelude::*;

    struct Host;

    impl Reserve for Host {
        fn reserve(&self, _: usize) -> Result<(), Errno> {
            Ok(())
        }
    }

    fn ring(pages: usize) -> Ring {
        Ring::new(&Host, pages, || Some(Box::leak(Box::new([const { AtomicU32::new(0) }; PAGE_WORDS])))).unwrap()
    }

    /// Words of the longest record.
    const LONGEST: usize = HEAD_WORDS as usize + TRACE_EXTRA_MAX;

    type Owned = (u32, Option<u64>, std::vec::Vec<u32>);

    /// Reads as a tool does, all that is there or so many records.
    fn read(ring: &Ring, most: usize) -> std::vec::Vec<Owned> {
        let (read, written) = (ring.word(0).unwrap(), ring.word(1).unwrap().load(Ordering::Acquire) / 4);
        let mut at = read.load(Ordering::Relaxed) / 4;
        let mut records = std::vec::Vec::new();
        while at != written && records.len() < most {
            let place = |at| if at < ring.words { at } else { at - ring.words };
            let window: std::vec::Vec<u32> = (place(at)..ring.words)
                .take((ring.between(at, written) as usize).min(LONGEST))
                .map(|place| ring.word(META_WORDS + place).unwrap().load(Ordering::Relaxed))
                .collect();
            let (record, rest) = Record::split_first(&window).expect("a record lies in one piece");
            at = ring.ahead(at, (window.len() - rest.len()) as u32);
            if record.event != TRC_TRACE_WRAP_BUFFER {
                records.push((record.event, record.time, record.extra.to_vec()));
            }
        }
        read.store(at * 4, Ordering::Relaxed);
        records
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let ring = ring(1);
        assert_eq!(ring.write(0x21021, 0x1_0000_0002, &[7, 8]), Written::Yes);
        assert_eq!(read(&ring, 9), [(0x21021, Some(0x1_0000_0002), std::vec![7, 8])]);
        assert!(read(&ring, 9).is_empty());
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told_of_before_the_next_that_does() {
        let ring = ring(1);
        ring.run(2 | 5 << 16);
        let (mut stands, mut half_full) = (0, 0);
        while ring.write(1, stands, &[1, 2, 3]) != Written::No {
            stands += 1;
            half_full += usize::from(ring.used(ring.written.load(Ordering::Relaxed) / 4).unwrap() >= 511);
        }
        assert_eq!(stands, 1022 / 6);
        assert!(half_full > 1);
        assert_eq!(ring.write(1, 1000, &[1, 2, 3]), Written::No);
        assert_eq!(read(&ring, usize::MAX).len() as u64, stands);
        assert_eq!(ring.write(9, 2000, &[]), Written::Yes);
        // Two were lost, by vcpu 2 of domain 5, from when the first did not fit.
        let lost = (TRC_LOST_RECORDS, Some(2000), std::vec![2, 5 | 2 << 16, stands as u32, 0]);
        assert_eq!(read(&ring, 9), [lost, (9, Some(2000), std::vec![])]);
    }

    #[test]
    fn the_reader_is_called_once_when_half_of_the_ring_is_full() {
        let ring = ring(2);
        let calls: usize = (0..300).map(|_| usize::from(ring.write(1, 0, &[1, 2, 3]) == Written::HalfFull)).sum();
        assert_eq!(calls, 1);
        read(&ring, usize::MAX);
        let calls: usize = (0..300).map(|_| usize::from(ring.write(1, 0, &[1, 2, 3]) == Written::HalfFull)).sum();
        assert_eq!(calls, 1);
    }

    #[test]
    fn a_reader_that_says_what_cannot_be_loses_records_and_nothing_else() {
        for read in [1, 2, u32::MAX, 2 * 1022 * 4, 4 * 1000] {
            let ring = ring(1);
            ring.word(0).unwrap().store(read, Ordering::Relaxed);
            ring.word(1).unwrap().store(!read, Ordering::Relaxed);
            assert_eq!(ring.write(1, 0, &[1]), Written::No, "{read:#x}");
        }
    }

    proptest! {
        /// Everything comes out as it went in, in order, and the losses add up.
        #[test]
        fn nothing_is_lost_silently(steps in proptest::collection::vec((0..=7_usize, 0..40_usize), 1..2000)) {
            let ring = ring(1);
            let (mut written, mut found, mut lost, mut told) = (0_u64, std::vec::Vec::new(), 0_u64, 0_u64);
            let take = |found: &mut std::vec::Vec<u64>, told: &mut u64, most| {
                for (event, time, extra) in read(&ring, most) {
                    if event == TRC_LOST_RECORDS {
                        *told += u64::from(extra[0]);
                    } else {
                        assert_eq!(extra.iter().sum::<u32>() as usize, extra.len() * event as usize);
                        found.push(time.unwrap());
                    }
                }
            };
            let mut expected = std::vec::Vec::new();
            for (extra, reads) in steps {
                written += 1;
                let says = std::vec![extra as u32 + 1; extra];
                match ring.write(extra as u32 + 1, written, &says) {
                    Written::No => lost += 1,
                    _ => expected.push(written),
                }
                if reads > 30 {
                    take(&mut found, &mut told, reads);
                }
            }
            take(&mut found, &mut told, usize::MAX);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(lost, told + u64::from(ring.lost.load(Ordering::Relaxed)));
        }
    }
}
