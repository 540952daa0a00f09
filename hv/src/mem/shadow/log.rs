//! The log as a toolstack reads it: in rounds. A round ends when the log is cleaned, while the domain is paused.

use super::{Log, Shadow, Stats, bitmap::LEAF_BITS};
use crate::{
    mem::{Hardware, Memory, PagingDomain, frame_type::Owner},
    reply::Stop,
};
use core::sync::atomic::{AtomicBool, Ordering};
use oxen_abi::errno::Errno;

/// Words of the log that are read at once.
pub const PART: usize = 64;
/// Bits in them.
pub const PART_BITS: u64 = 64 * PART as u64;

/// A part of the log.
pub type Part = [u64; PART];

/// An operation on a domain's shadows that has not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Task {
    /// `XEN_DOMCTL_SHADOW_OP_*`.
    pub(super) op: u32,
    pub(super) step: Step,
}

/// How far an operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is done.
    Begin,
    /// The tables of others have been looked through below this frame.
    Find(usize),
    /// There was no memory; what was taken is being given back.
    GiveUp,
    /// The log has been read below this page.
    Read(u64),
}

/// The right to operate on shadows: one CPU at a time has it.
#[derive(Debug)]
pub struct Operator<'a>(&'a AtomicBool);

impl Drop for Operator<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<M: Hardware> Memory<M> {
    /// Takes the right to operate on shadows.
    ///
    /// # Errors
    /// `Unfinished` while another CPU has it.
    pub fn operate_shadows(&self) -> Result<Operator<'_>, Stop> {
        if self.shadows.is_operated.swap(true, Ordering::Acquire) {
            return Err(Stop::Unfinished);
        }
        Ok(Operator(&self.shadows.is_operated))
    }

    pub(super) fn with<R>(&self, owner: Owner, act: impl FnOnce(&mut Shadow) -> R) -> Option<R> {
        self.shadows.of(owner).as_deref_mut().and_then(Option::as_deref_mut).map(act)
    }

    /// How far the operation `op` on a domain's shadows has come.
    ///
    /// # Errors
    /// `Busy` if another is under way.
    pub fn shadow_step(&self, _: &Operator<'_>, domain: &PagingDomain, op: u32) -> Result<Step, Errno> {
        match *domain.shadow_task.lock() {
            None => Ok(Step::Begin),
            Some(task) if task.op == op => Ok(task.step),
            Some(_) => Err(Errno::Busy),
        }
    }

    /// Leaves an operation to be gone on with, or ends it.
    pub fn set_shadow_step(&self, _: &Operator<'_>, domain: &PagingDomain, op: u32, step: Option<Step>) {
        *domain.shadow_task.lock() = step.map(|step| Task { op, step });
    }

    /// Whether a domain runs on shadows, and whether what it writes to is logged.
    #[must_use]
    pub fn shadow_mode(&self, owner: Owner) -> (bool, bool) {
        self.with(owner, |shadow| (shadow.is_on, shadow.is_logging)).unwrap_or_default()
    }

    /// Has a domain, none of whose vcpus is on a CPU, run on shadows from now on.
    ///
    /// # Errors
    /// `NoMem` if it has no memory for them.
    pub fn begin_log(&self, _: &Operator<'_>, domain: &PagingDomain, is_logging: bool) -> Result<(), Errno> {
        self.turn_shadows_on(domain, is_logging)
    }

    /// What has been counted in this round.
    #[must_use]
    pub fn log_stats(&self, owner: Owner) -> Stats {
        self.with(owner, |shadow| shadow.stats).unwrap_or_default()
    }

    /// Whether a page could not be noted.
    #[must_use]
    pub fn has_log_missed(&self, owner: Owner) -> bool {
        self.with(owner, |shadow| shadow.has_missed).unwrap_or(false)
    }

    /// What was lent in this round is part of the log, and none is known to be lent in the next: see [`super::lent`].
    pub fn log_lent(&self, _: &Operator<'_>, owner: Owner) {
        self.with(owner, |shadow| shadow.log_lent(self, owner));
    }

    /// The part of the log that begins with the page `first`, and what is lent of it; bits
    /// set are cleared if `is_cleaned`.
    pub fn read_log(&self, _: &Operator<'_>, owner: Owner, first: u64, is_cleaned: bool) -> Part {
        self.with(owner, |shadow| shadow.read_part(self, first, is_cleaned)).unwrap_or([0; PART])
    }

    /// Puts back what was cleared by [`Self::read_log`], as it could not be told.
    pub fn restore_log(&self, _: &Operator<'_>, owner: Owner, first: u64, part: &Part) {
        self.with(owner, |shadow| {
            for (page, word) in (first..).step_by(64).zip(part) {
                each_bit(page, *word, |page| shadow.note(self, owner, page, Log::Dirty));
            }
        });
    }

    /// The first page from `from` on, a multiple of [`PART_BITS`], near which something may be in the log.
    #[must_use]
    pub fn next_in_log(&self, owner: Owner, from: u64, end: u64) -> Option<u64> {
        self.with(owner, |shadow| shadow.dirty.next_leaf(&self.machine, from, end)).flatten()
    }

    /// A round ends, in which the log was cleaned, before any vcpu runs again: nothing is writable through a shadow.
    pub fn end_round(&self, _: &Operator<'_>, owner: Owner) {
        self.with(owner, |shadow| shadow.begin_round(self, owner));
    }
}

fn each_bit(first: u64, mut word: u64, mut act: impl FnMut(u64)) {
    while word != 0 {
        act(first + u64::from(word.trailing_zeros()));
        word &= word - 1;
    }
}

impl Shadow {
    fn log_lent<M: Hardware>(&mut self, memory: &Memory<M>, owner: Owner) {
        let mut next = 0;
        while let Some(first) = self.lent.next_leaf(&memory.machine, next, u64::MAX) {
            let start = first - first % LEAF_BITS;
            let Some(leaf) = self.lent.leaf(&memory.machine, start) else { return };
            for (page, word) in (start..).step_by(64).zip(memory.machine.words(leaf)) {
                // They are lent until they are noted: what is counted is counted already.
                each_bit(page, word.load(Ordering::Relaxed), |page| self.note(memory, owner, page, Log::Dirty));
                word.store(0, Ordering::Relaxed);
            }
            next = start + LEAF_BITS;
        }
        self.loans = 0;
    }

    fn read_part<M: Hardware>(&self, memory: &Memory<M>, first: u64, is_cleaned: bool) -> Part {
        let mut part = [0; PART];
        let skipped = (first % LEAF_BITS / 64) as usize;
        if let Some(leaf) = self.dirty.leaf(&memory.machine, first) {
            for (to, word) in part.iter_mut().zip(memory.machine.words(leaf).iter().skip(skipped)) {
                *to = if is_cleaned { word.swap(0, Ordering::Relaxed) } else { word.load(Ordering::Relaxed) };
            }
        }
        if let Some(leaf) = self.lent.leaf(&memory.machine, first) {
            for (to, word) in part.iter_mut().zip(memory.machine.words(leaf).iter().skip(skipped)) {
                *to |= word.load(Ordering::Relaxed);
            }
        }
        part
    }
}
