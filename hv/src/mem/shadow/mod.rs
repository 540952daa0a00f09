//! Shadow page tables: the CPU runs on tables of the hypervisor's, built on demand from the guest's. Their first use is
//! *log-dirty*: to know which pages of a running guest have been written to, as saving and moving it need. Their
//! second, for guests whose tables hold no frames of the machine's, has laws of its own: [`translated`]. All below is
//! about the first.
//!
//! # Why shadows
//!
//! A page is noticed when it is written to by taking away the right to write. A PV guest reads its own page tables, so
//! in them nothing can be taken away without its seeing it, nor can the CPU's accessed and dirty bits be cleared there
//! to look whether they come back. So the guest's tables stay what they are, the *source*: validated and counted as
//! ever, by the same laws. Beside them stand *shadows*, one for each table that a CPU has lately gone through, and the
//! CPU walks these alone. They hold no references: whatever a shadow's entry shows is held by the entry of the source.
//!
//! ```text
//!   vcpu ── root (one for each mode, its own)    frames with slots 256 to 271 as in every root
//!              └ shadows by (source, level)       index: who has which
//!                                                 pool: where their frames come from; bounded
//!   log ── one bit for each pseudo-physical frame
//! ```
//!
//! # The laws of this room
//!
//! 1. **A shadow never shows more than its source.** An entry is in a shadow only while the same entry is present in
//!    the source, and with no right that it lacks there. Who changes a source's entry takes the shadow's along before
//!    what the old one referred to is given back ([`follow`]); who ends the life of a table ends its shadows first.
//! 2. **A page whose bit in the log is clear is writable through no shadow.** The bit is set before the right to
//!    write is shown. Where bits are cleared, while no vcpu of the domain runs, the right is taken from the roots
//!    alone, and every CPU that may know it flushes. An entry gives it on only to a table that has been looked
//!    through since: *of this round*.
//! 3. **The guest sees its bits move as on the bare CPU.** A shadow's entry is present only if the accessed bit is set
//!    in the source, writable only if the dirty bit is. The fault that meets it otherwise sets them there. The CPU
//!    itself never notes anything in a shadow: all that it could note is set from the start.
//! 4. **The memory is bounded** by the domain's allocation (`XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION`), the log's own pages
//!    and the index included. When it is used up, all shadows are dropped and built again as they are needed.
//! 5. **Everything is given back** when shadows are turned off, or the domain ends.
//!
//! # Who writes to a guest's pages
//!
//! | writer | how it comes into the log |
//! |---|---|
//! | the guest, and the hypervisor at the guest's addresses | both go through shadows: by the fault ([`fault`]) |
//! | entries written for the guest, and the CPU's notes in them | the table is marked ([`follow`], [`fault`]) |
//! | the hypervisor at a machine address: clearing, copies, descriptors | [`Memory::note_written`] marks after it |
//! | another domain that maps the page: granted, or by privilege | *lent*: marked in every round ([`lent`]) |
//! | the hypervisor at any time: `vcpu_info`, event queues, accessed descriptors | lent, too |
//! | a frame comes to a place in the guest's memory, or changes it | [`Memory::set_m2p`] marks |
//!
//! Frames that have no place in the guest's memory by the machine-to-phys table, as
//! `shared_info`, are not logged, as on Xen.
//!
//! # Locks
//!
//! A domain's shadows have a lock of their own, the innermost of all. A fault takes it whatever else the CPU holds, for
//! the hypervisor meets such faults itself when it copies from or to a guest. Under it the source may be walked without
//! the paging lock: an entry that is taken away is taken from the shadows, under this lock, before the table behind it
//! may become anything else; so a walk under the lock never meets a table that is none any more.

mod allocation;
mod bitmap;
pub mod fault;
pub mod follow;
mod index;
pub mod lent;
pub mod log;
mod pool;
pub mod translated;

use super::{Hardware, frame_type::Owner};
use crate::{
    addr::Mfn,
    config::MAX_DOMAINS,
    lock::{Guard, Lock, rank},
    mem::{Memory, RamFrame},
};
use alloc::boxed::Box;
use bitmap::Bitmap;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use index::Index;
use pool::Pool;

/// The modes of a vcpu, each with a root of its own.
const MODES: usize = 2;

/// A root that a vcpu runs on in one of its modes.
#[derive(Clone, Copy, Debug, Default)]
struct Root {
    /// The frame that the CPU loads.
    frame: Option<RamFrame>,
    /// The guest's root that it shows.
    source: Option<RamFrame>,
}

/// What is counted since the log was last cleaned (`xen_domctl_shadow_op_stats`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Faults by which pages came into the log.
    pub faults: u32,
    /// Pages that came into it, with those that are lent.
    pub dirty: u32,
}

/// What a domain has of shadows.
#[derive(Debug)]
struct Shadow {
    /// Whether its vcpus run on them.
    is_on: bool,
    /// Whether writes are logged.
    is_logging: bool,
    pool: Pool,
    index: Index,
    /// By vcpu and mode.
    roots: Box<[Root]>,
    /// The pages that were written to.
    dirty: Bitmap,
    /// Those that others may have written to at any moment since the log was last cleaned.
    lent: Bitmap,
    /// How many these are.
    loans: u32,
    stats: Stats,
    /// Which round of the log it is.
    round: u32,
    /// Whether a page could not be noted, for want of memory.
    has_missed: bool,
    /// What the domain's numbers mean, where they are no frames of the machine's.
    translated: Option<translated::Translated>,
}

/// The shadows of all domains, by their slots.
#[derive(Debug)]
pub(super) struct Shadows {
    /// How many domains run on shadows.
    running: AtomicU32,
    /// How many log: nearly always none, and nothing more is looked at.
    logging: AtomicU32,
    /// Whether a CPU operates on any.
    is_operated: AtomicBool,
    of: [Lock<Option<Box<Shadow>>, { rank::SHADOW }>; MAX_DOMAINS],
}

impl Default for Shadows {
    fn default() -> Self {
        Self {
            running: AtomicU32::new(0),
            logging: AtomicU32::new(0),
            is_operated: AtomicBool::new(false),
            of: [const { Lock::new(None) }; MAX_DOMAINS],
        }
    }
}

impl Shadows {
    fn of(&self, owner: Owner) -> Option<Guard<'_, Option<Box<Shadow>>>> {
        self.of.get(owner.slot()?).map(Lock::lock)
    }
}

impl<M> Memory<M> {
    /// Whether any domain's writes are logged.
    #[inline(always)]
    #[must_use]
    pub fn is_any_logging(&self) -> bool {
        self.shadows.logging.load(Ordering::Relaxed) != 0
    }
}

impl<M: Hardware> Memory<M> {
    /// Notes that a frame of `owner` has been written to, if that is logged.
    #[inline(always)]
    pub(super) fn mark_written(&self, owner: Owner, frame: Mfn) {
        if self.is_any_logging() {
            self.mark_slow(owner, frame);
        }
    }

    #[cold]
    #[inline(never)]
    fn mark_slow(&self, owner: Owner, frame: Mfn) {
        if let Some(shadow) = self.shadows.of(owner).as_deref_mut().and_then(Option::as_deref_mut) {
            shadow.mark(self, owner, frame);
        }
    }

    /// Notes that the hypervisor has written to a frame, if that is logged.
    #[inline(always)]
    pub fn note_written(&self, frame: RamFrame) {
        self.note_placed(frame.mfn());
    }

    /// Notes that the place of a frame in its owner's memory has other contents than before, if that is logged.
    #[inline(always)]
    pub(super) fn note_placed(&self, frame: Mfn) {
        if self.is_any_logging() {
            self.note_slow(frame);
        }
    }

    #[cold]
    #[inline(never)]
    fn note_slow(&self, frame: Mfn) {
        self.mark_slow(self.frames.state(frame).owner(), frame);
    }

    /// Where a frame is in its owner's memory, by the machine-to-phys table; `None` for what has no place there.
    fn place_of(&self, frame: Mfn) -> Option<u64> {
        let pfn = self.machine.machine_to_phys().get(frame.index())?.load(Ordering::Relaxed);
        (pfn < bitmap::END).then_some(pfn)
    }
}

impl Shadow {
    /// A frame of the domain's is written to.
    fn mark<M: Hardware>(&mut self, memory: &Memory<M>, owner: Owner, frame: Mfn) {
        if !self.is_logging {
            return;
        }
        let Some(pfn) = memory.place_of(frame) else { return };
        if !self.dirty.has(&memory.machine, pfn) {
            self.note(memory, owner, pfn, Log::Dirty);
        }
    }

    /// Sets a bit, unless there is no room for it.
    fn note<M: Hardware>(&mut self, memory: &Memory<M>, owner: Owner, pfn: u64, which: Log) {
        let ram = &memory.machine;
        let (is_dirty, is_lent) = (self.dirty.has(ram, pfn), self.lent.has(ram, pfn));
        // Three levels of the log's tree may be missing, and the third attempt finds them all.
        for is_last in [false, true] {
            let bitmap = match which {
                Log::Dirty => &mut self.dirty,
                Log::Lent => &mut self.lent,
            };
            if bitmap.set(memory, &mut self.pool, pfn) {
                let (is_new, is_new_loan) = (!is_dirty && !is_lent, which == Log::Lent && !is_lent);
                self.stats.dirty = self.stats.dirty.wrapping_add(is_new.into());
                self.loans = self.loans.wrapping_add(is_new_loan.into());
                return;
            }
            if !is_last {
                self.drop_all(memory, owner);
            }
        }
        self.has_missed = true;
    }

    /// Whether a frame may be written to through a shadow: it is in the log already, or never comes into it.
    fn is_noted<M: Hardware>(&self, memory: &Memory<M>, frame: Mfn) -> bool {
        !self.is_logging || memory.place_of(frame).is_none_or(|pfn| self.dirty.has(&memory.machine, pfn))
    }

    /// Begins a round of the log: takes the right to write from the roots, and with it from all that is behind them. It
    /// comes back table by table, by the fault that meets it first, which takes it from the table's entries.
    fn begin_round<M: Hardware>(&mut self, memory: &Memory<M>, owner: Owner) {
        // What is lent is in the next round from its beginning.
        self.stats = Stats { faults: 0, dirty: self.loans };
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            // A table that was not written through since would seem to be of this round.
            return self.drop_all(memory, owner);
        }
        for frame in self.roots.iter().filter_map(|root| root.frame) {
            follow::protect_root(&memory.machine, frame);
        }
        memory.flush_cpus(memory.frames.tlb.cpus_of(owner));
    }

    /// Forgets all shadows but the roots, which are emptied, and has every CPU forget them.
    fn drop_all<M: Hardware>(&mut self, memory: &Memory<M>, owner: Owner) {
        for root in &self.roots {
            if let Some(frame) = root.frame {
                follow::empty_root(&memory.machine, frame);
            }
        }
        self.index.forget_all(&memory.machine);
        self.pool.reset();
        memory.flush_cpus(memory.frames.tlb.cpus_of(owner));
    }
}

/// One of the two bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Log {
    Dirty,
    Lent,
}
