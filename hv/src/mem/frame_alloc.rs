//! The frames that nobody has: blocks of powers of two, and single frames waiting for a flush.
//!
//! A free frame is its own list element: the state word of a block's first frame holds its order and the block before it,
//! the auxiliary word the block after it. Frames that guests gave back stand in a list of *dirty* ones, stamped with the TLB
//! clock, until every CPU has flushed; then they are *clean* and go out again, or join their neighbours bit by bit.

use super::{
    editor::Editor,
    frame_table::FrameTable,
    frame_type::{FrameState, Owner},
    tlb,
};
use crate::{Hypervisor, addr::Mfn, domain::Domain, machine::Machine};
use core::sync::atomic::{AtomicU32, Ordering};
use oxen_abi::errno::Errno;

/// The largest block: 1 GiB.
pub const MAX_ORDER: u32 = 18;
const ORDERS: usize = MAX_ORDER as usize + 1;
const NIL: u32 = u32::MAX;
/// Marks the state word of a block's first frame. A free frame's word has no counts, so their bits are used.
const HEAD: u64 = 1 << 40;
const ORDER_SHIFT: u32 = 32;
/// Dirty frames for which a flush pays.
const WORTH_A_FLUSH: u32 = 32;
/// Marks the state word of a single free frame that says who had it last.
const MARKED: u64 = 1 << 41;
/// Clean frames that join their neighbours whenever a frame is given back, if there are more than [`KEPT_CLEAN`].
const JOINED_PER_RETURN: u32 = 2;
/// Clean frames that are kept single, for who takes back what he gave.
const KEPT_CLEAN: u32 = 1 << 12;
/// Clean frames that join their neighbours when a block is wanted and there is none.
const JOINED_AT_NEED: u32 = 1 << 16;

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

fn head_word(order: u32, previous: u32) -> FrameState {
    FrameState::from_raw(FrameState::FREE.raw() | HEAD | u64::from(order) << ORDER_SHIFT | u64::from(previous))
}

/// Order and previous block, if this is the state of a block's first frame.
fn as_head(state: FrameState) -> Option<(u32, u32)> {
    let raw = state.raw();
    (raw & !(HEAD - 1) == FrameState::FREE.raw() | HEAD).then_some(((raw >> ORDER_SHIFT) as u32 & 0xff, raw as u32))
}

fn link(raw: u32) -> Option<Mfn> {
    if raw == NIL { None } else { Mfn::new(u64::from(raw)) }
}

impl FreeFrames {
    fn push_block(&mut self, table: &FrameTable, first: Mfn, order: u32) {
        let Some(list) = self.blocks.get_mut(order as usize) else { return };
        let number = first.raw() as u32;
        if let Some(next) = link(*list) {
            table.set_state(next, head_word(order, number));
        }
        table.set_aux(first, *list);
        table.set_state(first, head_word(order, NIL));
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
            table.set_state(next, head_word(order, previous));
        }
        table.set_state(first, FrameState::FREE);
    }

    /// Joins a block with its free neighbours and lists what comes out.
    fn join(&mut self, table: &FrameTable, mut first: Mfn, mut order: u32) {
        while order < MAX_ORDER {
            let Some(neighbour) = Mfn::new(first.raw() ^ (1 << order)) else { break };
            match as_head(table.state(neighbour)) {
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
                self.set_ram(frame);
            }
            free.join(self, block, order);
            free.count += 1 << order;
            at += 1 << order;
        }
    }

    /// Marks RAM that the hypervisor keeps for itself: nobody can refer to it.
    pub fn keep(&self, first: Mfn, count: u64) {
        for frame in (first.raw()..first.raw() + count).filter_map(Mfn::new) {
            self.set_ram(frame);
        }
    }

    /// Frames that nobody has.
    #[must_use]
    pub fn free_frames(&self) -> u32 {
        self.free.lock().count
    }

    /// Takes `1 << order` frames, aligned to their size, for the hypervisor itself; their contents are anything. `flush`
    /// is called if frames stamped with its argument are needed, and makes every CPU forget them.
    #[must_use]
    pub fn take(&self, order: u32, flush: impl FnOnce(u32)) -> Option<Mfn> {
        let mut free = self.free.lock();
        // Many waiting frames are worth a flush at once, few are not before the others have run out.
        let mut found = None;
        if order != 0 || free.clean != NIL || free.dirty_count < WORTH_A_FLUSH {
            found = free.take_quickly(self, order);
        }
        if found.is_none() && free.dirty != NIL {
            flush(free.dirty_since);
            free.dirty_is_clean(self);
            found = free.take_quickly(self, order);
        }
        if found.is_some() {
            free.count -= 1 << order;
        }
        found
    }

    /// Gives back what [`Self::take`] gave, when nobody can know it any more but the hypervisor.
    pub fn give_back(&self, first: Mfn, order: u32) {
        let mut free = self.free.lock();
        free.join(self, first, order);
        free.count += 1 << order;
    }

    /// Takes in a frame that a guest had: a TLB may know it. If the same guest takes it next, it finds what it left there.
    pub(super) fn retire(&self, frame: Mfn, last_owner: Owner) {
        let mark = self.mark_of(last_owner);
        let mut free = self.free.lock();
        if free.clean_count > KEPT_CLEAN {
            free.join_clean(self, JOINED_PER_RETURN);
        }
        self.set_state(frame, FrameState::from_raw(FrameState::FREE.raw() | MARKED | u64::from(mark)));
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
    fn take_quickly(&mut self, table: &FrameTable, order: u32) -> Option<Mfn> {
        if order == 0
            && let Some(frame) = self.take_clean(table)
        {
            return Some(frame);
        }
        let found = self.take_block(table, order);
        if found.is_some() || self.clean == NIL {
            return found;
        }
        self.join_clean(table, JOINED_AT_NEED);
        self.take_block(table, order)
    }
}

/// Takes frames that no TLB knows.
fn take_flushed<M: Machine>(hv: &Hypervisor<M>, order: u32) -> Result<Mfn, Errno> {
    let flush = |stamp| {
        let stale = tlb::unflushed(&hv.cpus, hv.frames.tlb.online(), stamp);
        if stale != 0 {
            tlb::flush_cpus(hv, stale);
        }
    };
    hv.frames.take(order, flush).ok_or(Errno::NoMem)
}

/// `1 << order` frames for the hypervisor itself, filled with zeros.
///
/// # Errors
/// `NoMem` when there are none.
pub fn take_own<M: Machine>(hv: &Hypervisor<M>, order: u32) -> Result<Mfn, Errno> {
    let first = take_flushed(hv, order)?;
    for frame in block(first, order) {
        hv.machine.clear(frame);
    }
    Ok(first)
}

/// A frame that the hypervisor lends to `domain`: its own, but outside of its reservation, held by the hypervisor until
/// [`give_back_shared`]. Filled with zeros.
///
/// # Errors
/// `NoMem` when there is none.
pub fn take_shared<M: Machine>(hv: &Hypervisor<M>, owner: Owner) -> Result<Mfn, Errno> {
    let frame = take_flushed(hv, 0)?;
    hv.machine.clear(frame);
    set_machine_to_phys(hv, frame, INVALID_M2P_ENTRY);
    hv.frames.count_shared(owner);
    hv.frames.set_state(frame, FrameState::shared(owner));
    Ok(frame)
}

/// Ends the hypervisor's own hold on a frame of [`take_shared`]. It is free as soon as nobody maps it any more.
pub fn give_back_shared<M: Machine>(hv: &Hypervisor<M>, frame: Mfn) {
    hv.frames.put_use(frame);
}

/// `1 << order` frames for the reservation of `domain`, without a place in its memory: filled with zeros, unless `domain`
/// itself was the last to have them.
///
/// # Errors
/// `NoMem` when there are none or the domain may not have so many.
pub fn take_for<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, order: u32) -> Result<Mfn, Errno> {
    let pages = 1_u32.checked_shl(order).ok_or(Errno::NoMem)?;
    let counter = reserve(hv, domain, pages)?;
    let first = take_flushed(hv, order).inspect_err(|_| {
        counter.fetch_sub(pages, Ordering::AcqRel);
    })?;
    let marked = FrameState::FREE.raw() | MARKED | u64::from(hv.frames.mark_of(domain.owner));
    for frame in block(first, order) {
        if hv.frames.state(frame).raw() != marked {
            hv.machine.clear(frame);
        }
        set_machine_to_phys(hv, frame, INVALID_M2P_ENTRY);
        hv.frames.set_state(frame, FrameState::allocated(domain.owner));
    }
    Ok(first)
}

/// Hands a frame of the editor's domain to another's reservation, contents included. Nobody may refer to it, and no CPU
/// knows it afterwards.
///
/// # Errors
/// `Busy` if somebody refers to it, `Inval` if it is not the domain's, `NoMem` if `to` may not have it. Nothing has changed
/// then.
pub fn hand_over<M: Machine>(editor: &Editor<'_, M>, frame: Mfn, to: &Domain) -> Result<(), Errno> {
    let (hv, from) = (editor.hv, editor.domain);
    let source = hv.frames.reserved_counter(from.owner).ok_or(Errno::Inval)?;
    let target = reserve(hv, to, 1)?;
    take_out(hv, frame, from.owner).inspect_err(|_| {
        target.fetch_sub(1, Ordering::AcqRel);
    })?;
    tlb::flush_cpus(hv, from.dirty_cpus.load(Ordering::Acquire));
    source.fetch_sub(1, Ordering::AcqRel);
    set_machine_to_phys(hv, frame, INVALID_M2P_ENTRY);
    hv.frames.set_state(frame, FrameState::allocated(to.owner));
    Ok(())
}

/// Takes a frame that nobody refers to out of a reservation, into the caller's hands.
fn take_out<M: Machine>(hv: &Hypervisor<M>, frame: Mfn, owner: Owner) -> Result<(), Errno> {
    hv.frames
        .update(frame, |state| {
            if state.owner() != owner {
                return Err(Errno::Inval);
            }
            state.moved_to(owner).map(|_| (FrameState::FREE, ()))
        })
        .map(|_| ())
}

/// Exchanges frames of a reservation, which nobody may refer to, for fresh ones in blocks of `1 << order`, as many in all,
/// with numbers below `limit`. `place` is told each new block and its index once nothing can fail any more.
///
/// # Errors
/// `Inval` or `Busy` for frames that cannot be had, `NoMem` when there are no such blocks. Nothing has changed then.
pub fn exchange<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain,
    old: &[Mfn],
    order: u32,
    limit: u64,
    mut place: impl FnMut(usize, Mfn),
) -> Result<(), Errno> {
    let blocks = old.len() >> order;
    let mut fresh: heapless::Vec<Mfn, MAX_EXCHANGE> = heapless::Vec::new();
    let undo = |taken: usize, fresh: &[Mfn]| {
        for &frame in old.iter().take(taken) {
            hv.frames.set_state(frame, FrameState::allocated(domain.owner));
        }
        for &block in fresh {
            hv.frames.give_back(block, order);
        }
    };
    for (taken, &frame) in old.iter().enumerate() {
        take_out(hv, frame, domain.owner).inspect_err(|_| undo(taken, &[]))?;
    }
    for _ in 0..blocks {
        let block = take_flushed(hv, order).inspect_err(|_| undo(old.len(), &fresh))?;
        let is_listed = fresh.push(block).is_ok();
        if !is_listed || block.raw() + (1 << order) > limit {
            undo(old.len(), &fresh);
            return Err(Errno::NoMem);
        }
    }
    for (index, &first) in fresh.iter().enumerate() {
        for frame in block(first, order) {
            hv.machine.clear(frame);
            hv.frames.set_state(frame, FrameState::allocated(domain.owner));
        }
        place(index, first);
    }
    for &frame in old {
        hv.frames.retire(frame, domain.owner);
    }
    Ok(())
}

/// Frames that [`exchange`] takes at once.
pub const MAX_EXCHANGE: usize = 512;

/// Counts frames into a domain's reservation before they are taken.
fn reserve<'a, M: Machine>(hv: &'a Hypervisor<M>, domain: &Domain, pages: u32) -> Result<&'a AtomicU32, Errno> {
    let counter = hv.frames.reserved_counter(domain.owner).ok_or(Errno::NoMem)?;
    let limit = domain.max_pages.load(Ordering::Relaxed);
    counter
        .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| n.checked_add(pages).filter(|&n| n <= limit))
        .map_err(|_| Errno::NoMem)?;
    if domain.is_dying.load(Ordering::Acquire) {
        counter.fetch_sub(pages, Ordering::AcqRel);
        return Err(Errno::NoMem);
    }
    Ok(counter)
}

/// The frames of a block.
pub fn block(first: Mfn, order: u32) -> impl Iterator<Item = Mfn> {
    (0..1_u64 << order).filter_map(move |i| first.checked_add(i))
}

/// What the machine-to-phys table says of a frame that has no place in a guest's memory (`INVALID_M2P_ENTRY`).
pub const INVALID_M2P_ENTRY: u64 = u64::MAX;

/// Writes a frame's word of the machine-to-phys table.
#[inline]
pub fn set_machine_to_phys<M: Machine>(hv: &Hypervisor<M>, frame: Mfn, pfn: u64) {
    if let Some(word) = hv.machine.machine_to_phys().get(frame.index()) {
        word.store(pfn, Ordering::Relaxed);
    }
}
