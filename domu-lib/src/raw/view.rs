//! Views of memory: where pages are mapped, words of any page of ours, the machine-to-physical table.

use core::sync::atomic::{AtomicU64, Ordering};

use oxen_abi::hypercall::Hypercall;
use oxen_abi::memory;
use zerocopy::FromZeros;

use super::hypercall::call2;
use crate::memory::{Mfn, Pfn};

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
static M2P_BASE: AtomicU64 = AtomicU64::new(0);
static M2P_FRAMES: AtomicU64 = AtomicU64::new(0);

/// Where `pfn` is mapped.
pub(crate) fn address(pfn: Pfn) -> u64 {
    PAGES.load(Ordering::Relaxed) + (pfn.0 << 12)
}

/// The page that is mapped at `address`, where that is the image or the direct map.
/// Other addresses name pages that nobody has.
pub(crate) const fn pfn_of(address: u64) -> Pfn {
    Pfn(if address >= VIRT_BASE { address - VIRT_BASE } else { address.wrapping_sub(DIRECT_MAP) } >> 12)
}

/// From now on pages are seen through the direct map.
pub(super) fn use_direct_map() {
    PAGES.store(DIRECT_MAP, Ordering::Relaxed);
}

/// Asks where the machine-to-physical table is, and how many frames it covers.
pub(super) fn find_machine_to_phys() {
    let mut mapping = memory::MachphysMapping::new_zeroed();
    // SAFETY: the call fills the structure it is given.
    let result = unsafe {
        call2::<{ Hypercall::MemoryOp as u32 }>(memory::XENMEM_MACHPHYS_MAPPING.into(), (&raw mut mapping) as u64)
    };
    // Where the call is not offered, the table stands where it always stood.
    let (start, frames) =
        if result == 0 { (mapping.v_start, mapping.max_mfn + 1) } else { (0xffff_8000_0000_0000, 1 << 27) };
    M2P_BASE.store(start, Ordering::Relaxed);
    M2P_FRAMES.store(frames, Ordering::Relaxed);
}

/// What the hypervisor's table says about `mfn`: a claim about a frame of ours, anything for a frame of others.
pub(crate) fn machine_to_phys(mfn: Mfn) -> Option<u64> {
    if mfn.0 >= M2P_FRAMES.load(Ordering::Relaxed) {
        return None;
    }
    // Parts of the table may be unmapped where the machine has no memory.
    super::trap::probe_read(M2P_BASE.load(Ordering::Relaxed) + mfn.0 * 8).ok()
}

/// Reads word `index` of a page of ours, whatever it is used for.
pub(crate) fn peek(pfn: Pfn, index: usize) -> u64 {
    assert!(index < 512);
    let word = (address(pfn) + index as u64 * 8) as *const AtomicU64;
    // SAFETY: every page of ours that has a frame is mapped readable; callers pass pages found in the page tables.
    unsafe { (*word).load(Ordering::Relaxed) }
}

/// A page-sized shared area as atomic words.
///
/// # Safety
/// `address` must be page aligned and mapped for as long as the reference is used, writable where it is written, and
/// no Rust value may live there.
pub(crate) unsafe fn words<'a>(address: u64, count: usize) -> &'a [AtomicU64] {
    // SAFETY: the caller's promise; atomics may be shared with anybody.
    unsafe { core::slice::from_raw_parts(address as *const AtomicU64, count) }
}

/// The module that the builder loaded, as bytes.
pub(crate) fn module(address: u64, length: usize) -> &'static [u8] {
    // SAFETY: the pages stay out of the pool and nobody writes them.
    unsafe { core::slice::from_raw_parts(address as *const u8, length) }
}

/// A page that the builder set up for a ring.
pub(crate) fn builders_page(frame: Mfn) -> Option<&'static [core::sync::atomic::AtomicU32; 1024]> {
    let pfn = Pfn(machine_to_phys(frame)?);
    let address = VIRT_BASE + (pfn.0 << 12);
    // SAFETY: the builder maps the page behind the image, where `boot` leaves it mapped; nothing but the ring is there.
    Some(unsafe { &*(address as *const _) })
}
