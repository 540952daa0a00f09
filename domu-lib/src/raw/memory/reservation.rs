//! This domain's own reservation: its memory map, frames given back and taken by the balloon.

use alloc::vec::Vec;

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::memory as abi;
use oxen_abi::mmu::{MMU_NORMAL_PT_UPDATE, MMUEXT_TLB_FLUSH_LOCAL, MmuUpdate, MmuextOp};
use zerocopy::FromZeros;

use super::page::Page;
use super::tables::{self, bits};
use crate::pages::{Mfn, Pfn, layout, p2m, pool};
use crate::raw::hypercall::call2;

/// Issues a memory operation.
///
/// # Safety
/// Handles in `request` must point to memory that the call may use, and frames that it gives away must be nobody's.
unsafe fn memory_op<T>(command: u32, request: &mut T) -> Result<u64, Errno> {
    // SAFETY: the structure is ours; the rest is the caller's promise.
    Errno::check(unsafe {
        call2::<{ Hypercall::MemoryOp as u32 }>(command.into(), core::ptr::from_mut(request) as u64)
    })
}

/// The page behind the last one that this domain's memory map has RAM at; needs no heap.
///
/// # Errors
/// `ENOSYS` in dom0, which has no map of its own.
pub(crate) fn top_of_memory() -> Result<u64, Errno> {
    let mut map = [abi::E820Entry::new_zeroed(); 32];
    let mut request = abi::MemoryMap { nr_entries: map.len() as u32, _pad: 0, buffer: map.as_mut_ptr() as u64 };
    // SAFETY: the list has room for as many entries as we say.
    unsafe { memory_op(abi::XENMEM_MEMORY_MAP, &mut request) }?;
    let ram = map.iter().take(request.nr_entries as usize).filter(|entry| { entry.r#type } == abi::E820_RAM);
    Ok(ram.map(|entry| (entry.addr + entry.size) >> 12).max().unwrap_or(0))
}

fn request(frames: &mut [u64]) -> abi::MemoryReservation {
    abi::MemoryReservation {
        extent_start: frames.as_mut_ptr() as u64,
        nr_extents: frames.len() as u64,
        extent_order: 0,
        mem_flags: 0,
        domid: DomId::SELF,
        _pad: [0; 3],
    }
}

/// Gives the frames of a list away, or asks for frames behind the pages of a list and puts them in their place; says
/// how many went or came.
///
/// # Safety
/// Nobody may use the frames that go.
#[cfg(target_os = "none")]
pub(crate) unsafe fn exchange(command: u32, list: &mut [u64]) -> usize {
    let mut request = request(list);
    // SAFETY: the caller's promise.
    unsafe { memory_op(command, &mut request) }.unwrap_or(0) as usize
}

/// Gives the frames of `pages` back to the hypervisor; returns how many it took. The rest stays with the pool.
///
/// # Errors
/// `EINVAL`: a page was no page of this domain's, or could not be unmapped.
pub(crate) fn release(pages: Vec<Page>) -> Result<usize, Errno> {
    let pfns: Vec<Pfn> = pages.into_iter().map(Page::into_pfn).collect();
    let mut frames: Vec<u64> = pfns.iter().map(|&pfn| p2m::mfn(pfn).unwrap_or(Mfn::INVALID).raw()).collect();
    // SAFETY: the pages were taken from their owners: no view of them is left.
    if let Err((_, errno)) = unsafe { set_entries(&pfns, |_| 0) } {
        // What was unmapped is mapped again, where it can be; the rest never went away.
        adopt(&pfns, &frames);
        return Err(errno);
    }
    pfns.iter().for_each(|&pfn| p2m::set(pfn, None));
    let mut request = request(&mut frames);
    // SAFETY: nobody uses the frames any more.
    let result = unsafe { memory_op(abi::XENMEM_DECREASE_RESERVATION, &mut request) };
    let done = *result.as_ref().unwrap_or(&0) as usize;
    adopt(pfns.get(done..).unwrap_or_default(), frames.get(done..).unwrap_or_default());
    result.map(|_| done)
}

/// Asks for frames behind the pages `pfns`, which have none, and puts those that came into the pool; returns how many.
///
/// # Errors
/// `ENOMEM` without pages for tables; what the hypervisor refuses, such as frames beyond the domain's maximum.
pub(crate) fn populate(pfns: &[Pfn]) -> Result<usize, Errno> {
    // Tables first: a page without a place in them could not be used.
    for &pfn in pfns {
        tables::ensure(layout::address(pfn))?;
    }
    let mut frames: Vec<u64> = pfns.iter().map(|pfn| pfn.raw()).collect();
    let mut request = request(&mut frames);
    // SAFETY: the list is read and written in place; new frames are nobody's yet.
    let done = unsafe { memory_op(abi::XENMEM_POPULATE_PHYSMAP, &mut request) }? as usize;
    adopt(pfns.get(..done).unwrap_or_default(), frames.get(..done).unwrap_or_default());
    Ok(done)
}

/// Maps frames that are ours as the pages `pfns` and puts these into the pool. A page that cannot be mapped is left
/// without its frame, and the guest with a page less.
fn adopt(pfns: &[Pfn], frames: &[u64]) {
    for (&pfn, &frame) in pfns.iter().zip(frames) {
        p2m::set(pfn, Some(Mfn::new(frame)));
    }
    // SAFETY: the pages' places in the direct map are empty, or hold these very frames.
    let mapped =
        unsafe { set_entries(pfns, |index| frames.get(index).map_or(0, |&frame| Mfn::new(frame).entry(bits::DATA))) };
    let good = mapped.map_or_else(|(done, _)| done, |()| pfns.len());
    for (index, &pfn) in pfns.iter().enumerate() {
        if index < good { pool::give(pfn, 1) } else { p2m::set(pfn, None) }
    }
}

/// Writes the entries of pages in the direct map, then flushes what the processor remembers of them.
///
/// # Safety
/// Nobody may use the pages through what is changed.
unsafe fn set_entries(pfns: &[Pfn], value: impl Fn(usize) -> u64) -> Result<(), (usize, Errno)> {
    let mut updates = Vec::with_capacity(pfns.len());
    for (index, &pfn) in pfns.iter().enumerate() {
        let entry = tables::ensure(layout::address(pfn)).map_err(|errno| (0, errno))?;
        updates.push(MmuUpdate { ptr: entry | MMU_NORMAL_PT_UPDATE, val: value(index) });
    }
    // SAFETY: the caller's promise.
    unsafe { tables::mmu_update(&updates, DomId::SELF) }?;
    let flush = MmuextOp { cmd: MMUEXT_TLB_FLUSH_LOCAL, _pad: 0, arg1: 0, arg2: 0 };
    // SAFETY: a flush changes no mapping.
    unsafe { tables::mmuext_op(&[flush], DomId::SELF) }.map_err(|(_, errno)| (pfns.len(), errno))
}

/// How many pages the hypervisor counts as this domain's now.
///
/// # Errors
/// `ENOSYS` where the call is not offered.
pub(crate) fn current() -> Result<u64, Errno> {
    // SAFETY: the structure holds no handle.
    unsafe { memory_op(abi::XENMEM_CURRENT_RESERVATION, &mut abi::MemoryDomain { domid: DomId::SELF }) }
}
