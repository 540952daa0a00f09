//! The guest's virtual addresses: where the builder and where the runtime map pages.

use core::sync::atomic::{AtomicU64, Ordering};

use super::Pfn;

/// Where the builder maps page 0: the image stands here.
pub(crate) const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where the runtime maps all pages of the guest: the first L4 slot above the hypervisor's.
pub(crate) const DIRECT_MAP: u64 = 0xffff_8800_0000_0000;
/// Where the runtime maps what is not the guest's own, or is its own a second time: the L4 slot after that.
pub(crate) const WINDOWS: u64 = 0xffff_8880_0000_0000;
/// Bytes of one L4 slot.
pub(crate) const SLOT_BYTES: u64 = 1 << 39;

/// Where page 0 is seen: [`VIRT_BASE`] while the direct map is not there.
static PAGES: AtomicU64 = AtomicU64::new(VIRT_BASE);

/// Where `pfn` is mapped.
pub(crate) fn address(pfn: Pfn) -> u64 {
    PAGES.load(Ordering::Relaxed) + (pfn.raw() << 12)
}

/// The page that is mapped at `address`, where that is the image or the direct map.
/// Other addresses yield page numbers beyond the guest's.
pub(crate) const fn pfn_of(address: u64) -> Pfn {
    Pfn::new(if address >= VIRT_BASE { address - VIRT_BASE } else { address.wrapping_sub(DIRECT_MAP) } >> 12)
}

/// From now on pages are seen through the direct map.
pub(crate) fn use_direct_map() {
    PAGES.store(DIRECT_MAP, Ordering::Relaxed);
}
