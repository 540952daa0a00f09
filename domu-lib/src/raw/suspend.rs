//! The domain's own side of being saved: what no saved domain may have is taken away, and back behind the call.
//!
//! Who saves the domain replaces frames by pages wherever they stand in page tables and the p2m, and who restores it
//! puts others in their place. Mappings of what is not the domain's cannot be translated so: the shared page is taken
//! away here, the grant table by its owner. Two more frames are told by their pages meanwhile, those of the rings in
//! the start-of-day page (`xen.h`; `SHUTDOWN_suspend` in `sched.h`).

use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use oxen_abi::errno::Errno;
use oxen_abi::mmu::UVMF_INVLPG;
use oxen_abi::start_info::StartInfo;
use zerocopy::{FromZeros, IntoBytes};

use crate::pages::{Mfn, Pfn, layout, p2m};
use crate::raw::hypercall::call;
use crate::raw::memory::tables::{self, bits};
use crate::raw::memory::{p2m_lists, view};
use crate::raw::shared;
use crate::start_info;

/// How a domain goes on behind its suspension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// In the same domain, as if nothing had been.
    CalledOff,
    /// In a new domain: frames, ports and grants are others.
    Restored,
}

/// The start-of-day page.
static START: spin::Once<Pfn> = spin::Once::new();

const WORDS: usize = size_of::<StartInfo>() / 8;
const RINGS: [usize; 2] = [offset_of!(StartInfo, store_mfn) / 8, offset_of!(StartInfo, console_mfn) / 8];

/// Keeps where the start-of-day page is.
pub(crate) fn keep(info: &StartInfo) {
    START.call_once(|| layout::pfn_of(core::ptr::from_ref(info) as u64));
}

fn set_shared_entry(entry: u64) {
    // SAFETY: the page of the image under it holds nothing, and is reached by this name alone.
    let result = unsafe { tables::update_va_mapping(shared::address(), entry, UVMF_INVLPG) };
    assert!(result.is_ok(), "shared info: {result:?}");
}

/// Maps the shared information page, which is at machine address `machine`.
pub(crate) fn map_shared_info(machine: u64) {
    set_shared_entry(machine | bits::DATA.bits());
}

/// The start-of-day page's words, which toolstacks write while the domain is stopped.
fn start_words(page: Pfn) -> &'static [AtomicU64] {
    // SAFETY: the page is mapped writable for good, and no value lives there: `start_info` keeps a copy.
    unsafe { view::words(layout::address(page), WORDS) }
}

fn read(page: Pfn) -> StartInfo {
    let mut info = StartInfo::new_zeroed();
    for (to, from) in info.as_mut_bytes().chunks_exact_mut(8).zip(start_words(page)) {
        to.copy_from_slice(&from.load(Ordering::Relaxed).to_le_bytes());
    }
    info
}

/// Suspends the domain. The grant table is mapped nowhere, nor is anything of others.
///
/// # Errors
/// `EINVAL` where a ring is in no page of ours; what the hypervisor refuses. Nothing has changed then.
pub(crate) fn suspend() -> Result<Outcome, Errno> {
    let page = *START.get().ok_or(Errno::Inval)?;
    let frame = p2m::mfn(page).ok_or(Errno::Inval)?;
    let words = start_words(page);
    let rings = || RINGS.iter().filter_map(|&index| words.get(index));
    let kept: [u64; 2] = RINGS.map(|index| words.get(index).map_or(0, |word| word.load(Ordering::Relaxed)));
    let [store, console] = kept.map(|ring| view::pfn(Mfn::new(ring)));
    for (ring, page) in rings().zip([store.ok_or(Errno::Inval)?, console.ok_or(Errno::Inval)?]) {
        ring.store(page.raw(), Ordering::Relaxed);
    }
    set_shared_entry(0);
    let answer = call::sched_suspend(frame.raw());
    // Until here nothing of the shared page may be used; with another machine its address is another one.
    if answer != Ok(0) {
        rings().zip(kept).for_each(|(ring, frame)| ring.store(frame, Ordering::Relaxed));
    }
    let info = read(page);
    map_shared_info(info.shared_info);
    if answer? != 0 {
        return Ok(Outcome::CalledOff);
    }
    start_info::install(&info);
    view::find_machine_to_phys();
    p2m_lists::tell();
    Ok(Outcome::Restored)
}
