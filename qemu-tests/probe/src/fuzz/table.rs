//! The grant table as this guest sees and writes it, in either version.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use oxen_abi::domid::DomId;
use oxen_abi::grant_table as abi;
use oxen_abi::hypercall::Hypercall;
use oxen_domu_lib::grant::{Access, Words};
use oxen_domu_lib::memory::map::Mapping;
use oxen_domu_lib::memory::{Mfn, Pages};

use super::value::SELF;
use crate::judge::call;

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

/// Asks for an operation on these words. Returns the call's result.
pub(super) fn operation(memory: &Pages, command: u32, words: &[u64]) -> i64 {
    memory.words64().iter().zip(words).for_each(|(place, word)| place.store(*word, Ordering::SeqCst));
    call(Hypercall::GrantTableOp, [command.into(), memory.address(), 1])
}

/// A word of the answer.
pub(super) fn answer(memory: &Pages, at: usize) -> u64 {
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
        let entries = Mapping::of(DomId::SELF, &[Mfn::new(frame)], Access::ReadWrite).ok()?;
        Some(Self { version: 1, entries, status: None, status_frame: 0, status_frames: Vec::new() })
    }

    /// Asks which version is in force, and maps the status words where there are some.
    pub(super) fn see_version(&mut self, memory: &Pages) {
        operation(memory, abi::GNTTABOP_GET_VERSION, &[SELF]);
        self.version = (answer(memory, 0) >> 32) as u32;
        (self.status, self.status_frame) = (None, 0);
        if self.version == 2 {
            operation(memory, abi::GNTTABOP_GET_STATUS_FRAMES, &[1 | SELF << 32, memory.address() + 512]);
            self.status_frame = answer(memory, 64);
            self.status_frames.push(self.status_frame);
            self.status = Mapping::of(DomId::SELF, &[Mfn::new(self.status_frame)], Access::ReadOnly).ok();
        }
    }

    /// Maps no status frame any more.
    pub(super) fn forget_status(&mut self) {
        self.status = None;
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

    /// Writes an entry.
    pub(super) fn write(&self, reference: u64, prefix: u32, upper: u32, frame: u64) {
        let (words, reference) = (self.entries.words64(), reference as usize);
        if self.version == 1 {
            store(words, reference, u64::from(prefix) | frame << 32);
        } else {
            store(words, 2 * reference + 1, frame);
            store(words, 2 * reference, u64::from(prefix) | u64::from(upper) << 32);
        }
    }
}
