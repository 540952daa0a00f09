//! A fault in an address space whose tables hold numbers of the guest's own: walked and translated, and shown.

use super::{
    super::{
        super::{Hardware, entry::Entry, frame_type::Acquired, frame_type::FrameType, frame_type::Owner},
        Shadow,
        fault::{Access, Again, Met},
    },
    Translated, p2m,
};
use crate::{
    addr::GuestAddr,
    mem::{Memory, RamFrame},
};
use core::sync::atomic::{AtomicU64, Ordering};

/// A step on the way through the guest's tables.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) word: &'static AtomicU64,
    pub(super) entry: Entry,
}

/// The way, from the root down.
pub(super) type Path = heapless::Vec<Step, 4>;

/// What the flags on the way down allow.
fn allows(path: &Path, access: Access) -> bool {
    match access {
        Access::Read => true,
        Access::Write => path.iter().all(|step| step.entry.is_writable()),
        Access::Fetch => path.iter().all(|step| !step.entry.has(Entry::NO_EXECUTE)),
    }
}

impl Translated {
    /// The way through the guest's tables to the entry of level 1 for `va`; `None` where the way ends before. A table
    /// is memory that the guest could write to, for the CPU's notes go there.
    pub(super) fn walk<M: Hardware>(
        &self,
        memory: &Memory<M>,
        owner: Owner,
        index: usize,
        va: GuestAddr,
    ) -> Option<Path> {
        let mut gfn = self.roots.get(index)?.number.filter(|_| va.is_guest_range(1))?;
        let mut path = Path::new();
        for level in (1..=4).rev() {
            if let Some(above) = path.last() {
                // Pages larger than 4 KiB there are not.
                let is_table = above.entry.is_present() && !above.entry.has(Entry::PAT_OR_SIZE);
                gfn = Some(above.entry.frame_index() as u64).filter(|_| is_table)?;
            }
            let place = self.p2m.place(&memory.machine, gfn)?;
            let table = held_to_write(memory, owner, place).filter(|entry| entry.is_writable())?.mfn()?;
            place.fetch_or(Entry::ACCESSED.bits(), Ordering::Relaxed);
            let word = memory.machine.words(RamFrame::counted(table)).get(va.slot(level).index())?;
            // There is room for four.
            let _ = path.push(Step { word, entry: Entry(word.load(Ordering::Acquire)) });
        }
        Some(path)
    }
}

/// How often an entry may change under our eyes before the guest is let fault once more.
const ATTEMPTS: usize = 8;

impl Shadow {
    /// A fault at `va` under the root `index`: what the guest's tables and its p2m allow is shown.
    pub(in super::super) fn fault_translated<M: Hardware>(
        &mut self,
        memory: &Memory<M>,
        owner: Owner,
        index: usize,
        va: GuestAddr,
        access: Access,
    ) -> Met {
        for _ in 0..ATTEMPTS {
            match self.show_translated(memory, owner, index, va, access) {
                Ok(met) => return met,
                Err(Again::Changed) => {}
                Err(Again::Full) => self.forget_all(memory, owner),
            }
        }
        Met::Shown
    }

    /// Shows what is missing at `va` under the root `index`.
    fn show_translated<M: Hardware>(
        &mut self,
        memory: &Memory<M>,
        owner: Owner,
        index: usize,
        va: GuestAddr,
        access: Access,
    ) -> Result<Met, Again> {
        const NOTHING: Result<Met, Again> = Ok(Met::Refused { is_present: false });
        let ram = &memory.machine;
        let Some(translated) = &mut self.translated else { return NOTHING };
        let Some(mut path) = translated.walk(memory, owner, index, va) else { return NOTHING };
        let Some(leaf) = path.last().map(|step| step.entry).filter(|leaf| leaf.is_present()) else { return NOTHING };
        let Some(place) = translated.p2m.place(ram, leaf.frame_index() as u64) else { return NOTHING };
        let is_written = access == Access::Write && allows(&path, access);
        let page = Some(Entry(place.load(Ordering::Relaxed))).filter(|page| page.is_present());
        let page = if is_written { held_to_write(memory, owner, place) } else { page };
        let Some(page) = page else { return NOTHING };
        if !allows(&path, access) || access == Access::Write && !page.is_writable() {
            return Ok(Met::Refused { is_present: true });
        }
        set_notes(&mut path, access)?;
        let mut kept = Entry::PRESENT | Entry::USER | Entry::ACCESSED;
        let is_dirty = path.last().is_some_and(|step| step.entry.has(Entry::DIRTY));
        let is_writable = is_dirty && page.is_writable() && allows(&path, Access::Write);
        kept.set(Entry::WRITABLE | Entry::DIRTY, is_writable);
        kept.set(Entry::NO_EXECUTE, !allows(&path, Access::Fetch));
        let (Some(frame), Some(mut at)) = (page.mfn(), self.roots.get(index).and_then(|root| root.frame)) else {
            return NOTHING;
        };
        let Some(own) = translated.roots.get_mut(index) else { return NOTHING };
        own.is_shown = true;
        place.fetch_or(Entry::ACCESSED.bits(), Ordering::Relaxed);
        for level in (2..=4).rev() {
            let Some(word) = ram.words(at).get(va.slot(level).index()) else { return NOTHING };
            at = match Entry(word.load(Ordering::Relaxed)).table() {
                Some(next) => next,
                None => {
                    let new = self.pool.take(memory, owner).ok_or(Again::Full)?;
                    let flags = Entry::PRESENT | Entry::WRITABLE | Entry::USER | Entry::ACCESSED;
                    word.store(Entry::to(new.mfn(), flags).0, Ordering::Release);
                    new
                }
            };
        }
        if let Some(word) = ram.words(at).get(va.slot(1).index()) {
            word.store(Entry::to(frame, kept).0, Ordering::Release);
        }
        Ok(Met::Shown)
    }

    /// Forgets what is shown at `va` in the address spaces of `roots`. CPUs may still know it.
    pub(super) fn forget_page<M: Hardware>(&self, memory: &Memory<M>, roots: core::ops::Range<usize>, va: GuestAddr) {
        let shown = self.roots.get(roots).unwrap_or_default().iter().filter_map(|root| root.frame);
        for mut at in shown {
            for level in (1..=4).rev() {
                let Some(word) = memory.machine.words(at).get(va.slot(level).index()) else { break };
                if level == 1 {
                    word.store(0, Ordering::Release);
                } else {
                    let Some(next) = Entry(word.load(Ordering::Relaxed)).table() else { break };
                    at = next;
                }
            }
        }
    }
}

/// Has an entry of the p2m, if one stands there, hold its frame to be written to, if it can be; what stands there then.
fn held_to_write<M: Hardware>(memory: &Memory<M>, owner: Owner, place: &AtomicU64) -> Option<Entry> {
    let entry = Some(Entry(place.load(Ordering::Relaxed))).filter(|entry| entry.is_present())?;
    if entry.is_writable() {
        return Some(entry);
    }
    let frame = entry.mfn()?;
    let Ok(acquired) = memory.frames.acquire(frame, owner, FrameType::Writable) else { return Some(entry) };
    if acquired == Acquired::Changed {
        memory.flush_stale(owner, memory.frames.aux(frame));
    }
    let writable = p2m::entry_of(frame, true);
    place.store(writable.0, Ordering::Relaxed);
    // The use came with a reference of its own, so this is not the last.
    memory.frames.put(frame);
    Some(writable)
}

/// Sets in the guest's tables what the CPU would have noted there.
fn set_notes(path: &mut Path, access: Access) -> Result<(), Again> {
    for (level, step) in (1..=4).rev().zip(path) {
        let is_written = level == 1 && access == Access::Write;
        let noted = step.entry.with(if is_written { Entry::NOTES } else { Entry::ACCESSED });
        if noted != step.entry {
            let exchanged = step.word.compare_exchange(step.entry.0, noted.0, Ordering::AcqRel, Ordering::Relaxed);
            exchanged.map_err(|_| Again::Changed)?;
            step.entry = noted;
        }
    }
    Ok(())
}
