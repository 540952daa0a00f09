//! Mappings, stores to page tables, grants and the balloon.

use core::arch::asm;

use alloc::vec::Vec;

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::grant_table as grant;
use oxen_abi::hypercall::{Hypercall, MulticallEntry};
use oxen_abi::memory::{XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP};
use oxen_abi::mmu::{self, MmuUpdate};
use zerocopy::FromZeros;

use super::{multicall, ticks, ticks_if_done};
use crate::grant::Grant;
use crate::memory::Page;
use crate::pages::ranges::Range;
use crate::pages::{Mfn, PAGE_SIZE, layout, p2m, pool};
use crate::raw::hypercall::call2;
use crate::raw::memory::grant::call as grant_call;
use crate::raw::memory::tables::{self, bits};
use crate::raw::memory::{reservation, view};

/// An address range to measure mappings in.
#[derive(Debug)]
pub struct Window {
    range: Range,
    pages: Vec<Page>,
    entries: Vec<u64>,
}

impl Window {
    /// A window of `count` pages, and pages to map there.
    ///
    /// # Errors
    /// Without memory.
    pub fn new(count: usize) -> Result<Self, Errno> {
        let range = Range::take(count)?;
        let mut pages = Vec::with_capacity(count);
        let mut entries = Vec::with_capacity(count);
        for index in 0..count {
            entries.push(tables::ensure(range.address() + (index * PAGE_SIZE) as u64)?);
            pages.push(Page::zeroed().ok_or(Errno::NoMem)?);
        }
        Ok(Self { range, pages, entries })
    }

    /// Where the window starts.
    pub(super) const fn address(&self) -> u64 {
        self.range.address()
    }

    /// Mapping and unmapping one page by `update_va_mapping`, with the flush that `flags` (`UVMF_*`) ask for.
    pub fn update_va_mapping(&self, flags: u64) -> Option<(u64, u64)> {
        let address = self.range.address();
        let entry = self.pages.first()?.mfn().entry(bits::DATA);
        let update = |value| {
            // SAFETY: the range is this window's.
            ticks_if_done(|| unsafe { tables::update_va_mapping(address, value, flags) })
        };
        Some((update(entry)?, update(0)?))
    }

    /// Mapping and unmapping one page after the other by `update_va_mapping` in a multicall.
    pub fn multicall(&self) -> Option<(u64, u64)> {
        let list = |map: bool| -> Vec<MulticallEntry> {
            let entry = |(index, page): (usize, &Page)| {
                let address = self.range.address() + (index * PAGE_SIZE) as u64;
                let value = if map { page.mfn().entry(bits::DATA) } else { 0 };
                let args = [address, value, mmu::UVMF_INVLPG, 0, 0, 0];
                MulticallEntry { op: Hypercall::UpdateVaMapping as u64, result: 0, args }
            };
            self.pages.iter().enumerate().map(entry).collect()
        };
        let update = |mut list: Vec<MulticallEntry>| {
            let ticks = ticks(|| {
                multicall(&mut list);
            });
            list.iter().all(|entry| entry.result == 0).then_some(ticks)
        };
        Some((update(list(true))?, update(list(false))?))
    }

    /// Mapping and unmapping the first `count` pages by one `mmu_update`.
    pub fn mmu_update(&self, count: usize) -> Option<(u64, u64)> {
        let list = |map: bool| -> Vec<MmuUpdate> {
            let entry = |page: &Page| if map { page.mfn().entry(bits::DATA) } else { 0 };
            self.entries
                .iter()
                .zip(&self.pages)
                .take(count)
                .map(|(&ptr, page)| MmuUpdate { ptr, val: entry(page) })
                .collect()
        };
        let update = |list: &[MmuUpdate]| {
            // SAFETY: the range is this window's.
            ticks_if_done(|| unsafe { tables::mmu_update(list, DomId::SELF) })
        };
        Some((update(&list(true))?, update(&list(false))?))
    }

    /// A store to the read-only page table that maps the window: by `mov`, and by `xchg`. Needs the assistance
    /// `writable_pagetables`.
    pub fn write_table(&self) -> Option<(u64, u64)> {
        let place = tables::walk(tables::root(), self.range.address(), 1)?;
        let table = layout::address(view::pfn(place.table)?);
        let address = table + tables::slot(self.range.address(), 1) as u64 * 8;
        let entry = self.pages.first()?.mfn().entry(bits::DATA);
        // SAFETY: writes an entry of this window; the hypervisor emulates the store.
        let stored = ticks(|| unsafe { asm!("mov [{}], {}", in(reg) address, in(reg) entry, options(nostack)) });
        let swapped =
            // SAFETY: as above.
            ticks(|| unsafe { asm!("xchg [{}], {}", in(reg) address, inout(reg) 0u64 => _, options(nostack)) });
        Some((stored, swapped))
    }

    /// Mapping and unmapping grants of our own pages.
    pub fn grant_map(&self, grants: &[Grant], us: DomId) -> Option<(u64, u64)> {
        let start = self.range.address();
        let address = |index: usize| start + (index * PAGE_SIZE) as u64;
        let mut maps: Vec<grant::GnttabMapGrantRef> = grants
            .iter()
            .enumerate()
            .map(|(index, entry)| grant::GnttabMapGrantRef {
                host_addr: address(index),
                flags: grant::GNTMAP_HOST_MAP,
                r#ref: entry.reference(),
                dom: us,
                ..grant::GnttabMapGrantRef::new_zeroed()
            })
            .collect();
        let mut result = Ok(());
        // SAFETY: the addresses are this window's.
        let mapped = ticks(|| result = unsafe { grant_call(grant::GNTTABOP_MAP_GRANT_REF, &mut maps) });
        let good = result.is_ok() && maps.iter().all(|op| op.status == grant::GNTST_OKAY);
        let mut unmaps: Vec<grant::GnttabUnmapGrantRef> = maps
            .iter()
            .filter(|op| op.status == grant::GNTST_OKAY)
            .map(|op| grant::GnttabUnmapGrantRef {
                host_addr: op.host_addr,
                handle: op.handle,
                ..grant::GnttabUnmapGrantRef::new_zeroed()
            })
            .collect();
        let unmapped =
            // SAFETY: as above.
            ticks(|| result = unsafe { grant_call(grant::GNTTABOP_UNMAP_GRANT_REF, &mut unmaps) });
        good.then_some((mapped, unmapped))
    }
}

/// Copying `length` bytes out of each grant of `from` to the page of `to` in the same place.
pub fn grant_copy(from: &[Grant], to: &[Page], us: DomId, length: u16) -> Option<u64> {
    let mut list: Vec<grant::GnttabCopy> = from
        .iter()
        .zip(to)
        .map(|(from, to)| grant::GnttabCopy {
            source: grant::GnttabCopyPtr { u: from.reference().into(), domid: us, offset: 0, _pad0: 0 },
            dest: grant::GnttabCopyPtr { u: to.mfn().raw(), domid: DomId::SELF, offset: 0, _pad0: 0 },
            len: length,
            flags: grant::GNTCOPY_SOURCE_GREF,
            status: 0,
            _pad0: 0,
        })
        .collect();
    let mut result = Ok(());
    // SAFETY: the destinations are pages of atomics.
    let ticks = ticks(|| result = unsafe { grant_call(grant::GNTTABOP_COPY, &mut list) });
    let good = result.is_ok() && list.iter().all(|op| op.status == grant::GNTST_OKAY);
    good.then_some(ticks)
}

/// Giving `count` pages back to the hypervisor and taking as many again, each with its mapping: two
/// intervals.
pub fn balloon(count: usize) -> Option<u64> {
    let pages: Vec<Page> = (0..count).map_while(|_| Page::zeroed()).collect();
    let mut frames: Vec<u64> = pages.iter().map(|page| page.mfn().raw()).collect();
    let pfns: Vec<_> = pages.into_iter().map(Page::into_pfn).collect();
    let places: Vec<u64> = pfns.iter().map(|&pfn| layout::address(pfn)).collect();
    let map = |place: u64, entry: u64| {
        // SAFETY: the pages were taken from the pool and no view of them is left.
        unsafe { tables::update_va_mapping(place, entry, mmu::UVMF_INVLPG) }
    };
    let mut good = true;
    let out = ticks(|| {
        places.iter().for_each(|&place| good &= map(place, 0).is_ok());
        // SAFETY: nobody uses the frames any more.
        good &= unsafe { reservation::exchange(XENMEM_DECREASE_RESERVATION, &mut frames) } == count;
    });
    frames = pfns.iter().map(|pfn| pfn.raw()).collect();
    let back = ticks(|| {
        // SAFETY: the frames that come are nobody's yet.
        good &= unsafe { reservation::exchange(XENMEM_POPULATE_PHYSMAP, &mut frames) } == count;
        for (&place, &frame) in places.iter().zip(&frames) {
            good &= map(place, Mfn::new(frame).entry(bits::DATA)).is_ok();
        }
    });
    if !good {
        return None;
    }
    for (&pfn, &frame) in pfns.iter().zip(&frames) {
        p2m::set(pfn, Some(Mfn::new(frame)));
        pool::give(pfn, 1);
    }
    Some(out + back)
}

/// Turns on the hypervisor's emulation of stores to page tables.
///
/// # Errors
/// Where it is not offered.
pub fn enable_writable_tables() -> Result<(), Errno> {
    use oxen_abi::vm_assist::{VMASST_CMD_ENABLE, VMASST_TYPE_WRITABLE_PAGETABLES};
    // SAFETY: changes what happens to stores that would fault.
    Errno::check(unsafe {
        call2::<{ Hypercall::VmAssist as u32 }>(VMASST_CMD_ENABLE.into(), VMASST_TYPE_WRITABLE_PAGETABLES.into())
    })
    .map(|_| ())
}
