//! The frames that nobody has: blocks of powers of two, and single frames waiting for a flush.
//!
//! A free frame is its own list element: the state word of a block's first frame holds its order and the block
//! before it, the auxiliary word the block after it. Frames that guests gave back stand in a list of *dirty*
//! ones, stamped with the TLB clock, until every CPU has flushed; then they are *clean* and go out again, or
//! join their neighbours bit by bit.

use super::{FrameTable, Taken};
use crate::{
    addr::Mfn,
    mem::frame_type::{FrameState, Owner},
};

/// The largest block: 1 GiB.
pub const MAX_ORDER: u32 = 18;
const ORDERS: usize = MAX_ORDER as usize + 1;
const NIL: u32 = u32::MAX;
/// Dirty frames for which a flush of this CPU pays.
const WORTH_A_FLUSH: u32 = 32;
/// Dirty frames for which an interruption of others pays: a guest that gives and takes
/// frames must not slow down the rest.
const WORTH_A_REMOTE_FLUSH: u32 = 1024;
/// Clean frames that join their neighbours whenever a frame is given back, if there are more than [`KEPT_CLEAN`].
const JOINED_PER_RETURN: u32 = 2;
/// Clean frames that are kept single, for who takes back what he gave.
const KEPT_CLEAN: u32 = 1 << 12;
/// Clean frames that join their neighbours when a block is wanted and there is none, before other work is looked for.
const JOINED_AT_NEED: u32 = 1 << 10;

/// Why there is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// There are not so many frames in a row.
    Empty,
    /// Single frames are being joined, and time is up: ask again.
    Unfinished,
}

/// The lists of free frames.
#[derive(Debug)]
pub(super) struct FreeFrames {
    blocks: [u32; ORDERS],
    clean: u32,
    dirty: u32,
    dirty_tail: u32,
    dirty_since: u32,
    clean_count: u32,
    dirty_count: u32,
    count: u32,
}

impl Default for FreeFrames {
    fn default() -> Self {
        Self {
            blocks: [NIL; ORDERS],
            clean: NIL,
            dirty: NIL,
            dirty_tail: NIL,
            dirty_since: 0,
            clean_count: 0,
            dirty_count: 0,
            count: 0,
        }
    }
}

fn link(raw: u32) -> Option<Mfn> {
    if raw == NIL { None } else { Mfn::new(u64::from(raw)) }
}

impl FreeFrames {
    fn push_block(&mut self, table: &FrameTable, first: Mfn, order: u32) {
        let Some(list) = self.blocks.get_mut(order as usize) else { return };
        let number = first.raw() as u32;
        if let Some(next) = link(*list) {
            table.set_state(next, FrameState::head(order, number));
        }
        table.set_aux(first, *list);
        table.set_state(first, FrameState::head(order, NIL));
        *list = number;
    }

    fn unlink_block(&mut self, table: &FrameTable, first: Mfn, order: u32, previous: u32) {
        let next = table.aux(first);
        match link(previous) {
            Some(previous) => table.set_aux(previous, next),
            None => {
                if let Some(list) = self.blocks.get_mut(order as usize) {
                    *list = next;
                }
            }
        }
        if let Some(next) = link(next) {
            table.set_state(next, FrameState::head(order, previous));
        }
        table.set_state(first, FrameState::FREE);
    }

    /// Joins a block with its free neighbours and lists what comes out.
    fn join(&mut self, table: &FrameTable, mut first: Mfn, mut order: u32) {
        while order < MAX_ORDER {
            let Some(neighbour) = Mfn::new(first.raw() ^ (1 << order)) else { break };
            match table.state(neighbour).as_head() {
                Some((same, previous)) if same == order => self.unlink_block(table, neighbour, order, previous),
                _ => break,
            }
            first = first.min(neighbour);
            order += 1;
        }
        self.push_block(table, first, order);
    }

    fn take_block(&mut self, table: &FrameTable, order: u32) -> Option<Mfn> {
        let (mut have, first) = self
            .blocks
            .iter()
            .enumerate()
            .skip(order as usize)
            .find_map(|(n, &list)| link(list).map(|first| (n as u32, first)))?;
        self.unlink_block(table, first, have, NIL);
        while have > order {
            have -= 1;
            if let Some(upper) = first.checked_add(1 << have) {
                self.push_block(table, upper, have);
            }
        }
        Some(first)
    }

    fn join_clean(&mut self, table: &FrameTable, limit: u32) {
        for _ in 0..limit {
            let Some(frame) = link(self.clean) else { return };
            self.clean = table.aux(frame);
            self.clean_count -= 1;
            self.join(table, frame, 0);
        }
    }

    /// Every CPU has flushed since the last dirty frame came in.
    fn dirty_is_clean(&mut self, table: &FrameTable) {
        if let Some(tail) = link(self.dirty_tail) {
            table.set_aux(tail, self.clean);
        }
        self.clean = self.dirty;
        self.dirty = NIL;
        self.dirty_tail = NIL;
        self.clean_count += core::mem::take(&mut self.dirty_count);
    }

    fn take_clean(&mut self, table: &FrameTable) -> Option<Mfn> {
        let frame = link(self.clean)?;
        self.clean = table.aux(frame);
        self.clean_count -= 1;
        Some(frame)
    }
}

impl FrameTable {
    /// Gives the allocator RAM that nobody uses and no TLB knows: `count` frames from `first`.
    pub fn donate(&self, first: Mfn, count: u64) {
        let mut free = self.free.lock();
        let mut at = first.raw();
        let end = (first.raw() + count).min(self.end() as u64);
        while at < end {
            let order = at.trailing_zeros().min(MAX_ORDER).min((end - at).ilog2());
            let Some(block) = Mfn::new(at) else { return };
            for frame in (at..at + (1 << order)).filter_map(Mfn::new) {
                self.set_ram(frame, FrameState::FREE);
            }
            free.join(self, block, order);
            free.count += 1 << order;
            at += 1 << order;
        }
    }

    /// Marks RAM that the hypervisor keeps for itself: nobody can refer to it.
    pub fn keep(&self, first: Mfn, count: u64) {
        for frame in (first.raw()..first.raw() + count).filter_map(Mfn::new) {
            self.set_ram(frame, FrameState::OWN);
        }
    }

    /// Lets the control domain read frames that the hypervisor keeps.
    pub fn publish(&self, first: Mfn, count: u64) {
        for frame in (first.raw()..first.raw() + count).filter_map(Mfn::new) {
            self.set_ram(frame, FrameState::PUBLISHED);
        }
    }

    /// Frames that nobody has.
    #[must_use]
    pub fn free_frames(&self) -> u32 {
        self.free.lock().count
    }

    /// Takes `1 << order` frames for `owner`, aligned to their size. `others_know` says whether another CPU may know
    /// frames stamped with its argument, `flush` makes every CPU forget them.
    ///
    /// # Errors
    /// See [`Shortage`].
    #[inline]
    pub fn take(
        &self,
        owner: Owner,
        order: u32,
        others_know: impl FnOnce(u32) -> bool,
        flush: impl FnOnce(u32),
    ) -> Result<Taken<'_>, Shortage> {
        let mut free = self.free.lock();
        if self.claims.is_any() && self.claims.forbid(owner, 1 << order, free.count) {
            return Err(Shortage::Empty);
        }
        // Many waiting frames are worth a flush at once, few are not before the others have run out.
        let waits = order == 0 && free.clean == NIL && free.is_worth_a_flush(others_know);
        let mut found = if waits { Err(Shortage::Empty) } else { free.take_quickly(self, order) };
        if found == Err(Shortage::Empty) && free.dirty != NIL {
            flush(free.dirty_since);
            free.dirty_is_clean(self);
            found = free.take_quickly(self, order);
        }
        let first = found?;
        free.count -= 1 << order;
        drop(free);
        Ok(Taken::new(self, first, order))
    }

    /// Lists frames as free that no guest can know.
    pub(super) fn put_back(&self, first: Mfn, order: u32) {
        let mut free = self.free.lock();
        free.join(self, first, order);
        free.count += 1 << order;
    }

    /// Takes in a frame that a guest had: a TLB may know it. `state` says who that was: if the same guest takes it
    /// next, it finds what it left there.
    pub(super) fn retire(&self, frame: Mfn, state: FrameState) {
        let mut free = self.free.lock();
        if free.clean_count > KEPT_CLEAN {
            free.join_clean(self, JOINED_PER_RETURN);
        }
        self.set_state(frame, state);
        self.set_aux(frame, free.dirty);
        if free.dirty == NIL {
            free.dirty_tail = frame.raw() as u32;
        }
        free.dirty = frame.raw() as u32;
        free.dirty_since = self.tlb.now();
        free.dirty_count += 1;
        free.count += 1;
    }
}

impl FreeFrames {
    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    /// Whether so many frames wait for a flush that it should not be put off.
    fn is_worth_a_flush(&self, others_know: impl FnOnce(u32) -> bool) -> bool {
        self.dirty_count >= WORTH_A_FLUSH
            && (self.dirty_count >= WORTH_A_REMOTE_FLUSH || !others_know(self.dirty_since))
    }

    #[inline(always)]
    fn take_quickly(&mut self, table: &FrameTable, order: u32) -> Result<Mfn, Shortage> {
        if order == 0
            && let Some(frame) = self.take_clean(table)
        {
            return Ok(frame);
        }
        if let Some(block) = self.take_block(table, order) {
            return Ok(block);
        }
        self.join_clean(table, JOINED_AT_NEED);
        let is_done = self.clean == NIL;
        self.take_block(table, order).ok_or(if is_done { Shortage::Empty } else { Shortage::Unfinished })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::{cell::Cell, sync::atomic::AtomicU32, sync::atomic::AtomicU64};

    const FRAMES: usize = 1 << 13;

    fn table() -> FrameTable {
        let state = Vec::leak((0..FRAMES).map(|_| AtomicU64::new(0)).collect());
        let aux = Vec::leak((0..FRAMES).map(|_| AtomicU32::new(0)).collect());
        let table = FrameTable::new(state, aux);
        table.donate(Mfn::new(0).unwrap(), FRAMES as u64);
        table
    }

    /// Gives `count` frames to a guest, one by one, which gives them back.
    fn use_and_retire(table: &FrameTable, count: usize) {
        let owner = Owner::domain(1).unwrap();
        let take = |_| table.take(Owner::HYPERVISOR, 0, |_| false, |_| {}).unwrap().into_reservation(owner, |_, _| {});
        let frames: Vec<Mfn> = (0..count).map(take).collect();
        table.reserved_counter(owner).unwrap().fetch_add(count as u32, core::sync::atomic::Ordering::SeqCst);
        frames.into_iter().for_each(|frame| table.release_from_reservation(frame, owner).unwrap());
    }

    #[test]
    fn single_frames_are_joined_in_bounded_steps() {
        let table = table();
        use_and_retire(&table, FRAMES);
        let (flushes, mut steps) = (Cell::new(0), 0);
        let taken = loop {
            match table.take(Owner::HYPERVISOR, 9, |_| true, |_| flushes.set(flushes.get() + 1)) {
                Ok(taken) => break taken,
                Err(shortage) => assert_eq!(shortage, Shortage::Unfinished),
            }
            steps += 1;
        };
        assert_eq!(flushes.get(), 1);
        assert!(steps <= FRAMES / JOINED_AT_NEED as usize, "{steps} steps");
        drop(taken);
        assert_eq!(table.free_frames(), FRAMES as u32);
        // All of it comes together, and then there is an end.
        let all = loop {
            match table.take(Owner::HYPERVISOR, 13, |_| false, |_| {}) {
                Err(Shortage::Unfinished) => {}
                taken => break taken.unwrap(),
            }
        };
        assert_eq!(all.numbers(), 0..FRAMES as u64);
        assert_eq!(table.take(Owner::HYPERVISOR, 0, |_| false, |_| {}).unwrap_err(), Shortage::Empty);
    }

    #[test]
    fn other_cpus_are_interrupted_for_many_frames_only() {
        for (count, others_know, flushed) in [
            (WORTH_A_FLUSH - 1, false, false),
            (WORTH_A_FLUSH, false, true),
            (WORTH_A_FLUSH, true, false),
            (WORTH_A_REMOTE_FLUSH, true, true),
        ] {
            let table = table();
            use_and_retire(&table, count as usize);
            let was_flushed = Cell::new(false);
            let _taken = table.take(Owner::HYPERVISOR, 0, |_| others_know, |_| was_flushed.set(true)).unwrap();
            assert_eq!(was_flushed.get(), flushed, "{count} frames, others know: {others_know}");
        }
    }

    #[test]
    fn what_is_taken_and_dropped_is_free_as_before() {
        let table = table();
        drop(table.take(Owner::HYPERVISOR, 3, |_| false, |_| {}).unwrap());
        assert_eq!(table.free_frames(), FRAMES as u32);
        assert!(table.take(Owner::HYPERVISOR, 13, |_| false, |_| {}).is_ok());
    }
}
