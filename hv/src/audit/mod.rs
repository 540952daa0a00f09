//! The laws of memory, checked by counting everything again: what entries, pins, vcpus, events and grants hold, beside
//! what each frame's own word says of it.
//!
//! Nobody needs this at work. The tests on the host do it all the time, and a hypervisor that checks itself
//! (`cargo xtask run --checked`) does it by the debug key `A`, while the guests that it counts are paused.

mod holders;
mod tables;

use crate::{
    Hypervisor,
    addr::Mfn,
    config::MAX_DOMAINS,
    heap,
    machine::Machine,
    mem::{entry::Entry, frame_type::Owner},
};
use alloc::boxed::Box;
use core::fmt;
use oxen_abi::domid::DomId;

/// What was found to hold a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    references: u64,
    uses: u64,
    /// Of a table: its linear entries for others.
    links: i32,
    /// Of a table: others' linear entries for it.
    linked: i32,
}

/// A law that does not hold, and where it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which law of the crate's, and how it is broken.
    pub law: &'static str,
    /// The frame that it is about, where it is one.
    pub frame: Option<Mfn>,
    /// The entry that it is about, where there is one.
    pub entry: Option<Entry>,
    /// References and uses that were found.
    pub found: (u64, u64),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (references, uses) = self.found;
        f.write_str(self.law)?;
        self.frame.map_or(Ok(()), |frame| write!(f, ": {frame:?}"))?;
        self.entry.map_or(Ok(()), |entry| write!(f, ", {entry:?}"))?;
        write!(f, " ({references} references and {uses} uses are found)")
    }
}

/// Everything that holds a frame, counted again. It is right only as long as nothing changes.
#[derive(Debug)]
pub struct Recount<'a, M: Machine> {
    hv: &'a Hypervisor<M>,
    found: Box<[Found]>,
    linear: [[u32; 2]; 4],
}

impl<M: Machine> Hypervisor<M> {
    /// Nothing counted yet. `found` has room for each frame of the machine.
    #[must_use]
    pub const fn recount(&self, found: Box<[Found]>) -> Recount<'_, M> {
        Recount { hv: self, found, linear: [[0; 2]; 4] }
    }

    /// Every frame of the machine.
    pub fn each_frame(&self) -> impl Iterator<Item = Mfn> {
        (0..self.memory.frames.end() as u64).filter_map(Mfn::new)
    }
}

impl<M: Machine> Recount<'_, M> {
    /// A reference that was found, and with it a use.
    pub fn add(&mut self, frame: impl Into<Mfn>, is_use: bool) {
        if let Some(found) = self.found.get_mut(frame.into().index()) {
            found.references += 1;
            found.uses += u64::from(is_use);
        }
    }

    /// Linear entries that were found, by level: those for their own table, and those for others.
    #[must_use]
    pub const fn linear(&self) -> [[u32; 2]; 4] {
        self.linear
    }

    fn found(&self, frame: Mfn) -> Found {
        self.found.get(frame.index()).copied().unwrap_or_default()
    }

    fn broken(&self, law: &'static str, frame: Mfn) -> Broken {
        let found = self.found(frame);
        Broken { law, frame: Some(frame), entry: None, found: (found.references, found.uses) }
    }

    /// Holds what was found against what the frames' words say. Of the frames of a domain in a slot that `is_known`
    /// denies, somebody may hold more than was found: it runs.
    ///
    /// # Errors
    /// The first law that does not hold.
    pub fn judge(&self, is_known: impl Fn(usize) -> bool) -> Result<(), Broken> {
        for frame in self.hv.each_frame() {
            let (state, found) = (self.hv.memory.frames.state(frame), self.found(frame));
            let broken = |law| Err(self.broken(law, frame));
            match state.owner().slot() {
                Some(_) if state.refs() == 0 => return broken("law 3: a frame is owned but nobody holds it"),
                Some(slot) if is_known(slot) && (state.refs(), state.uses()) != (found.references, found.uses) => {
                    return broken("law 2: a frame's counts are not those of who holds it");
                }
                Some(_) if state.refs() < found.references || state.uses() < found.uses => {
                    return broken("law 2: a frame is held by more than its counts say");
                }
                Some(_) => {}
                None if (found.references, found.uses) != (0, 0) => {
                    return broken("law 3: a frame is nobody's and somebody holds it");
                }
                None => {}
            }
            if found.links != 0 && found.linked != 0 {
                return broken("law 5: a table has linear entries for others, and others have such for it");
            }
            if self.is_table(frame) && self.hv.memory.frames.links(frame) != found.links - found.linked {
                return broken("law 5: a table's linear entries are counted wrongly");
            }
        }
        self.judge_reservations()
    }

    /// Each domain's number of frames, and that of free ones.
    fn judge_reservations(&self) -> Result<(), Broken> {
        let broken = |law| Err(Broken { law, frame: None, entry: None, found: (0, 0) });
        let frames = &self.hv.memory.frames;
        let (mut owned, mut free) = ([0; MAX_DOMAINS], 0);
        for state in self.hv.each_frame().map(|frame| frames.state(frame)) {
            free += u32::from(state.owner() == Owner::NOBODY);
            let slot = state.owner().slot().filter(|_| !state.is_shared());
            slot.and_then(|slot| owned.get_mut(slot)).into_iter().for_each(|count| *count += 1);
        }
        if free != frames.free_frames() {
            return broken("law 7: a frame is neither free nor owned");
        }
        if owned.iter().enumerate().any(|(slot, &count)| count != frames.reserved(slot)) {
            return broken("law 7: a domain's frames are counted wrongly");
        }
        Ok(())
    }

    /// Whether the frame is in use as a page table.
    fn is_table(&self, frame: Mfn) -> bool {
        let state = self.hv.memory.frames.state(frame);
        state.kind().level().is_some() && state.uses() != 0
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Counts everything again and prints what came of it. The counts of a domain of which a vcpu runs are only held
    /// against what can be found of it.
    pub fn audit(&self) {
        match self.try_audit() {
            Ok(counted) => self.print(format_args!("the laws hold, {counted} domains counted whole")),
            Err(Audit::NoRoom) => self.print(format_args!("no room to count everything again")),
            Err(Audit::Broken(broken)) => self.print(format_args!("A LAW IS BROKEN: {broken}")),
            Err(Audit::Events(id, what)) => self.print(format_args!("A LAW IS BROKEN: events of domain {id}: {what}")),
        }
    }

    fn try_audit(&self) -> Result<usize, Audit> {
        let room = heap::row(self.machine(), self.memory.frames.end(), |_| Found::default());
        let mut recount = self.recount(room.map_err(|_| Audit::NoRoom)?);
        let (mut known, mut counted) = ([false; MAX_DOMAINS], 0);
        for domain in self.domains.from(DomId::DOM0).filter(|domain| !domain.is_dead()) {
            self.audit_events(&domain).map_err(|what| Audit::Events(domain.id.0, what))?;
            recount.add_domain(&domain);
            if domain.each_vcpu().all(|vcpu| vcpu.slot.try_lock().is_some_and(|state| state.is_some())) {
                domain.owner().slot().and_then(|slot| known.get_mut(slot)).into_iter().for_each(|known| *known = true);
                counted += 1;
            }
        }
        recount.add_tables().map_err(Audit::Broken)?;
        recount.judge(|slot| known.get(slot) == Some(&true)).map_err(Audit::Broken)?;
        Ok(counted)
    }
}

/// Why the laws are not known to hold.
#[derive(Debug)]
enum Audit {
    NoRoom,
    Broken(Broken),
    Events(u16, &'static str),
}
