//! The table of one domain: its frames, which version its entries are, and the pins beside them.

use super::{
    entry::{Access, Pins},
    entry_v2::EntryV2,
};
use crate::{
    addr::TABLE_ENTRIES,
    config::MAX_GRANT_FRAMES,
    heap::{self, Reserve},
    mem::{Hardware, Memory, Ram, RamFrame, frame_alloc, frame_type::Owner},
};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};
use heapless::Vec;
use oxen_abi::{
    errno::Errno,
    grant_table::{GrantEntryV1, GrantEntryV2, GrantFlags, GrantStatus},
};

/// Entries of version 1 in a frame: each is a word.
const V1_PER_FRAME: usize = TABLE_ENTRIES;
/// Entries of version 2 in a frame.
const V2_PER_FRAME: usize = TABLE_ENTRIES / V2_WORDS;
const V2_WORDS: usize = size_of::<GrantEntryV2>() / size_of::<u64>();
/// Status words in a frame, and in a word of it.
const STATUS_PER_FRAME: usize = TABLE_ENTRIES * STATUS_PER_WORD;
const STATUS_PER_WORD: usize = size_of::<u64>() / size_of::<GrantStatus>();
/// Frames of entries whose status words fill a frame.
pub(crate) const FRAMES_PER_STATUS: usize = STATUS_PER_FRAME / V2_PER_FRAME;
/// Status frames of a table at most.
pub const MAX_STATUS_FRAMES: usize = MAX_GRANT_FRAMES.div_ceil(FRAMES_PER_STATUS);

const _: () = assert!(size_of::<GrantEntryV1>() == size_of::<u64>());
const _: () = assert!(MAX_STATUS_FRAMES <= frame_alloc::MAX_RECALL);

/// The offers of a domain.
#[derive(Debug)]
pub(crate) struct Table {
    /// The frames that hold the entries, lent to the domain.
    pub(crate) frames: Vec<RamFrame, MAX_GRANT_FRAMES>,
    /// The frames that hold the status words, lent to the domain, as many as the entries ask for: this is version 2.
    pub(crate) status: Option<Vec<RamFrame, MAX_STATUS_FRAMES>>,
    /// Entries that there are in version 1: none in version 2, or after the domain has ended. So one comparison tells
    /// the paths that must be fast whether an entry is one that they know.
    pub(crate) v1_entries: u32,
    /// The pins of each frame's entries of version 1, made at the first claim. Version 2 has half as many entries.
    pins: [Option<Box<[u64; V1_PER_FRAME]>>; MAX_GRANT_FRAMES],
    /// Frames that there may be.
    pub(crate) limit: usize,
    /// The greatest version that the domain may choose.
    pub(crate) max_version: u32,
    /// The domain ended: there is no table any more.
    is_closed: bool,
}

impl Default for Table {
    fn default() -> Self {
        Self::new(MAX_GRANT_FRAMES, super::MAX_VERSION)
    }
}

impl Table {
    /// A table of version 1 without frames yet. The first one is made at need, but counts from the start.
    pub(crate) fn new(limit: usize, max_version: u32) -> Self {
        Self {
            frames: Vec::new(),
            status: None,
            v1_entries: V1_PER_FRAME as u32,
            pins: [const { None }; MAX_GRANT_FRAMES],
            limit: limit.min(MAX_GRANT_FRAMES),
            max_version,
            is_closed: false,
        }
    }

    /// The version of the entries.
    pub(crate) const fn version(&self) -> u32 {
        if self.status.is_some() { 2 } else { 1 }
    }

    pub(crate) fn status_frames(&self) -> &[RamFrame] {
        self.status.as_deref().unwrap_or_default()
    }

    /// Frames that hold entries.
    pub(crate) fn frame_count(&self) -> usize {
        if self.is_closed { 0 } else { self.frames.len().max(1) }
    }

    /// Entries there are, in the version in force.
    pub(crate) fn entries(&self) -> u32 {
        let per_frame = if self.status.is_some() { V2_PER_FRAME } else { V1_PER_FRAME };
        (self.frame_count() * per_frame) as u32
    }

    /// The entries are of version 1, and as many as the frames hold.
    pub(crate) fn count_v1_entries(&mut self) {
        self.v1_entries = if self.status.is_some() { 0 } else { self.entries() };
    }

    /// The word of an entry, in version 1.
    #[inline]
    pub(crate) fn word<'m>(&self, memory: &'m impl Ram, reference: u32) -> Option<&'m AtomicU64> {
        let frame = *self.frames.get(reference as usize / V1_PER_FRAME)?;
        memory.words(frame).get(reference as usize % V1_PER_FRAME)
    }

    /// The words of an entry, if the table is of version 2.
    #[cold]
    #[inline(never)]
    pub(crate) fn entry_v2<'m>(&self, memory: &'m impl Ram, reference: u32) -> Option<EntryV2<'m>> {
        let reference = reference as usize;
        let status = *self.status.as_ref()?.get(reference / STATUS_PER_FRAME)?;
        let frame = *self.frames.get(reference / V2_PER_FRAME)?;
        let at = reference % V2_PER_FRAME * V2_WORDS;
        Some(EntryV2 {
            head: memory.words(frame).get(at)?,
            body: memory.words(frame).get(at + 1)?,
            status: memory.words(status).get(reference % STATUS_PER_FRAME / STATUS_PER_WORD)?,
            shift: (reference % STATUS_PER_WORD) as u32 * GrantStatus::BITS,
        })
    }

    pub(crate) fn pins(&self, reference: u32) -> Pins {
        let chunk = self.pins.get(reference as usize / V1_PER_FRAME).and_then(Option::as_deref);
        Pins(chunk.and_then(|pins| pins.get(reference as usize % V1_PER_FRAME)).copied().unwrap_or(0))
    }

    #[inline]
    pub(crate) fn pins_place(&mut self, reference: u32) -> Option<&mut u64> {
        let chunk = self.pins.get_mut(reference as usize / V1_PER_FRAME)?.as_deref_mut()?;
        chunk.get_mut(reference as usize % V1_PER_FRAME)
    }

    #[cold]
    pub(crate) fn make_room_for_pins(&mut self, machine: &impl Reserve, reference: u32) -> Result<(), Errno> {
        if let Some(chunk @ None) = self.pins.get_mut(reference as usize / V1_PER_FRAME) {
            *chunk = Some(heap::own(machine, [0; V1_PER_FRAME])?);
        }
        Ok(())
    }

    /// The entries of this row that somebody uses, with their pins, by reference.
    pub(crate) fn pinned(&self, row: core::ops::Range<u32>) -> impl Iterator<Item = (u32, Pins)> + '_ {
        let row = row.start..row.end.min(self.entries());
        row.map(|reference| (reference, self.pins(reference))).filter(|(_, pins)| pins.in_use())
    }

    /// Takes the marks off an entry that the pins which are left after a use do not ask for.
    #[inline]
    pub(crate) fn unmark(&self, memory: &impl Ram, reference: u32, left: Pins, access: Access) {
        let stale = left.stale_marks(access);
        if stale.is_empty() {
            return;
        }
        if reference >= self.v1_entries {
            return self.unmark_v2(memory, reference, stale);
        }
        if let Some(word) = self.word(memory, reference) {
            word.fetch_and(!u64::from(stale.bits()), Ordering::AcqRel);
        }
    }

    #[cold]
    #[inline(never)]
    fn unmark_v2(&self, memory: &impl Ram, reference: u32, stale: GrantFlags) {
        if let Some(entry) = self.entry_v2(memory, reference) {
            entry.clear_status(stale);
        }
    }

    /// Exchanges two entries, their marks included.
    pub(crate) fn exchange(&self, memory: &impl Ram, a: u32, b: u32) {
        let swap = |first: &AtomicU64, second: &AtomicU64| {
            first.store(second.swap(first.load(Ordering::Acquire), Ordering::AcqRel), Ordering::Release);
        };
        if let (Some(first), Some(second)) = (self.entry_v2(memory, a), self.entry_v2(memory, b)) {
            swap(first.head, second.head);
            swap(first.body, second.body);
            first.exchange_status(&second);
        } else if let (Some(first), Some(second)) = (self.word(memory, a), self.word(memory, b)) {
            swap(first, second);
        }
    }

    /// Makes frames until there are `count` with all the status frames that they need, or none.
    #[inline(never)]
    pub(crate) fn grow(&mut self, memory: &Memory<impl Hardware>, owner: Owner, count: usize) -> Result<(), Errno> {
        if count > self.limit || self.is_closed {
            return Err(Errno::Inval);
        }
        let before = self.frames.len();
        let mut grown = extend(memory, owner, &mut self.frames, count);
        if let (Ok(()), Some(status)) = (grown, &mut self.status) {
            grown = extend(memory, owner, status, self.frames.len().div_ceil(FRAMES_PER_STATUS));
        }
        if grown.is_err() {
            self.frames.drain(before..).for_each(|frame| memory.give_back_shared(frame));
        }
        self.count_v1_entries();
        grown
    }

    /// The status frames that the frames of entries need, fresh ones.
    pub(crate) fn make_status(
        &self,
        memory: &Memory<impl Hardware>,
        owner: Owner,
    ) -> Result<Vec<RamFrame, MAX_STATUS_FRAMES>, Errno> {
        let mut status = Vec::new();
        extend(memory, owner, &mut status, self.frames.len().div_ceil(FRAMES_PER_STATUS))?;
        Ok(status)
    }

    /// Ends the table. Its frames are the caller's to give back.
    pub(crate) fn close(&mut self) -> impl Iterator<Item = RamFrame> + use<> {
        self.is_closed = true;
        self.v1_entries = 0;
        let status = self.status.take().unwrap_or_default();
        core::mem::take(&mut self.frames).into_iter().chain(status)
    }

    /// Whether the domain has ended.
    pub(crate) const fn is_closed(&self) -> bool {
        self.is_closed
    }
}

/// Lends frames to a domain until there are `count`, or none.
#[inline(never)]
fn extend<const N: usize>(
    memory: &Memory<impl Hardware>,
    owner: Owner,
    frames: &mut Vec<RamFrame, N>,
    count: usize,
) -> Result<(), Errno> {
    let before = frames.len();
    while frames.len() < count {
        let grown = memory.take_shared(owner).and_then(|frame| {
            frames.push(frame).map_err(|frame| {
                memory.give_back_shared(frame);
                Errno::NoMem
            })
        });
        if let Err(error) = grown {
            frames.drain(before..).for_each(|frame| memory.give_back_shared(frame));
            return Err(error);
        }
    }
    Ok(())
}

/// Status frames of a table of so many frames.
#[must_use]
pub const fn status_frames_of(frames: u32) -> u32 {
    frames.div_ceil(FRAMES_PER_STATUS as u32)
}
