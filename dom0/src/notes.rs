//! What dom0's backends note of their work while a trace is taken down: records as the hypervisor's own, with the same
//! clock. Who takes the trace down takes them out.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use oxen_abi::trace::{TRACE_EXTRA_MAX, TRC_LOST_RECORDS, halves, header};

/// Words that wait to be taken out, at most.
const ROOM: usize = 1 << 16;

/// The records that nobody has taken out yet.
#[derive(Debug)]
pub struct Notes {
    is_on: Cell<bool>,
    words: RefCell<Vec<u32>>,
    /// Records that found no room, and when the first would have been noted.
    lost: Cell<Option<(u32, u64)>>,
    clock: fn() -> u64,
}

impl Notes {
    /// None; time is told by `clock`, in cycles of the processor's time stamp counter.
    #[must_use]
    pub const fn new(clock: fn() -> u64) -> Self {
        Self { is_on: Cell::new(false), words: RefCell::new(Vec::new()), lost: Cell::new(None), clock }
    }

    /// Begins and ends it: whether there is anybody who takes records out.
    pub fn turn(&self, is_on: bool) {
        self.is_on.set(is_on);
    }

    /// Notes an event, if anybody wants to know.
    #[inline]
    pub fn note<const N: usize>(&self, event: u32, extra: [u32; N]) {
        const { assert!(N <= TRACE_EXTRA_MAX) };
        if self.is_on.get() {
            self.add(event, &extra);
        }
    }

    #[cold]
    fn add(&self, event: u32, extra: &[u32]) {
        let (now, mut words) = ((self.clock)(), self.words.borrow_mut());
        let lost = self.lost.get();
        // Who is lost is told in front of the next one that has room.
        if words.len() + extra.len() + 16 > ROOM {
            let (count, since) = lost.unwrap_or((0, now));
            self.lost.set(Some((count + 1, since)));
            return;
        }
        if let Some((count, since)) = self.lost.take() {
            words.push(header(TRC_LOST_RECORDS, 4, true));
            words.extend(halves(now).into_iter().chain([count, 0]).chain(halves(since)));
        }
        words.push(header(event, extra.len(), true));
        words.extend(halves(now).iter().chain(extra));
    }

    /// Takes all records out.
    pub fn take(&self) -> Vec<u32> {
        self.words.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxen_abi::trace::{OXEN_TRC_BLOCK, Record};

    fn records(mut words: &[u32]) -> Vec<(u32, Option<u64>, Vec<u32>)> {
        let mut all = Vec::new();
        while let Some((record, rest)) = Record::split_first(words) {
            all.push((record.event, record.time, record.extra.to_vec()));
            words = rest;
        }
        assert!(words.is_empty());
        all
    }

    #[test]
    fn nothing_is_noted_while_nobody_looks() {
        let notes = Notes::new(|| 1 << 33 | 5);
        notes.note(OXEN_TRC_BLOCK, [1, 2]);
        assert!(notes.take().is_empty());
        notes.turn(true);
        notes.note(OXEN_TRC_BLOCK, [1, 2]);
        assert_eq!(records(&notes.take()), [(OXEN_TRC_BLOCK, Some(1 << 33 | 5), [1, 2].to_vec())]);
        assert!(notes.take().is_empty());
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let notes = Notes::new(|| 7);
        notes.turn(true);
        (0..ROOM as u32).for_each(|number| notes.note(OXEN_TRC_BLOCK, [number]));
        let kept = records(&notes.take());
        assert!(kept.len() * 4 <= ROOM && kept.len() * 5 > ROOM);
        notes.note(OXEN_TRC_BLOCK, [9]);
        let lost = (ROOM - kept.len()) as u32;
        let expected = [(TRC_LOST_RECORDS, Some(7), [lost, 0, 7, 0].to_vec()), (OXEN_TRC_BLOCK, Some(7), [9].to_vec())];
        assert_eq!(records(&notes.take()), expected);
    }
}
