//! The grant table as this guest sees and writes it, in either version.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use oxen_abi::domid::DomId;
use oxen_abi::grant_table as abi;
use oxen_abi::hypercall::Hypercall;
use oxen_domu_lib::grant::{Access, Words};
use oxen_domu_lib::memory::map::Mapping;
use oxen_domu_lib::memory::{Mfn, Pages};

use super::call::Entry;
use super::value::FRAMES;
use super::world::{SELF, World};
use crate::judge::call;

/// Reserved entries that nobody else uses.
pub(crate) const RESERVED: Range<u64> = 2..6;

/// The first frames of the table and of its status words.
#[derive(Debug)]
pub(super) struct Table {
    version: u32,
    entries: Mapping,
    status: Option<Mapping>,
    /// The number of the status frame; 0 in version 1.
    pub(super) status_frame: u64,
    /// What it is, and what it was since the sequence began: where a version comes back, another frame may be taken.
    pub(super) status_frames: Vec<u64>,
}

/// What stands in an entry: flags and domain, the rest of the first word, the frame, the status word.
pub(super) type Seen = (u32, u32, u64, u16);

fn operation(memory: &Pages, command: u32, words: &[u64]) -> i64 {
    memory.words64().iter().zip(words).for_each(|(place, word)| place.store(*word, Ordering::SeqCst));
    call(Hypercall::GrantTableOp, [command.into(), memory.address(), 1])
}

fn answer(memory: &Pages, at: usize) -> u64 {
    memory.words64().get(at).map_or(0, |word| word.load(Ordering::SeqCst))
}

fn load(words: &[AtomicU64], at: usize) -> u64 {
    words.get(at).map_or(0, |word| word.load(Ordering::SeqCst))
}

fn store(words: &[AtomicU64], at: usize, value: u64) {
    if let Some(word) = words.get(at) {
        word.store(value, Ordering::SeqCst);
    }
}

impl Table {
    /// The table, which is of version 1.
    pub(super) fn new(memory: &Pages) -> Option<Self> {
        operation(memory, abi::GNTTABOP_SETUP_TABLE, &[SELF | 1 << 32, 0, memory.address() + 512]);
        let frame = answer(memory, 64);
        let entries = Mapping::of(DomId::SELF, &[Mfn(frame)], Access::ReadWrite).ok()?;
        Some(Self { version: 1, entries, status: None, status_frame: 0, status_frames: Vec::new() })
    }

    /// Asks which version is in force, and maps the status words where there are some.
    fn see_version(&mut self, memory: &Pages) {
        operation(memory, abi::GNTTABOP_GET_VERSION, &[SELF]);
        self.version = (answer(memory, 0) >> 32) as u32;
        (self.status, self.status_frame) = (None, 0);
        if self.version == 2 {
            operation(memory, abi::GNTTABOP_GET_STATUS_FRAMES, &[1 | SELF << 32, memory.address() + 512]);
            self.status_frame = answer(memory, 64);
            self.status_frames.push(self.status_frame);
            self.status = Mapping::of(DomId::SELF, &[Mfn(self.status_frame)], Access::ReadOnly).ok();
        }
    }

    /// What stands in an entry.
    pub(super) fn entry(&self, reference: u64) -> Seen {
        let (words, reference) = (self.entries.words64(), reference as usize);
        if self.version == 1 {
            let word = load(words, reference);
            return (word as u32, 0, word >> 32, 0);
        }
        let status = self.status.as_ref().and_then(|status| status.words16().get(reference));
        let head = load(words, 2 * reference);
        let status = status.map_or(0, |word| word.load(Ordering::SeqCst));
        (head as u32, (head >> 32) as u32, load(words, 2 * reference + 1), status)
    }

    fn write(&self, reference: u64, prefix: u32, upper: u32, frame: u64) {
        let (words, reference) = (self.entries.words64(), reference as usize);
        if self.version == 1 {
            store(words, reference, u64::from(prefix) | frame << 32);
        } else {
            store(words, 2 * reference + 1, frame);
            store(words, 2 * reference, u64::from(prefix) | u64::from(upper) << 32);
        }
    }
}

impl World {
    /// The entries whose contents are compared: the reserved ones and those of the two grants.
    pub(super) fn entries(&self) -> impl Iterator<Item = u64> {
        RESERVED.chain(self.references)
    }

    /// Writes an entry.
    pub(super) fn offer(&self, entry: &Entry) {
        let value = |value| self.value(value, 0);
        let prefix = u32::from(entry.flags) | (value(entry.domain) as u32 & 0xffff) << 16;
        let upper = value(entry.first) as u32 & 0xffff | u32::from(entry.bytes) << 16;
        self.table.write(value(entry.reference), prefix, upper, value(entry.frame));
    }

    /// Changes the version, with no status frame mapped by the way.
    pub(super) fn change_version(&mut self, version: u32) -> (i64, u32) {
        self.table.status = None;
        let result = operation(&self.memory, abi::GNTTABOP_SET_VERSION, &[version.into()]);
        let now = answer(&self.memory, 0) as u32;
        self.table.see_version(&self.memory);
        (result, now)
    }

    /// The table as a sequence begins: of the version that the seed chooses, with the two grants alone.
    pub(super) fn reset_table(&mut self, seed: u64) -> Result<(), String> {
        self.table.status_frames.clear();
        RESERVED.for_each(|reference| self.table.write(reference, 0, 0, 0));
        let (result, _) = self.change_version(1);
        if result != 0 {
            let mut what = String::new();
            let _ = write!(what, "the grant table is not of version 1 again: {result}");
            return Err(what);
        }
        RESERVED.for_each(|reference| self.table.write(reference, 0, 0, 0));
        if seed.is_multiple_of(2) {
            self.change_version(2);
        }
        let flags = [abi::GTF_PERMIT_ACCESS, abi::GTF_PERMIT_ACCESS | abi::GTF_READONLY];
        let frames = self.frames.into_iter().skip(FRAMES - 2);
        for ((reference, frame), flags) in self.references.into_iter().zip(frames).zip(flags) {
            self.table.write(reference, u32::from(flags) | (self.me as u32) << 16, 0, frame);
        }
        Ok(())
    }
}
