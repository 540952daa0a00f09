//! The shared information page: mapped over a page of the image, seen as atomic words.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use oxen_abi::shared_info::{SharedInfo, VcpuInfo};

/// The page of the image that the shared page is mapped over.
#[repr(C, align(4096))]
struct Place([AtomicU64; 512]);

impl Place {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }
}

#[cfg(target_os = "none")]
fn place() -> &'static Place {
    static PLACE: Place = Place::new();
    &PLACE
}

/// On the host, where tests run in many threads, one page for each of them.
#[cfg(not(target_os = "none"))]
fn place() -> &'static Place {
    std::thread_local!(static PLACE: &'static Place = std::boxed::Box::leak(std::boxed::Box::new(Place::new())));
    PLACE.with(|place| *place)
}

/// The address of the page of the image that the shared page is mapped over at the start of day.
pub(crate) fn address() -> u64 {
    core::ptr::from_ref(place()) as u64
}

/// The word at byte `offset` (a multiple of 8); offsets are those of [`SharedInfo`].
#[expect(clippy::indexing_slicing, reason = "callers pass offsets of the structure, which is smaller than the page")]
pub(crate) fn word(offset: usize) -> &'static AtomicU64 {
    &place().0[offset / 8]
}

/// The byte at `offset`.
fn byte(offset: usize) -> &'static AtomicU8 {
    let word = core::ptr::from_ref(word(offset));
    // SAFETY: within the word, and a byte of an atomic word is an atomic byte on this machine.
    unsafe { &*word.cast::<AtomicU8>().add(offset % 8) }
}

const MASK: usize = core::mem::offset_of!(SharedInfo, vcpu_info) + core::mem::offset_of!(VcpuInfo, evtchn_upcall_mask);
const PENDING: usize =
    core::mem::offset_of!(SharedInfo, vcpu_info) + core::mem::offset_of!(VcpuInfo, evtchn_upcall_pending);

/// Whether events interrupt this vcpu (they do not while the byte is set).
pub(crate) fn upcall_mask() -> &'static AtomicU8 {
    byte(MASK)
}

/// Whether some unmasked port of this vcpu is pending.
pub(crate) fn upcall_pending() -> &'static AtomicU8 {
    byte(PENDING)
}

/// Where the hypervisor leaves the address of a page fault.
pub(crate) fn fault_address() -> u64 {
    const CR2: usize = core::mem::offset_of!(SharedInfo, vcpu_info)
        + core::mem::offset_of!(VcpuInfo, arch)
        + core::mem::offset_of!(oxen_abi::shared_info::ArchVcpuInfo, cr2);
    word(CR2).load(Ordering::Relaxed)
}
