//! Shadows follow their source: entries that are written, tables that end, roots that vcpus switch to.

use super::{
    super::{
        Hardware, PagingDomain, Ram,
        editor::Editor,
        entry::Entry,
        frame_type::Owner,
        root::{LoadedRoots, RootAddress},
    },
    MODES, Shadow,
    fault::take_write_rights,
    index::Key,
};
use crate::{
    addr::Slot,
    layout::{END_HV_SLOT, FIRST_HV_SLOT},
    mem::{Memory, RamFrame, walk::groups},
};
use core::sync::atomic::Ordering;

/// Takes everything of the guest's out of a root.
pub(super) fn empty_root(ram: &impl Ram, root: RamFrame) {
    for (slot, word) in ram.words(root).iter().enumerate() {
        if !(FIRST_HV_SLOT..END_HV_SLOT).contains(&slot) {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// Has nothing be written to through a root.
pub(super) fn protect_root(ram: &impl Ram, root: RamFrame) {
    let words = ram.words(root);
    words.get(..FIRST_HV_SLOT).into_iter().chain(words.get(END_HV_SLOT..)).for_each(take_write_rights);
}

impl<M: Hardware> Editor<'_, M> {
    /// An entry of a table has just been written. Call it before what stood there is given back.
    #[cold]
    #[inline(never)]
    pub(in super::super) fn follow(&self, table: RamFrame, level: u32, slot: Slot) {
        let owner = self.domain.owner;
        let Some(mut shadows) = self.memory.shadows.of(owner) else { return };
        let Some(shadow) = shadows.as_deref_mut() else { return };
        shadow.mark(self.memory, owner, table.mfn());
        shadow.follow_entry(self.memory, owner, table, level, slot);
    }

    /// A table has been written to otherwise: shadows of it there are none.
    #[cold]
    #[inline(never)]
    pub(in super::super) fn note_table(&self, table: RamFrame) {
        self.memory.note_written(table);
    }

    /// Nobody uses a table as one any more: its shadows end before its entries are given back.
    #[cold]
    #[inline(never)]
    pub(in super::super) fn forget(&self, table: RamFrame, level: u32) {
        let Some(mut shadows) = self.memory.shadows.of(self.domain.owner) else { return };
        let Some(shadow) = shadows.as_deref_mut() else { return };
        let ram = &self.memory.machine;
        for level in 1..=level.min(3) {
            if let Some(frame) = shadow.index.remove(ram, Key { source: table.mfn(), level }) {
                shadow.pool.give_back(self.memory, frame);
            }
        }
        for root in shadow.roots.iter_mut().filter(|root| root.source == Some(table)) {
            root.source = None;
            if let Some(frame) = root.frame {
                empty_root(ram, frame);
            }
        }
    }

    /// Has the root that this CPU has loaded for a vcpu show another root of the guest's.
    #[cold]
    #[inline(never)]
    pub(in super::super) fn show_root(&self, loaded: RootAddress, source: Option<RamFrame>) {
        let Some((owner, index)) = loaded.mfn().and_then(|frame| self.memory.shadow_root(frame)) else { return };
        if owner == self.domain.owner
            && let Some(mut shadows) = self.memory.shadows.of(owner)
            && let Some(shadow) = shadows.as_deref_mut()
        {
            shadow.show_root(self.memory, owner, index, source);
        }
    }
}

impl<M: Hardware> Memory<M> {
    /// What is to be loaded for a vcpu that comes on a CPU, where the guest's roots are these.
    #[must_use]
    pub fn roots_to_load(
        &self,
        domain: &PagingDomain,
        vcpu: u32,
        user: Option<RamFrame>,
        kernel: Option<RamFrame>,
    ) -> LoadedRoots {
        let shadows = if domain.is_shadowed.load(Ordering::Acquire) {
            self.shadow_roots(domain.owner, vcpu, [user, kernel])
        } else {
            None
        };
        shadows.unwrap_or_else(|| {
            let [user, kernel] = [user, kernel].map(|root| self.root_address(root));
            LoadedRoots { user, kernel, are_shadows: false }
        })
    }

    /// The first of the hypervisor's slots has changed in a root of the guest's.
    pub(in super::super) fn follow_first_slot(&self, domain: &PagingDomain, root: RamFrame) {
        if domain.is_shadowed.load(Ordering::Acquire)
            && let Some(mut shadows) = self.shadows.of(domain.owner)
            && let Some(shadow) = shadows.as_deref_mut()
        {
            shadow.mark(self, domain.owner, root.mfn());
            let showing = shadow.roots.iter().filter(|shown| shown.source == Some(root));
            showing.filter_map(|shown| shown.frame).for_each(|frame| copy_first_slot(&self.machine, root, frame));
        }
    }

    #[cold]
    fn shadow_roots(&self, owner: Owner, vcpu: u32, guests: [Option<RamFrame>; MODES]) -> Option<LoadedRoots> {
        let mut shadows = self.shadows.of(owner)?;
        let shadow = shadows.as_deref_mut().filter(|shadow| shadow.is_on)?;
        for (index, source) in (MODES * vcpu as usize..).zip(guests) {
            if shadow.translated.is_none() && shadow.roots.get(index)?.source != source {
                shadow.show_root(self, owner, index, source);
            }
        }
        let root = |mode: usize| shadow.roots.get(MODES * vcpu as usize + mode)?.frame.map(RootAddress::of);
        Some(LoadedRoots { user: root(0)?, kernel: root(1)?, are_shadows: true })
    }
}

impl Shadow {
    pub(super) fn follow_entry<M: Hardware>(
        &self,
        memory: &Memory<M>,
        owner: Owner,
        table: RamFrame,
        level: u32,
        slot: Slot,
    ) {
        let ram = &memory.machine;
        let entry = ram.words(table).get(slot.index()).map_or(Entry(0), |word| Entry(word.load(Ordering::Acquire)));
        let put = |frame: RamFrame, level: u32| {
            if let Some(word) = ram.words(frame).get(slot.index()) {
                word.store(self.shown(memory, owner, entry, level).0, Ordering::Release);
            }
        };
        // Behind a linear entry a table is one of a lower level.
        for level in 1..=level.min(3) {
            if let Some(shadow) = self.index.find(ram, Key { source: table.mfn(), level }) {
                put(shadow.frame, level);
            }
        }
        if level == 4 {
            let showing = self.roots.iter().filter(|root| root.source == Some(table));
            showing.filter_map(|root| root.frame).for_each(|frame| put(frame, 4));
        }
    }

    /// What a shadow shows of an entry without a fault: what was used already.
    fn shown<M: Hardware>(&self, memory: &Memory<M>, owner: Owner, entry: Entry, level: u32) -> Entry {
        if !entry.has(Entry::PRESENT.union(Entry::ACCESSED)) {
            return Entry(0);
        }
        if level == 1 {
            return self.leaf(memory, owner, entry, false);
        }
        let key = |source| Key { source, level: level - 1 };
        let child = entry.mfn().and_then(|source| self.index.find(&memory.machine, key(source)));
        child.map_or(Entry(0), |child| self.link(entry, child))
    }

    /// Has a root show another root of the guest's, or nothing.
    fn show_root<M: Hardware>(&mut self, memory: &Memory<M>, owner: Owner, index: usize, source: Option<RamFrame>) {
        let Some(root) = self.roots.get_mut(index) else { return };
        root.source = source;
        let Some(frame) = root.frame else { return };
        empty_root(&memory.machine, frame);
        let Some(source) = source else { return };
        copy_first_slot(&memory.machine, source, frame);
        let shown = memory.machine.words(frame);
        for (first, words) in groups(memory.machine.words(source)) {
            for (slot, word) in (first..).zip(words).filter(|(slot, _)| !(FIRST_HV_SLOT..END_HV_SLOT).contains(slot)) {
                let entry = Entry(word.load(Ordering::Acquire));
                if let Some(place) = shown.get(slot).filter(|_| entry.is_present()) {
                    place.store(self.shown(memory, owner, entry, 4).0, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The machine-to-phys table, which not every root of the guest's has.
fn copy_first_slot(ram: &impl Ram, source: RamFrame, root: RamFrame) {
    if let (Some(from), Some(to)) = (ram.words(source).get(FIRST_HV_SLOT), ram.words(root).get(FIRST_HV_SLOT)) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// A new root: the hypervisor's slots, and nothing of the guest's.
pub(super) fn begin_root<M: Hardware>(memory: &Memory<M>, root: RamFrame) {
    memory.machine.clear(root);
    let slots = memory.machine.words(root).iter().skip(FIRST_HV_SLOT);
    for (word, entry) in slots.zip(memory.machine.root_entries()) {
        word.store(*entry, Ordering::Relaxed);
    }
}
