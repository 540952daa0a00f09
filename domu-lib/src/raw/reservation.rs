//! This domain's own reservation: its memory map, frames given back and taken by the balloon.

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::memory as abi;
use oxen_abi::mmu::UVMF_INVLPG;
use zerocopy::FromZeros;

use super::hypercall::call2;
use super::page::Page;
use super::tables::{self, bits};
use super::view;
use crate::memory::{Mfn, Pfn, p2m, pool};

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

/// Gives the frames of `pages` back to the hypervisor; says how many it took. The rest stays with the pool.
///
/// # Errors
/// What the hypervisor refuses.
pub(crate) fn release(pages: alloc::vec::Vec<Page>) -> Result<usize, Errno> {
    let pfns: alloc::vec::Vec<Pfn> = pages.into_iter().map(Page::into_pfn).collect();
    let mut frames: alloc::vec::Vec<u64> = alloc::vec::Vec::with_capacity(pfns.len());
    for &pfn in &pfns {
        frames.push(p2m::mfn(pfn).map_or(p2m::INVALID, |frame| frame.0));
        // SAFETY: the page was taken from its owner: no view of it is left.
        unsafe { tables::update_va_mapping(view::address(pfn), 0, UVMF_INVLPG) }?;
        p2m::set(pfn, None);
    }
    let mut request = request(&mut frames);
    // SAFETY: nobody uses the frames any more.
    let result = unsafe { memory_op(abi::XENMEM_DECREASE_RESERVATION, &mut request) };
    let done = result.unwrap_or(0) as usize;
    for (&pfn, &frame) in pfns.iter().zip(&frames).skip(done) {
        adopt(pfn, Mfn(frame))?;
    }
    result.map(|_| done)
}

/// Asks for frames behind the pages `pfns`, which have none, and puts those that came into the pool; says how many.
///
/// # Errors
/// What the hypervisor refuses.
pub(crate) fn populate(pfns: &[Pfn]) -> Result<usize, Errno> {
    let mut frames: alloc::vec::Vec<u64> = pfns.iter().map(|pfn| pfn.0).collect();
    let mut request = request(&mut frames);
    // SAFETY: the list is read and written in place; new frames are nobody's yet.
    let done = unsafe { memory_op(abi::XENMEM_POPULATE_PHYSMAP, &mut request) }? as usize;
    for (&pfn, &frame) in pfns.iter().zip(&frames).take(done) {
        adopt(pfn, Mfn(frame))?;
    }
    Ok(done)
}

/// Maps a frame that came to us as page `pfn` and puts it into the pool.
fn adopt(pfn: Pfn, frame: Mfn) -> Result<(), Errno> {
    p2m::set(pfn, Some(frame));
    let entry = tables::ensure(view::address(pfn))?;
    let update = oxen_abi::mmu::MmuUpdate { ptr: entry, val: frame.address() | bits::DATA };
    // SAFETY: the page's place in the direct map is empty.
    unsafe { tables::mmu_update(&[update], DomId::SELF) }.map_err(|(_, errno)| errno)?;
    pool::give(pfn, 1);
    Ok(())
}

/// How many pages the hypervisor counts as this domain's now.
///
/// # Errors
/// What the hypervisor refuses.
pub(crate) fn current() -> Result<u64, Errno> {
    // SAFETY: the structure holds no handle.
    unsafe { memory_op(abi::XENMEM_CURRENT_RESERVATION, &mut abi::MemoryDomain { domid: DomId::SELF }) }
}
