//! The p2m: which machine frame stands behind each page of this guest.
//!
//! The builder's list covers the pages that the guest starts with; a second list, in pages taken at boot, covers those
//! that a balloon may add up to the domain's maximum. Who saves the domain reads the p2m page by page, so the second
//! list begins where the builder's last whole page ends.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Mfn, Pfn};

type List = &'static [AtomicU64];

/// The builder's list.
static INITIAL: spin::Once<List> = spin::Once::new();
/// What is used of it, and the second list.
static BOTH: spin::Once<(List, List)> = spin::Once::new();

/// Installs the builder's list.
pub(crate) fn install(list: List) {
    INITIAL.call_once(|| list);
}

/// Entries of a page of a list.
pub(crate) const PER_PAGE: usize = super::PAGE_SIZE / size_of::<u64>();

/// How many entries of the builder's `count` stay in its list: those in whole pages.
pub(crate) const fn kept(count: u64) -> u64 {
    count - count % PER_PAGE as u64
}

/// Installs a list for the pages behind those that [`kept`] says, up to page number `limit`: it takes over the rest of
/// the builder's entries, and no other page has a frame yet. The list may be longer, to the end of its last page.
pub(crate) fn extend(list: List, limit: u64) {
    let builders = INITIAL.get().copied().unwrap_or(&[]);
    let (initial, rest) = builders.split_at(kept(builders.len() as u64) as usize);
    let rest = rest.iter().map(|entry| entry.load(Ordering::Relaxed));
    for (entry, value) in list.iter().zip(rest.chain(core::iter::repeat(Mfn::INVALID.raw()))) {
        entry.store(value, Ordering::Relaxed);
    }
    let more = list.get(..limit.saturating_sub(initial.len() as u64) as usize).unwrap_or(list);
    BOTH.call_once(|| (initial, more));
}

fn lists() -> (List, List) {
    BOTH.get().copied().unwrap_or_else(|| (INITIAL.get().copied().unwrap_or(&[]), &[]))
}

/// The addresses of the pages that hold the lists, in the order of the entries; none before both are installed.
pub(crate) fn pages() -> impl Iterator<Item = u64> {
    let (initial, more) = BOTH.get().copied().unwrap_or_default();
    let starts = |list: List| list.chunks(PER_PAGE).map(|page| page.as_ptr() as u64);
    starts(initial).chain(starts(more))
}

fn slot(pfn: Pfn) -> Option<&'static AtomicU64> {
    let (initial, more) = lists();
    let index = usize::try_from(pfn.raw()).ok()?;
    match index.checked_sub(initial.len()) {
        None => initial.get(index),
        Some(beyond) => more.get(beyond),
    }
}

/// The first page number that this guest can never have.
pub fn limit() -> u64 {
    let (initial, more) = lists();
    (initial.len() + more.len()) as u64
}

/// The frame behind a page; `None` for a page that is ballooned out or beyond the maximum.
pub fn mfn(pfn: Pfn) -> Option<Mfn> {
    let mfn = Mfn::new(slot(pfn)?.load(Ordering::Relaxed));
    (mfn != Mfn::INVALID).then_some(mfn)
}

/// Notes that `mfn` (or no frame) stands behind `pfn` from now on.
pub(crate) fn set(pfn: Pfn, mfn: Option<Mfn>) {
    if let Some(entry) = slot(pfn) {
        entry.store(mfn.unwrap_or(Mfn::INVALID).raw(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    fn list(count: usize) -> &'static [AtomicU64] {
        Box::leak((0..count as u64).map(|at| AtomicU64::new(at + 5000)).collect())
    }

    /// The one test of this: the lists are the whole process's.
    #[test]
    fn each_page_of_the_lists_holds_the_entries_of_its_own_512_pages() {
        let (builders, more) = (list(700), list(2 * PER_PAGE));
        install(builders);
        assert_eq!((mfn(Pfn::new(699)), mfn(Pfn::new(700)), pages().count()), (Some(Mfn::new(5699)), None, 0));
        extend(more, 1300);
        assert_eq!(limit(), 1300);
        let known: Vec<u64> = (0..1400).filter(|&pfn| mfn(Pfn::new(pfn)) == Some(Mfn::new(pfn + 5000))).collect();
        assert_eq!(known, (0..700).collect::<Vec<_>>());
        assert!(more.iter().skip(700 - 512).all(|entry| entry.load(Ordering::Relaxed) == Mfn::INVALID.raw()));
        let places = [builders.as_ptr(), more.as_ptr(), more[PER_PAGE..].as_ptr()].map(|place| place as u64);
        assert_eq!(pages().collect::<Vec<_>>(), places);
        set(Pfn::new(1299), Some(Mfn::new(7)));
        set(Pfn::new(1300), Some(Mfn::new(7)));
        assert_eq!((more[1299 - 512].load(Ordering::Relaxed), mfn(Pfn::new(1300))), (7, None));
    }
}
