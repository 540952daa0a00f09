//! Views of memory: words of any page of ours, the machine-to-physical table.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use oxen_abi::features::XENFEAT_AUTO_TRANSLATED_PHYSMAP;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::memory;
use zerocopy::FromZeros;

use crate::pages::layout::{VIRT_BASE, address};
use crate::pages::{Mfn, Pfn, m2p, p2m};
use crate::raw::hypercall::{call, call2};
use crate::raw::trap;

static M2P: m2p::Table = m2p::Table::new();

/// Whether the hypervisor translates this guest's frames: then their numbers are those of its pages.
static IS_TRANSLATED: AtomicBool = AtomicBool::new(false);

/// The number behind the last page that this guest may ever have, if they are: its builder has put `shared_info` there.
static END: AtomicU64 = AtomicU64::new(0);

/// Asks whether frames are translated; where `shared_info` is, the builder says.
pub(crate) fn find_translation(shared_info: u64) {
    END.store(shared_info >> 12, Ordering::Relaxed);
    let features = call::features(0).unwrap_or(0);
    IS_TRANSLATED.store(features & 1 << XENFEAT_AUTO_TRANSLATED_PHYSMAP != 0, Ordering::Relaxed);
}

/// Whether the hypervisor translates this guest's frames: then their numbers are those of its pages, and its page
/// tables are memory like any other.
pub fn is_translated() -> bool {
    IS_TRANSLATED.load(Ordering::Relaxed)
}

/// Asks where the machine-to-physical table is, and how many frames it covers.
pub(crate) fn find_machine_to_phys() {
    let mut mapping = memory::MachphysMapping::new_zeroed();
    // SAFETY: the call fills the structure it is given.
    let result = unsafe {
        call2::<{ Hypercall::MemoryOp as u32 }>(memory::XENMEM_MACHPHYS_MAPPING.into(), (&raw mut mapping) as u64)
    };
    M2P.install((result == 0).then_some(mapping));
}

/// How many frames the table covers.
pub(crate) fn machine_frames() -> u64 {
    M2P.frames()
}

/// What the hypervisor's table says about `mfn`: a claim about a frame of ours, anything for a frame of others.
pub(crate) fn machine_to_phys(mfn: Mfn) -> Option<Pfn> {
    if is_translated() {
        return Some(Pfn::new(mfn.raw()));
    }
    trap::probe_read(M2P.word(mfn)?).ok().map(Pfn::new)
}

/// The page behind which `frame` stands; `None` for frames that are not this guest's.
pub fn pfn(frame: Mfn) -> Option<Pfn> {
    let pfn = machine_to_phys(frame)?;
    (p2m::mfn(pfn) == Some(frame)).then_some(pfn)
}

/// The number of `shared_info`, where frames are translated: what is behind it is free.
pub(crate) fn end_of_memory() -> u64 {
    END.load(Ordering::Relaxed)
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
    let pfn = machine_to_phys(frame)?;
    let address = VIRT_BASE + (pfn.raw() << 12);
    // SAFETY: the builder maps the page behind the image, where `boot` leaves it mapped; nothing but the ring is there.
    Some(unsafe { &*(address as *const _) })
}
