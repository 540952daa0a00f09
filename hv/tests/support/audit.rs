//! The laws of memory, checked from outside: everything that holds a frame is counted again.

use super::{CPUS, Fake};
use oxen_abi::domid::DomId;
use oxen_hv::{
    Hypervisor,
    addr::{Mfn, TABLE_ENTRIES},
    mem::{
        entry::Entry,
        frame_type::{FrameState, FrameType, Owner},
        walk,
    },
};
use std::{collections::HashMap, sync::atomic::Ordering};
use x86_64::structures::paging::PageTableFlags;

/// References and uses of each frame.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    by_frame: HashMap<Mfn, (u64, u64)>,
}

impl Holds {
    /// A reference, and with it a use.
    pub(crate) fn add(&mut self, frame: impl Into<Mfn>, is_use: bool) {
        let counts = self.by_frame.entry(frame.into()).or_default();
        counts.0 += 1;
        counts.1 += u64::from(is_use);
    }

    /// A reference or use less.
    pub(crate) fn remove(&mut self, frame: Mfn, is_use: bool) {
        let counts = self.by_frame.get_mut(&frame).expect("a hold that was never added");
        counts.0 -= 1;
        counts.1 -= u64::from(is_use);
    }
}

/// What stands in a domain's memory, where its frames are translated: number, frame, whether it is held to be written
/// to.
pub(crate) fn each_translation(hv: &Hypervisor<Fake>, owner: Owner, mut act: impl FnMut(u64, Mfn, bool)) {
    let mut next = 0;
    while let Some((gfn, frame, is_writable)) = hv.memory.next_translation(owner, next) {
        act(gfn, frame, is_writable);
        next = gfn + 1;
    }
}

/// Every frame of the machine.
pub(crate) fn all(hv: &Hypervisor<Fake>) -> impl Iterator<Item = Mfn> {
    (0..hv.memory.frames.end() as u64).filter_map(Mfn::new)
}

/// Counts everything again: `known` is what the test knows to be held by no table, no pin and no queue of events,
/// `was_lent` whether a domain may know a frame of another.
///
/// # Panics
/// With the name of the law that is broken.
pub(crate) fn check(hv: &Hypervisor<Fake>, known: &Holds, was_lent: impl Fn(Owner, Mfn) -> bool) {
    let mut holds = Holds { by_frame: known.by_frame.clone() };
    let mut from = DomId(0);
    while let Some(domain) = hv.domains.next_from(from) {
        from = DomId(domain.id.0 + 1);
        domain.events.each_frame(|frame| holds.add(frame, true));
        each_translation(hv, domain.owner(), |_, frame, is_writable| holds.add(frame, is_writable));
    }
    let mut owned: HashMap<usize, u32> = HashMap::new();
    let mut free = 0;
    for frame in all(hv) {
        let state = hv.memory.frames.state(frame);
        if let Some(slot) = state.owner().slot() {
            if !state.is_shared() {
                *owned.entry(slot).or_default() += 1;
            }
            assert_ne!(state.refs(), 0, "law 3: {frame:?} is owned but nobody holds it");
        } else if state.owner() == Owner::NOBODY {
            free += 1;
        }
        if state.is_allocated() {
            holds.add(frame, false);
        }
        if state.is_pinned() {
            holds.add(frame, true);
        }
        count_entries(hv, frame, &mut holds);
    }
    check_links(hv);
    assert_eq!(hv.memory.frames.free_frames(), free, "law 7: a frame is neither free nor owned");
    for frame in all(hv) {
        let state = hv.memory.frames.state(frame);
        if state.owner().slot().is_some() {
            let (refs, uses) = holds.by_frame.get(&frame).copied().unwrap_or_default();
            assert_eq!((state.refs(), state.uses()), (refs, uses), "law 2: {frame:?}, {state:?}, found otherwise");
        } else {
            let held = holds.by_frame.get(&frame).is_some_and(|&counts| counts != (0, 0));
            assert!(!held, "law 3: {frame:?} is nobody's and somebody holds it");
        }
    }
    for (slot, frames) in owned {
        assert_eq!(hv.memory.frames.reserved(slot), frames, "the reservation of slot {slot}");
    }
    check_caches(hv, was_lent);
}

/// Counts what the entries of a table hold.
fn count_entries(hv: &Hypervisor<Fake>, frame: Mfn, holds: &mut Holds) {
    let state = hv.memory.frames.state(frame);
    let Some(level) = state.kind().level().filter(|_| state.uses() != 0) else { return };
    let (held, inside) = match hv.memory.frames.under_way(frame) {
        Some(at) => {
            if !at.is_nested {
                holds.add(frame, true);
            }
            (at.held, at.is_inside)
        }
        None => {
            assert!(state.is_validated(), "{frame:?} is used as {state:?} and nobody is at it");
            (TABLE_ENTRIES, false)
        }
    };
    for (slot, word) in hv.machine().words(frame).iter().enumerate().take(held + usize::from(inside)) {
        let entry = Entry(word.load(Ordering::SeqCst));
        if walk::is_hypervisor_slot(level, slot) {
            if state.is_validated() {
                assert_eq!(entry.0, super::root_entry(hv, slot), "the hypervisor's slots are the hypervisor's");
            }
            continue;
        }
        if !entry.is_present() {
            continue;
        }
        let target = entry.mfn().expect("law 2: a frame that no machine has");
        if level == 1 {
            check_page(hv, frame, entry, target);
            if hv.memory.frames.is_ram(target) {
                holds.add(target, entry.is_writable());
            }
        } else {
            // Neither larger pages, nor caching, nor global translations; open to ring 3.
            assert_eq!(entry.0 & 0x19c, Entry::USER.bits(), "law 2: {entry:?} at level {level}");
            let below = hv.memory.frames.state(target);
            assert_eq!(below.owner(), state.owner(), "law 2: a table of another domain");
            if below.kind().level() == Some(level) {
                assert!(!entry.is_writable(), "law 1: {entry:?} at level {level} is linear and writable");
                assert!(
                    below.is_validated() || target == frame || inside && slot == held,
                    "law 2: {entry:?} is linear"
                );
                if target == frame {
                    continue;
                }
            } else {
                assert_eq!(below.kind().level(), Some(level - 1), "law 1: {target:?} below a table of level {level}");
            }
            holds.add(target, true);
        }
    }
}

/// Counts the linear entries again: of each table those for others, and those of others for it. No table has both.
/// Returns how many are for their own table, and how many for others, by level.
pub(crate) fn check_links(hv: &Hypervisor<Fake>) -> [[u32; 2]; 4] {
    let mut counts: HashMap<Mfn, (i32, i32)> = HashMap::new();
    let mut found = [[0; 2]; 4];
    let tables = || {
        all(hv).filter_map(|frame| {
            let state = hv.memory.frames.state(frame);
            state.kind().level().filter(|_| state.uses() != 0).map(|level| (frame, level))
        })
    };
    for (table, level) in tables() {
        let held = hv.memory.frames.under_way(table).map_or(TABLE_ENTRIES, |at| at.held);
        for (slot, word) in hv.machine().words(table).iter().enumerate().take(held) {
            let entry = Entry(word.load(Ordering::SeqCst));
            if level == 1 || walk::is_hypervisor_slot(level, slot) || !entry.is_present() {
                continue;
            }
            let target = entry.mfn().unwrap();
            if hv.memory.frames.state(target).kind().level() != Some(level) {
                continue;
            }
            found[level as usize - 1][usize::from(target != table)] += 1;
            if target != table {
                counts.entry(table).or_default().0 += 1;
                counts.entry(target).or_default().1 += 1;
            }
        }
    }
    for (table, _) in tables() {
        let (has, is_had) = counts.get(&table).copied().unwrap_or_default();
        assert!(has == 0 || is_had == 0, "law 5: {table:?} has {has} linear entries, and {is_had} have it");
        assert_eq!(hv.memory.frames.links(table), has - is_had, "the linear entries of {table:?}");
    }
    found
}

/// What may be in a validated L1.
fn check_page(hv: &Hypervisor<Fake>, table: Mfn, entry: Entry, target: Mfn) {
    let is_ram = hv.memory.frames.is_ram(target);
    let caching = if is_ram { Entry::CACHING } else { PageTableFlags::empty() };
    assert_eq!(entry.flags() & (caching | Entry::USER), Entry::USER, "law 2: {entry:?} in {table:?}");
    assert!(is_ram || entry.uncached() == entry, "law 2: {entry:?} caches device memory");
    let state = hv.memory.frames.state(target);
    if is_ram {
        assert!(state.owner().slot().is_some(), "law 2: {entry:?} maps a frame that is nobody's");
        if entry.is_writable() {
            assert_eq!(state.kind(), FrameType::Writable, "law 1: {target:?} is writable and {state:?}");
        }
    }
}

/// What CPUs remember may be stale, but never dangerous, and what it could become dangerous by stands in the frame's
/// past: who gives the frame another type is told by it to flush this CPU first.
pub(crate) fn check_caches(hv: &Hypervisor<Fake>, was_lent: impl Fn(Owner, Mfn) -> bool) {
    for number in 0..CPUS as u16 {
        let cpu = hv.machine().cpu(number);
        let Some(root) = cpu.root else { continue };
        let domain = owner_of_root(hv, root);
        // The control domain may map others' frames, and what it does not flush is its own affair.
        let is_privileged = domain.slot().and_then(|slot| hv.domains.in_slot(slot)).is_some_and(|d| d.is_privileged());
        for entry in cpu.pages.values() {
            let frame = entry.mfn().unwrap();
            let state = hv.memory.frames.state(frame);
            let is_relied_on = state.uses() != 0 && state.kind().needs_validation();
            assert!(!(entry.is_writable() && is_relied_on), "law 1: a CPU can still write to {frame:?}, {state:?}");
            if entry.is_writable() && state.owner() == domain && state.uses() == 0 {
                let is_told = state.kind() == FrameType::Writable && is_asked(hv, number, frame);
                assert!(is_told, "law 1: a CPU can still write to {frame:?}, whose past does not say so: {state:?}");
            }
            if state.owner().slot().is_some() && state.owner() != domain && !is_privileged {
                assert!(was_lent(domain, frame), "law 3: a CPU still knows {frame:?}, another domain's by now");
            }
        }
        for (table, _) in cpu.tables.values() {
            let state = hv.memory.frames.state(*table);
            let is_written = state.uses() != 0 && state.kind() == FrameType::Writable;
            assert!(!is_written, "law 3: a CPU still walks through {table:?}, writable by now");
            let is_gone = state.owner().slot().is_some() && state.owner() != domain;
            assert!(!is_gone, "law 3: a CPU still walks through {table:?}, another domain's by now");
            if state.owner() == domain && state.uses() == 0 {
                let is_told = state.kind().level().is_some() && (state.is_partial() || is_asked(hv, number, *table));
                assert!(is_told, "law 3: a CPU still walks through {table:?}, whose past does not say so: {state:?}");
            }
        }
    }
}

/// Whose root it is: a guest's own, or a shadow of one.
pub(crate) fn owner_of_root(hv: &Hypervisor<Fake>, root: Mfn) -> Owner {
    let owner = hv.memory.frames.state(root).owner();
    if owner != Owner::HYPERVISOR {
        return owner;
    }
    hv.memory.owner_of_shadow(root).expect("a root of the hypervisor's that is no shadow")
}

/// Whether a CPU counts as one that may still know an idle frame's last use.
fn is_asked(hv: &Hypervisor<Fake>, cpu: u16, frame: Mfn) -> bool {
    hv.memory.frames.tlb.unflushed(1 << cpu, hv.memory.frames.aux(frame)) != 0
}

/// Nobody lent anybody anything.
pub(crate) fn nothing_lent(_domain: Owner, _frame: Mfn) -> bool {
    false
}

/// What every frame is: the whole word of those that somebody has. What is free may change places.
pub(crate) fn snapshot(hv: &Hypervisor<Fake>) -> Vec<FrameState> {
    let frames = all(hv).map(|frame| hv.memory.frames.state(frame));
    frames.map(|state| if state.owner() == Owner::NOBODY { FrameState::FREE } else { state }).collect()
}

/// What a refused operation must not have changed: anything. Only the past of an idle frame may say more than before,
/// that it was tried as something else.
///
/// # Panics
/// If it did.
pub(crate) fn assert_unchanged(hv: &Hypervisor<Fake>, before: &[FrameState]) {
    for ((frame, was), is) in all(hv).zip(before).zip(snapshot(hv)) {
        let is_tried = was.uses() == 0 && is.differs_in_past_alone(*was) && is.kind() != FrameType::Fresh;
        assert!(is == *was || is_tried, "law 9: a refusal left something behind: {frame:?} was {was:?} and is {is:?}");
    }
}
