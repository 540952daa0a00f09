//! The global allocator: `talc` over runs of pages from the pool, claimed as they are needed.

use core::alloc::Layout;

use talc::DefaultBinning;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;
use talc::sync::TalcLock;

use crate::pages::{layout, pool};

/// Pages claimed at a time where the allocation at hand does not need more.
const CLAIM_PAGES: usize = 64;

/// Takes runs of pages from the pool, for good.
#[derive(Debug)]
struct PagePool;

// SAFETY: `acquire` uses nothing of this allocator: the pool is a bitmap in pages of its own.
unsafe impl Source for PagePool {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // Room for the allocator's own words and for aligning the block.
        let needed =
            layout.size().checked_add(layout.align()).and_then(|bytes| bytes.checked_add(16 * 1024)).ok_or(())?;
        let needed = needed.div_ceil(4096);
        let count = needed.max(CLAIM_PAGES);
        let (pfn, count) =
            pool::take(count).map(|pfn| (pfn, count)).or_else(|| Some((pool::take(needed)?, needed))).ok_or(())?;
        let base = layout::address(pfn) as *mut u8;
        // SAFETY: the pool gave the pages to us alone; they are mapped for good, writable and contiguous.
        let heap = unsafe { talc.claim(base, count * 4096) };
        heap.map(|_| ()).ok_or(())
    }
}

#[global_allocator]
static HEAP: TalcLock<spin::Mutex<()>, PagePool, DefaultBinning> = TalcLock::new(PagePool);

/// Bytes that the heap's users hold, its own words included, and bytes that it has claimed from the page pool.
pub fn usage() -> (usize, usize) {
    let heap = HEAP.lock();
    let counters = heap.counters();
    (counters.claimed_bytes - counters.available_bytes, counters.claimed_bytes)
}
