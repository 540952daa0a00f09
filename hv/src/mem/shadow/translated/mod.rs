//! Translated mode: the guest has one memory of its own, numbered from 0, and sees no frame of the machine's.
//!
//! Its page tables, its hypercalls, its grants and its vcpus' contexts name *guest frames* (gfn, for which Xen's old
//! headers say gmfn or gpfn). Which frame of the machine's stands behind one is known to the hypervisor alone, by the
//! domain's *p2m*. The tables are ordinary memory: the guest writes to them as it likes, nobody validates or counts
//! them, and no CPU walks them. What the CPU walks are shadows that show, page by page, what the guest's tables and the
//! p2m say together.
//!
//! ```text
//!   guest's tables            p2m                       shadows
//!   L4 ─ L3 ─ L2 ─ L1 ─ gfn   gfn ─ frame, held         root ─ ─ ─ page ─ frame
//!   written by the guest      written by the hypervisor  dropped at any time
//! ```
//!
//! # A large translation cache
//!
//! Shadows of the guest's tables would have to follow each write to them. So here a shadow is of a root of a vcpu's,
//! not of a table: a tree by virtual address, and nothing in it but translations that were used. It is what the guest
//! takes it for: the CPU's translation cache, only larger. An entry comes by a fault, by a walk through the guest's
//! tables at that moment. It goes when the guest says so, as it must on the bare CPU: by `MMUEXT_INVLPG_*` a page, by
//! any other flush or another root all. A guest that changes its tables without a flush sees what it would see on a
//! CPU.
//!
//! # The laws of this room
//!
//! 1. **A shadow shows nothing but frames that the p2m holds now**, and nothing to be written to that it does not hold
//!    to be written to. An entry of the p2m holds its frame as a page table's does. Who takes one away, or its right to
//!    write, drops the shadows and has the CPUs flush before the frame is given back.
//! 2. **No table of the guest's is believed.** A walk reads each entry once, takes four steps, and each of them through
//!    the p2m.
//! 3. **Accessed and dirty bits move as on the bare CPU**: what is shown is accessed, and writable only if it is dirty.
//!    They are written to frames that the guest could write to itself.
//! 4. **The memory is bounded**: p2m and shadows have the domain's allocation. When no more is there, shadows are
//!    dropped; a p2m that finds no room refuses the frame.
//! 5. **The numbers of such a domain's are no frames.** Who is named by them asks for a frame of
//!    [`Owner::translated`], which owns none: what forgets to translate finds nothing.

mod fault;
mod p2m;
mod roots;

use super::{
    super::{Hardware, PagingDomain, edit::AccessedDirty, entry::Entry, frame_type::Owner, held::Hold},
    Shadow,
    follow::empty_root,
};
use crate::{
    addr::{Mfn, Slot},
    config::PREEMPT_INTERVAL,
    heap,
    mem::Memory,
    reply::Stop,
};
use alloc::boxed::Box;
use core::sync::atomic::Ordering;
use oxen_abi::errno::Errno;
use p2m::P2m;
pub use roots::{Forget, Mode};

/// The work of taking an entry out of a p2m that ends, in units.
const ENTRY_UNITS: u32 = 2;

/// What a domain has of translations.
#[derive(Debug)]
pub(super) struct Translated {
    p2m: P2m,
    /// By vcpu and mode.
    roots: Box<[GuestRoot]>,
}

/// A root of the guest's that a vcpu runs on in one of its modes.
#[derive(Clone, Copy, Debug, Default)]
struct GuestRoot {
    number: Option<u64>,
    /// Whether anything of it was shown since all was dropped.
    is_shown: bool,
}

impl Translated {
    /// The frames of the p2m, which is empty, are the pool's again.
    pub(super) fn end(&mut self) {
        self.p2m = P2m::default();
    }
}

impl<M: Hardware> Memory<M> {
    fn with_translated<R>(&self, owner: Owner, act: impl FnOnce(&mut Shadow) -> R) -> Option<R> {
        self.shadows.of(owner).as_deref_mut()?.as_deref_mut().filter(|shadow| shadow.translated.is_some()).map(act)
    }

    fn with_p2m<R>(&self, owner: Owner, act: impl FnOnce(&mut Translated) -> R) -> Option<R> {
        self.with_translated(owner, |shadow| shadow.translated.as_mut().map(act)).flatten()
    }

    /// Has the numbers of a domain, which has memory for shadows, does not run on any, and has no frames yet, be
    /// translated from now on.
    ///
    /// # Errors
    /// `NoMem`.
    pub fn begin_translation(&self, domain: &PagingDomain) -> Result<(), Errno> {
        let owner = domain.owner;
        let count = self.with(owner, |shadow| shadow.roots.len()).ok_or(Errno::NoMem)?;
        let roots = heap::row(&self.machine, count, |_| GuestRoot::default())?;
        self.turn_shadows_on(domain, false)?;
        self.with(owner, |shadow| {
            shadow.translated = Some(Translated { p2m: P2m::default(), roots });
        });
        domain.set_named(owner.translated());
        Ok(())
    }

    /// The frame behind a number of the guest's, and whether it is held to be written to.
    #[must_use]
    pub fn translation(&self, owner: Owner, gfn: u64) -> Option<(Mfn, bool)> {
        let entry = self.with_p2m(owner, |translated| translated.p2m.entry(&self.machine, gfn)).flatten()?;
        Some((entry.mfn()?, entry.is_writable()))
    }

    /// The number by which a guest knows one of its frames.
    #[must_use]
    pub fn number_of(&self, owner: Owner, frame: Mfn) -> Option<u64> {
        let gfn = self.place_of(frame)?;
        self.translation(owner, gfn).is_some_and(|(found, _)| found == frame).then_some(gfn)
    }

    /// How a frame of a domain's is told of to the domain, and to who acts on it: all ones where it has no number.
    #[must_use]
    pub fn told_of(&self, domain: &PagingDomain, frame: Mfn) -> u64 {
        if domain.is_translated() { self.number_of(domain.owner, frame).unwrap_or(u64::MAX) } else { frame.raw() }
    }

    /// What frame is meant by `number` in the name of `named`: a frame of the machine's and its owner.
    #[cold]
    pub fn meant(&self, named: Owner, number: Mfn) -> Option<(Mfn, Owner)> {
        match named.behind_numbers() {
            None => Some((number, named)),
            Some(owner) => self.translation(owner, number.raw()).map(|(frame, _)| (frame, owner)),
        }
    }

    /// An entry of a page table that maps a frame of `named`'s, as the machine has it.
    #[must_use]
    pub fn meant_by(&self, named: Owner, entry: Entry) -> Option<(Entry, Owner)> {
        let (frame, owner) = self.meant(named, entry.mfn().filter(|_| entry.is_present())?)?;
        Some((Entry::to(frame, entry.flags()), owner))
    }

    /// Puts a frame of the domain's into its memory, where nothing is yet.
    ///
    /// # Errors
    /// `Inval` for a frame that is not the domain's, `Busy` for one in use otherwise, `Exist` where another is, `NoMem`
    /// without memory for the p2m.
    pub fn place_frame(&self, domain: &PagingDomain, gfn: u64, frame: Mfn) -> Result<(), Errno> {
        let owner = domain.owner;
        let held = self.hold_as(frame, owner, Hold::Writable)?;
        let placed = self.with_translated(owner, |shadow| {
            // Under the lock: what ends the p2m has not begun.
            if domain.is_dying.load(Ordering::SeqCst) {
                return Err(Errno::Inval);
            }
            let (translated, pool) = (shadow.translated.as_mut().ok_or(Errno::Inval)?, &mut shadow.pool);
            let word = translated.p2m.make_place(self, pool, gfn).ok_or(Errno::NoMem)?;
            if Entry(word.load(Ordering::Relaxed)).is_present() {
                return Err(Errno::Exist);
            }
            word.store(p2m::entry_of(frame, true).0, Ordering::Relaxed);
            Ok(())
        });
        placed.unwrap_or(Err(Errno::Inval))?;
        self.set_m2p(held.into_entry().mfn(), gfn);
        Ok(())
    }

    /// Takes a frame out of a guest's memory; it stays the domain's.
    ///
    /// # Errors
    /// `Inval` where none is.
    pub fn displace_frame(&self, owner: Owner, gfn: u64) -> Result<Mfn, Errno> {
        let taken = self.with_translated(owner, |shadow| {
            let word = shadow.translated.as_ref()?.p2m.place(&self.machine, gfn)?;
            let entry = Entry(word.swap(0, Ordering::Relaxed));
            let frame = entry.mfn().filter(|_| entry.is_present())?;
            shadow.forget_all(self, owner);
            Some((frame, entry))
        });
        let (frame, entry) = taken.flatten().ok_or(Errno::Inval)?;
        if self.place_of(frame) == Some(gfn) {
            self.set_m2p(frame, super::super::frame_alloc::INVALID_M2P_ENTRY);
        }
        self.put_place(frame, entry);
        Ok(frame)
    }

    /// Gives back what an entry of a p2m held, which is gone from there.
    fn put_place(&self, frame: Mfn, entry: Entry) {
        self.frames.put_entry(frame, if entry.is_writable() { Hold::Writable } else { Hold::Reference });
    }

    /// The frame behind a number, which the guest does not write to for now: to be used as a descriptor page.
    ///
    /// # Errors
    /// `Inval` where none is.
    #[cold]
    #[inline(never)]
    pub(in super::super) fn frame_to_read(&self, owner: Owner, gfn: u64) -> Result<Mfn, Errno> {
        let found = self.with_translated(owner, |shadow| {
            let word = shadow.translated.as_ref()?.p2m.place(&self.machine, gfn)?;
            let entry = Entry(word.load(Ordering::Relaxed));
            let frame = entry.mfn().filter(|_| entry.is_present())?;
            if !entry.is_writable() {
                return Some((frame, None));
            }
            // The use goes, and its reference becomes one of its own.
            self.frames.reference(frame, owner).ok()?;
            word.store(p2m::entry_of(frame, false).0, Ordering::Relaxed);
            shadow.forget_all(self, owner);
            Some((frame, Some(entry)))
        });
        let (frame, last) = found.flatten().ok_or(Errno::Inval)?;
        if let Some(entry) = last {
            self.put_place(frame, entry);
        }
        Ok(frame)
    }

    /// Writes a word of a guest's memory, as the guest could.
    ///
    /// # Errors
    /// `Inval` where nothing is that it could write to.
    pub fn write_translated(
        &self,
        owner: Owner,
        number: Mfn,
        slot: Slot,
        value: u64,
        notes: AccessedDirty,
    ) -> Result<(), Errno> {
        let held = self.hold_writable(number, owner.translated()).map_err(|_| Errno::Inval)?;
        let word = slot.of(self.machine.words(held.frame()));
        let kept = if notes == AccessedDirty::Keep { Entry::NOTES.bits() } else { 0 };
        // Nobody refuses the exchange: what was there is looked at again until it has not changed.
        let _ = word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |old| Some(value | old & kept));
        Ok(())
    }

    /// Whether a frame was shown since this was last asked of it, or it had its place, and all shadows were dropped
    /// after that: whether the guest has used it.
    pub(in super::super) fn take_use(&self, owner: Owner, frame: Mfn) -> bool {
        let Some(gfn) = self.place_of(frame) else { return false };
        let noted = self.with_p2m(owner, |translated| {
            let word = translated.p2m.place(&self.machine, gfn)?;
            let entry = Entry(word.fetch_and(!Entry::ACCESSED.bits(), Ordering::Relaxed));
            Some(entry.has(Entry::PRESENT | Entry::ACCESSED) && entry.mfn() == Some(frame))
        });
        noted.flatten().unwrap_or(false)
    }

    /// Gives back all that the p2m of a domain holds, none of whose vcpus is on a CPU, and which is dying.
    ///
    /// # Errors
    /// `Unfinished`: call again.
    pub(super) fn end_translation(&self, owner: Owner) -> Result<(), Stop> {
        let mut spent = 0;
        let mut gfn = 0;
        while let Some((found, entry)) =
            self.with_p2m(owner, |translated| translated.p2m.next(&self.machine, gfn)).flatten()
        {
            // The CPUs forget it at the first, and nothing more is shown.
            let taken = self.with_translated(owner, |shadow| {
                shadow.forget_all(self, owner);
                let place = shadow.translated.as_ref()?.p2m.place(&self.machine, found)?;
                place.store(0, Ordering::Relaxed);
                Some(())
            });
            if taken.flatten().is_some()
                && let Some(frame) = entry.mfn()
            {
                self.put_place(frame, entry);
            }
            gfn = found + 1;
            spent += ENTRY_UNITS;
            if spent >= PREEMPT_INTERVAL {
                return Err(Stop::Unfinished);
            }
        }
        Ok(())
    }

    /// Every frame in the memory of a domain: its number, the frame, and whether it is held to be written to.
    pub fn each_translation(&self, owner: Owner) -> impl Iterator<Item = (u64, Mfn, bool)> + '_ {
        let mut next = 0;
        core::iter::from_fn(move || {
            let found = self.with_p2m(owner, |translated| translated.p2m.next(&self.machine, next)).flatten();
            let (gfn, entry) = found?;
            next = gfn + 1;
            Some((gfn, entry.mfn()?, entry.is_writable()))
        })
    }
}

impl Shadow {
    /// Drops all that is shown, if anything is, and has every CPU forget it.
    fn forget_all<M: Hardware>(&mut self, memory: &Memory<M>, owner: Owner) {
        let own = self.translated.iter_mut().flat_map(|translated| translated.roots.iter_mut());
        let mut is_any = false;
        for (own, root) in own.zip(&self.roots) {
            if core::mem::take(&mut own.is_shown) {
                is_any = true;
                root.frame.into_iter().for_each(|frame| empty_root(&memory.machine, frame));
            }
        }
        // The CPUs know nothing that no shadow has shown since they forgot the last.
        if is_any {
            self.pool.reset();
            memory.flush_cpus(memory.frames.tlb.cpus_of(owner));
        }
    }
}
