//! What tables, pins and reservations hold: what stands in memory and in the frames' words.

use super::{Broken, Recount};
use crate::{
    addr::{Mfn, TABLE_ENTRIES},
    layout::FIRST_HV_SLOT,
    machine::Machine,
    mem::{
        entry::Entry,
        frame_type::{FrameState, FrameType},
        walk,
    },
};
use core::sync::atomic::Ordering;
use x86_64::structures::paging::PageTableFlags;

/// A table, and how much of it holds something.
#[derive(Clone, Copy)]
struct Table {
    frame: Mfn,
    state: FrameState,
    level: u32,
    /// Entries that hold what they refer to.
    held: usize,
    /// Whether the next one's table is under way for this one.
    is_inside: bool,
}

impl<M: Machine> Recount<'_, M> {
    /// Counts what each frame holds by being in a reservation, by being pinned, and by its entries.
    ///
    /// # Errors
    /// An entry that no table may have.
    pub fn add_tables(&mut self) -> Result<(), Broken> {
        for frame in self.hv.each_frame() {
            let state = self.hv.memory.frames.state(frame);
            if state.is_allocated() {
                self.add(frame, false);
            }
            if state.is_pinned() {
                self.add(frame, true);
            }
            if let Some(level) = state.kind().level().filter(|_| state.uses() != 0) {
                self.add_entries(frame, state, level)?;
            }
        }
        Ok(())
    }

    fn add_entries(&mut self, frame: Mfn, state: FrameState, level: u32) -> Result<(), Broken> {
        let frames = &self.hv.memory.frames;
        let mut table = Table { frame, state, level, held: TABLE_ENTRIES, is_inside: false };
        if let Some(at) = frames.under_way(frame) {
            if !at.is_nested {
                self.add(frame, true);
            }
            (table.held, table.is_inside) = (at.held, at.is_inside);
        } else if !state.is_validated() {
            return Err(self.broken("law 1: a table is in use, not validated, and nobody is at it", frame));
        }
        let Some(ram) = frames.ram_frame(frame) else {
            return Err(self.broken("law 1: a table is no memory", frame));
        };
        let words = self.hv.machine().words(ram).iter();
        for (slot, word) in words.enumerate().take(table.held + usize::from(table.is_inside)) {
            let entry = Entry(word.load(Ordering::SeqCst));
            if walk::is_hypervisor_slot(level, slot) {
                let shown = self.hv.machine().root_entries().get(slot - FIRST_HV_SLOT);
                let is_hidden = slot == FIRST_HV_SLOT && entry.0 == 0;
                if state.is_validated() && !is_hidden && shown != Some(&entry.0) {
                    return Err(self.broken_by("law 2: a slot of the hypervisor's holds something else", frame, entry));
                }
            } else if entry.is_present() {
                let added = match entry.mfn() {
                    None => Err("law 2: an entry refers to a frame that no machine has"),
                    Some(target) if level == 1 => self.add_page(entry, target),
                    Some(target) => self.add_table(table, slot, entry, target),
                };
                added.map_err(|law| self.broken_by(law, frame, entry))?;
            }
        }
        Ok(())
    }

    fn broken_by(&self, law: &'static str, frame: Mfn, entry: Entry) -> Broken {
        Broken { entry: Some(entry), ..self.broken(law, frame) }
    }

    /// What an entry of an L1 holds, and whether it may.
    fn add_page(&mut self, entry: Entry, target: Mfn) -> Result<(), &'static str> {
        let frames = &self.hv.memory.frames;
        let (is_ram, state) = (frames.is_ram(target), frames.state(target));
        let caching = if is_ram { Entry::CACHING } else { PageTableFlags::empty() };
        if entry.flags() & (caching | Entry::USER) != Entry::USER {
            return Err("law 2: an entry has flags that it may not have");
        }
        if !is_ram {
            return if entry.uncached() == entry { Ok(()) } else { Err("law 2: device memory is cached") };
        }
        if state.owner().slot().is_none() {
            return Err("law 2: a frame is mapped that is nobody's");
        }
        if entry.is_writable() && state.kind() != FrameType::Writable {
            return Err("law 1: a frame is mapped to be written and has another type");
        }
        self.add(target, entry.is_writable());
        Ok(())
    }

    /// What an entry of a higher table holds, and whether it may.
    fn add_table(&mut self, table: Table, slot: usize, entry: Entry, target: Mfn) -> Result<(), &'static str> {
        let Table { frame, state, level, held, is_inside } = table;
        let beside = Entry::CACHING | PageTableFlags::HUGE_PAGE | PageTableFlags::GLOBAL | Entry::USER;
        if entry.flags() & beside != Entry::USER {
            return Err("law 2: an entry of a table has flags that it may not have");
        }
        let below = self.hv.memory.frames.state(target);
        if below.owner() != state.owner() {
            return Err("law 2: a table of another domain");
        }
        let is_linear = below.kind().level() == Some(level);
        if is_linear && entry.is_writable() {
            return Err("law 1: a linear entry is writable");
        }
        if is_linear && !below.is_validated() && target != frame && !(is_inside && slot == held) {
            return Err("law 2: a linear entry refers to what is not validated");
        }
        if !is_linear && below.kind().level() != Some(level - 1) {
            return Err("law 1: a table refers to what is none of the level below");
        }
        if is_linear && slot < held {
            self.add_linear(frame, target, level);
        }
        if target != frame {
            self.add(target, true);
        }
        Ok(())
    }

    fn add_linear(&mut self, table: Mfn, target: Mfn, level: u32) {
        let is_for_another = usize::from(target != table);
        if let Some(count) = self.linear.get_mut(level as usize - 1).and_then(|level| level.get_mut(is_for_another)) {
            *count += 1;
        }
        if target != table {
            self.found.get_mut(table.index()).iter_mut().for_each(|found| found.links += 1);
            self.found.get_mut(target.index()).iter_mut().for_each(|found| found.linked += 1);
        }
    }
}
