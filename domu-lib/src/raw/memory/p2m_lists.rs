//! Where the p2m is, for who saves or copies this domain: a page that names pages that name the pages of the p2m, all
//! by their frames (`pfn_to_mfn_frame_list_list` in `arch-x86/xen.h`).

use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use oxen_abi::shared_info::{ArchSharedInfo, SharedInfo};

use super::page::Page;
use crate::pages::{Mfn, layout, p2m};
use crate::raw::shared;

const PAGES: usize = offset_of!(SharedInfo, arch) + offset_of!(ArchSharedInfo, max_pfn);
const TOP: usize = offset_of!(SharedInfo, arch) + offset_of!(ArchSharedInfo, pfn_to_mfn_frame_list_list);

/// The page above, and those that name the p2m's.
struct Lists {
    top: Page,
    lists: Vec<Page>,
}

static LISTS: spin::Once<Lists> = spin::Once::new();

/// Makes the lists and tells where they are. A p2m that they have no room for is not told of (512 GiB of memory), nor
/// one for whose lists there is no memory: such a domain cannot be saved, and whoever tries is told so.
pub(crate) fn start() {
    let count = p2m::pages().count().div_ceil(p2m::PER_PAGE);
    let lists: Vec<Page> = (0..count.min(p2m::PER_PAGE)).map_while(|_| Page::zeroed()).collect();
    if lists.len() == count
        && let Some(top) = Page::zeroed()
    {
        LISTS.call_once(|| Lists { top, lists });
        tell();
    }
}

/// Names the frames as they are now.
pub(crate) fn tell() {
    let Some(Lists { top, lists }) = LISTS.get() else { return };
    for (place, list) in top.words64().iter().zip(lists) {
        place.store(list.mfn().raw(), Ordering::Relaxed);
    }
    let places = lists.iter().flat_map(|list| list.words64());
    for (place, address) in places.zip(p2m::pages()) {
        let frame = p2m::mfn(layout::pfn_of(address)).unwrap_or(Mfn::INVALID);
        place.store(frame.raw(), Ordering::Relaxed);
    }
    shared::word(PAGES).store(p2m::limit(), Ordering::Relaxed);
    shared::word(TOP).store(top.mfn().raw(), Ordering::Release);
}
