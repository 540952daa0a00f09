//! The laws of memory, checked from outside: everything that holds a frame is counted again, and what CPUs remember is
//! held against it.

use super::{CPUS, Fake};
use oxen_abi::domid::DomId;
use oxen_hv::{
    Hypervisor,
    addr::Mfn,
    audit::{Found, Recount},
    mem::frame_type::{FrameState, FrameType, Owner},
};

/// What a test knows to hold frames: each, and whether with a use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holds(Vec<(Mfn, bool)>);

impl Holds {
    /// A reference, and with it a use.
    pub(crate) fn add(&mut self, frame: impl Into<Mfn>, is_use: bool) {
        self.0.push((frame.into(), is_use));
    }

    /// A reference or use less.
    pub(crate) fn remove(&mut self, frame: Mfn, is_use: bool) {
        let at = self.0.iter().position(|&hold| hold == (frame, is_use));
        self.0.swap_remove(at.expect("a hold that was never added"));
    }
}

/// Nothing counted yet. The room for it is not the machine's, which may have none.
pub(crate) fn recount(hv: &Hypervisor<Fake>) -> Recount<'_, Fake> {
    hv.recount(vec![Found::default(); hv.memory.frames.end()].into())
}

/// Counts everything again: `known` is what the test knows to be held by no table, no pin and no queue of events,
/// `was_lent` whether a domain may know a frame of another. Returns how many entries are linear, as
/// [`Recount::linear`].
///
/// # Panics
/// With the name of the law that is broken.
pub(crate) fn check(hv: &Hypervisor<Fake>, known: &Holds, was_lent: impl Fn(Owner, Mfn) -> bool) -> [[u32; 2]; 4] {
    let mut recount = recount(hv);
    for domain in hv.domains.from(DomId::DOM0) {
        recount.add_events(&domain);
        recount.add_translations(&domain);
    }
    known.0.iter().for_each(|&(frame, is_use)| recount.add(frame, is_use));
    judge(hv, recount, was_lent)
}

/// Counts what is in memory beside what a test has counted of domains and CPUs, and judges all of it.
///
/// # Panics
/// With the name of the law that is broken.
pub(crate) fn judge(
    hv: &Hypervisor<Fake>,
    mut recount: Recount<'_, Fake>,
    was_lent: impl Fn(Owner, Mfn) -> bool,
) -> [[u32; 2]; 4] {
    let judged = recount.add_tables().and_then(|()| recount.judge(|_| true));
    if let Err(broken) = judged {
        let state = broken.frame.map(|frame| hv.memory.frames.state(frame));
        panic!("{broken}, {state:?}");
    }
    check_caches(hv, was_lent);
    recount.linear()
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
    let frames = hv.each_frame().map(|frame| hv.memory.frames.state(frame));
    frames.map(|state| if state.owner() == Owner::NOBODY { FrameState::FREE } else { state }).collect()
}

/// What a refused operation must not have changed: anything. Only the past of an idle frame may say more than before,
/// that it was tried as something else.
///
/// # Panics
/// If it did.
pub(crate) fn assert_unchanged(hv: &Hypervisor<Fake>, before: &[FrameState]) {
    for ((frame, was), is) in hv.each_frame().zip(before).zip(snapshot(hv)) {
        let is_tried = was.uses() == 0 && is.differs_in_past_alone(*was) && is.kind() != FrameType::Fresh;
        assert!(is == *was || is_tried, "law 9: a refusal left something behind: {frame:?} was {was:?} and is {is:?}");
    }
}
