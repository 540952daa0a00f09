//! Frames for a purpose: a domain's reservation, a page lent to it, the hypervisor itself; and from one domain to another.

use super::{
    editor::Editor,
    frame_type::{FrameState, Owner},
    free_frames::MARKED,
    tlb,
};
use crate::{Hypervisor, addr::Mfn, domain::Domain, machine::Machine};
use core::sync::atomic::{AtomicU32, Ordering};
use oxen_abi::errno::Errno;

pub use super::free_frames::MAX_ORDER;

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
