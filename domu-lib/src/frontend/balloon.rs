//! The balloon: follows `memory/target` by giving pages to the hypervisor and taking them back.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::{frontend::balloon, println, store::Store, task};
//!
//! task::run(async {
//!     let Ok(store) = Store::connect() else { return };
//!     task::spawn(balloon::follow(store));
//!     println!("{} pages", balloon::pages());
//! });
//! ```

use alloc::vec::Vec;

use crate::memory::{Page, Pfn, p2m, pool};
use crate::raw::memory::reservation;
use crate::store::{Error, Store};
use crate::time::{self, SECOND};

/// Pages moved between two looks at the target.
const STEP: usize = 256;
/// Pages that stay free in the guest whatever the target says.
pub const RESERVE: usize = 512;
/// Pause after the hypervisor or the guest had nothing to give.
const PAUSE: u64 = SECOND / 2;

/// A step towards the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The target is reached, as far as it can be.
    Done,
    /// Take this many pages.
    Take(usize),
    /// Give this many pages; 0 while the guest has none to spare.
    Give(usize),
}

/// What to do next to come nearer to `target` pages from `current`, with `free` pages unused and places for `limit`.
fn plan(current: u64, target: u64, free: usize, limit: u64) -> Step {
    let target = target.min(limit);
    let distance = usize::try_from(target.abs_diff(current)).unwrap_or(STEP).min(STEP);
    match target.cmp(&current) {
        core::cmp::Ordering::Equal => Step::Done,
        core::cmp::Ordering::Greater => Step::Take(distance),
        core::cmp::Ordering::Less => Step::Give(distance.min(free.saturating_sub(RESERVE))),
    }
}

/// Gives free pages to the hypervisor; returns how many.
pub fn give(count: usize) -> usize {
    let pages: Vec<Page> = (0..count).map_while(|_| Page::zeroed()).collect();
    reservation::release(pages).unwrap_or(0)
}

/// Takes pages from the hypervisor; returns how many came.
pub fn take(count: usize) -> usize {
    let empty: Vec<Pfn> = (0..p2m::limit()).map(Pfn::new).filter(|&pfn| p2m::mfn(pfn).is_none()).take(count).collect();
    if empty.is_empty() { 0 } else { reservation::populate(&empty).unwrap_or(0) }
}

/// Pages that this domain has now, as the hypervisor counts them.
pub fn pages() -> u64 {
    reservation::current().unwrap_or_else(|_| crate::start_info::pages())
}

/// Follows the target for as long as the guest lives: to be spawned.
///
/// # Errors
/// The store's.
pub async fn follow(store: Store) -> Result<(), Error> {
    let watch = store.watch("memory/target").await?;
    loop {
        watch.changed().await.ok_or(Error::Protocol)?;
        // No target, or one that is no number: nothing to follow until it changes.
        while let Ok(target) = store.read_number("memory/target").await {
            let (moved, wanted) = match plan(pages(), target / 4, pool::free_pages(), p2m::limit()) {
                Step::Done => break,
                Step::Take(count) => (take(count), count),
                Step::Give(count) => (give(count), count.max(1)),
            };
            if moved < wanted {
                time::sleep(PAUSE).await;
            } else {
                crate::task::yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_moves_towards_the_target_in_steps() {
        assert_eq!(plan(1000, 1000, 5000, 2000), Step::Done);
        assert_eq!(plan(1000, 1010, 5000, 2000), Step::Take(10));
        assert_eq!(plan(1000, 1_000_000, 5000, 2000), Step::Take(STEP));
        assert_eq!(plan(1990, 1_000_000, 5000, 2000), Step::Take(10));
        assert_eq!(plan(2000, 1_000_000, 5000, 2000), Step::Done);
        assert_eq!(plan(1000, 900, 5000, 2000), Step::Give(100));
    }

    #[test]
    fn the_guest_keeps_its_reserve_and_is_not_done() {
        assert_eq!(plan(1000, 0, RESERVE, 2000), Step::Give(0));
        assert_eq!(plan(1000, 0, RESERVE + 7, 2000), Step::Give(7));
        assert_eq!(plan(1000, 0, 0, 2000), Step::Give(0));
    }
}
