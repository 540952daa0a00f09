//! Which pages a domain uses: of a random few it is looked whether the CPU accessed them.
//!
//! Nobody is stopped for it, and nothing is unmapped. When a period begins, the accessed bit is cleared in the entries
//! that map the watched pages, and the CPUs forget the translations; when it ends, a page counts as touched if one of
//! the entries has the bit again. The share of touched pages is an estimate of the share that the domain uses: 100
//! pages tell it to within ±10 % of the domain's memory, 95 times in 100, however large the domain is.
//!
//! The pages are chosen by a hash of frame number and seed, so the choice is two numbers and no list. A frame that is a
//! page table counts as touched: the domain cannot give it away. What others do with a granted page does not count.
//!
//! Where frames are translated for a guest, nothing of its tables is touched: all shadows are dropped when a period
//! begins, and what is shown again was used ([`super::shadow::translated`]).
//!
//! The guest sees the accessed bits of these few pages cleared. To kernels they are a hint about age: such a page seems
//! unused since then, until it is used.

use super::{
    Hardware, PagingDomain, RamFrame,
    editor::Editor,
    entry::Entry,
    frame_type::{FrameState, FrameType},
    walk::groups,
};
use crate::{addr::Mfn, config::FRAMES_PER_UNIT, heap};
use core::sync::atomic::Ordering;
use heapless::Vec;
use oxen_abi::{errno::Errno, sysctl::MAX_SAMPLES};

/// Pages that can be found touched: more than so many are watched once in millions of periods.
const MAX_TOUCHED: usize = 160;
/// The work of looking through a table, in units.
const TABLE_UNITS: u32 = 16;

/// A choice of frames.
#[derive(Clone, Copy, Debug)]
struct Choice {
    seed: u32,
    /// The greatest hash that is chosen.
    limit: u32,
}

impl Choice {
    /// About `samples` of `frames` frames.
    fn new(seed: u32, samples: u32, frames: u32) -> Option<Self> {
        let limit = (u64::from(samples) << 32).checked_div(frames.into())?.checked_sub(1)?;
        Some(Self { seed, limit: u32::try_from(limit).unwrap_or(u32::MAX) })
    }

    /// Whether it has this frame. Any hash will do whose bits depend on all bits of the number and of the seed.
    #[inline(always)]
    const fn has(self, frame: usize) -> bool {
        let mixed = (frame as u32 ^ self.seed).wrapping_mul(0x9e37_79b1);
        let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77);
        mixed ^ mixed >> 13 <= self.limit
    }
}

/// What is watched of a domain.
#[derive(Debug, Default)]
pub struct WorkingSet {
    /// The pages of the period that runs.
    running: Option<Choice>,
    /// Those of the next, while the end of the one that runs is being looked for.
    next: Option<Choice>,
    sampled: u32,
    touched: Vec<u32, MAX_TOUCHED>,
}

impl WorkingSet {
    /// Notes that a watched frame is used.
    fn touch(&mut self, frame: usize) {
        let frame = frame as u32;
        if !self.touched.contains(&frame) {
            // One that finds no room is not told of.
            let _ = self.touched.push(frame);
        }
    }

    /// Counts a frame of the domain, if it is watched.
    fn count(&mut self, frame: Mfn, state: FrameState) {
        if state.is_allocated() && self.running.is_some_and(|choice| choice.has(frame.index())) {
            self.sampled += 1;
            if state.uses() != 0 && state.kind().needs_validation() {
                self.touch(frame.index());
            }
        }
    }

    /// Whether a frame is watched now, or in the next period.
    fn is_watched(&self, frame: Mfn) -> bool {
        [self.running, self.next].into_iter().flatten().any(|choice| choice.has(frame.index()))
    }

    /// Notes that a frame was used, if that is counted.
    fn note_use(&mut self, frame: Mfn) {
        if self.running.is_some_and(|choice| choice.has(frame.index())) {
            self.touch(frame.index());
        }
    }

    /// Ends the period. Returns how many pages were watched, and how many of these were touched.
    pub fn turn(&mut self) -> (u32, u32) {
        self.running = self.next.take();
        let counts = (self.sampled, self.touched.len() as u32);
        self.sampled = 0;
        self.touched.clear();
        counts
    }
}

impl<M: Hardware> super::Memory<M> {
    /// Begins to look for the end of a domain's period: about `samples` pages are watched in the next.
    ///
    /// # Errors
    /// `NoMem` if there is no room to note anything about the domain, of which nothing is watched then.
    pub fn choose_watched(&self, domain: &PagingDomain, seed: u32, samples: u32) -> Result<(), Errno> {
        let mut set = domain.working_set.lock();
        if set.is_none() && samples != 0 {
            *set = Some(heap::own(&self.machine, WorkingSet::default())?);
        }
        // Through shadows the CPU sets no bits of the guest's, and shows what is accessed alone.
        // Where frames are translated, what is shown was used.
        let is_shadowed = domain.is_shadowed.load(Ordering::Acquire) && !domain.is_translated();
        let frames = domain.owner.slot().map_or(0, |slot| self.frames.reserved(slot));
        if let Some(set) = set.as_deref_mut() {
            let samples = if is_shadowed { 0 } else { samples.min(MAX_SAMPLES) };
            set.next = Choice::new(seed, samples, frames);
            set.sampled = 0;
            set.touched.clear();
        }
        Ok(())
    }

    /// Looks at frames of one domain, from frame `next` on, for as long as they are its own and `units` of work last.
    /// Returns the units that are left.
    pub fn look_at_frames(&self, domain: &PagingDomain, next: &mut usize, mut units: u32) -> u32 {
        let mut set = domain.working_set.lock();
        while let Some(frame) = Mfn::new(*next as u64).filter(|_| units != 0 && *next < self.frames.end()) {
            let state = self.frames.state(frame);
            if state.owner() != domain.owner {
                break;
            }
            if let Some(set) = set.as_deref_mut() {
                set.count(frame, state);
                if domain.is_translated() && set.is_watched(frame) && self.take_use(domain.owner, frame) {
                    set.note_use(frame);
                }
                if state.kind() == FrameType::L1 && state.uses() != 0 {
                    Editor::lock(self, domain).look_through(set, frame);
                    units = units.saturating_sub(TABLE_UNITS);
                }
            }
            *next += 1;
            units = units.saturating_sub(u32::from(next.is_multiple_of(FRAMES_PER_UNIT)));
        }
        units
    }
}

impl<M: Hardware> Editor<'_, M> {
    /// Looks through a table for entries that map watched pages: such as were accessed, and such as are to be.
    fn look_through(&self, set: &mut WorkingSet, table: Mfn) {
        // The lock keeps it the table that it is now.
        let state = self.memory.frames.state(table);
        let is_table = state.kind() == FrameType::L1 && state.uses() != 0 && state.owner() == self.domain.owner;
        if !is_table || self.paging.is_shadowed {
            return;
        }
        for (_, words) in groups(self.memory.machine.words(RamFrame::counted(table))) {
            for word in words {
                let entry = Entry(word.load(Ordering::Relaxed));
                let is_in = |choice: Option<Choice>| choice.is_some_and(|choice| choice.has(entry.frame_index()));
                let (was_watched, is_watched) = (is_in(set.running), is_in(set.next));
                let is_accessed = entry.has(Entry::PRESENT.union(Entry::ACCESSED));
                if !is_accessed || !(was_watched || is_watched) || !self.is_own(entry) {
                    continue;
                }
                if was_watched {
                    set.touch(entry.frame_index());
                }
                if is_watched {
                    // The CPU that changes it meanwhile has used it; the guest has other things to say.
                    let cleared = entry.without(Entry::ACCESSED).0;
                    let _ = word.compare_exchange(entry.0, cleared, Ordering::Relaxed, Ordering::Relaxed);
                }
            }
        }
    }

    fn is_own(&self, entry: Entry) -> bool {
        entry.mfn().is_some_and(|frame| {
            let state = self.memory.frames.state(frame);
            state.owner() == self.domain.owner && state.is_allocated()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_has_about_as_many_frames_as_it_should() {
        for (samples, frames) in [(100, 1024), (100, 16_384), (50, 1 << 20), (1, 4096)] {
            let counts = (0..40).map(|round: u32| {
                let choice = Choice::new(round.wrapping_mul(0x1234_5677), samples, frames).unwrap();
                (7000..7000 + frames as usize).filter(|frame| choice.has(*frame)).count() as u32
            });
            let mean = counts.sum::<u32>() / 40;
            assert!(mean.abs_diff(samples) <= samples / 8 + 1, "{mean} of {frames}, and {samples} were meant");
        }
    }

    #[test]
    fn of_few_frames_all_are_chosen_and_of_none_none() {
        for frames in [1, 50, 100] {
            let choice = Choice::new(7, 100, frames).unwrap();
            assert!((0..500).all(|frame| choice.has(frame)), "{frames}");
        }
        assert!(Choice::new(7, 100, 0).is_none() && Choice::new(7, 0, 100).is_none());
    }
}
