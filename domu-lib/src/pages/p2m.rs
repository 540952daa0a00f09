//! The p2m: which machine frame stands behind each page of this guest.
//!
//! The builder's list covers the pages that the guest starts with; a second list, in pages taken at boot, covers those
//! that a balloon may add up to the domain's maximum.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Mfn, Pfn};

/// What the list holds for a page without a frame.
pub const INVALID: u64 = u64::MAX;

static INITIAL: spin::Once<&'static [AtomicU64]> = spin::Once::new();
static MORE: spin::Once<&'static [AtomicU64]> = spin::Once::new();

/// Installs the builder's list.
pub(crate) fn install(list: &'static [AtomicU64]) {
    INITIAL.call_once(|| list);
}

/// Installs a list for the pages beyond the builder's; none of them has a frame yet.
pub(crate) fn extend(list: &'static [AtomicU64]) {
    for entry in list {
        entry.store(INVALID, Ordering::Relaxed);
    }
    MORE.call_once(|| list);
}

fn lists() -> (&'static [AtomicU64], &'static [AtomicU64]) {
    (INITIAL.get().copied().unwrap_or(&[]), MORE.get().copied().unwrap_or(&[]))
}

fn slot(pfn: Pfn) -> Option<&'static AtomicU64> {
    let (initial, more) = lists();
    let index = usize::try_from(pfn.0).ok()?;
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
    let raw = slot(pfn)?.load(Ordering::Relaxed);
    (raw != INVALID).then_some(Mfn(raw))
}

/// Notes that `mfn` (or no frame) stands behind `pfn` from now on.
pub(crate) fn set(pfn: Pfn, mfn: Option<Mfn>) {
    if let Some(entry) = slot(pfn) {
        entry.store(mfn.map_or(INVALID, |mfn| mfn.0), Ordering::Relaxed);
    }
}
