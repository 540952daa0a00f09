//! The balloon: follows `memory/target` by giving pages to the hypervisor and taking them back.

use alloc::vec::Vec;

use crate::memory::{Page, Pfn, p2m, pool};
use crate::raw::reservation;
use crate::store::{Error, Store};
use crate::time::{self, SECOND};

/// Pages moved between two looks at the target.
const STEP: usize = 256;
/// Pages that stay free in the guest whatever the target says.
pub const RESERVE: usize = 512;
/// Pause after the hypervisor or the guest had nothing to give.
const PAUSE: u64 = SECOND / 2;

/// What to do next to come nearer to `target` pages from `current`, with `free` pages unused and places for `limit`.
fn plan(current: u64, target: u64, free: usize, limit: u64) -> i64 {
    let target = target.min(limit);
    if target > current {
        return (target - current).min(STEP as u64).cast_signed();
    }
    let give = (current - target).min(free.saturating_sub(RESERVE) as u64).min(STEP as u64);
    -give.cast_signed()
}

/// Gives pages that nobody uses to the hypervisor; says how many.
pub fn give(count: usize) -> usize {
    let pages: Vec<Page> = (0..count).map_while(|_| Page::zeroed()).collect();
    reservation::release(pages).unwrap_or(0)
}

/// Takes pages from the hypervisor; says how many came.
pub fn take(count: usize) -> usize {
    let empty: Vec<Pfn> = (0..p2m::limit()).map(Pfn).filter(|&pfn| p2m::mfn(pfn).is_none()).take(count).collect();
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
            let planned = plan(pages(), target / 4, pool::free_pages(), p2m::limit());
            let wanted = planned.unsigned_abs() as usize;
            let moved = match planned {
                0 => break,
                1.. => take(wanted),
                _ => give(wanted),
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
        assert_eq!(plan(1000, 1000, 5000, 2000), 0);
        assert_eq!(plan(1000, 1010, 5000, 2000), 10);
        assert_eq!(plan(1000, 1_000_000, 5000, 2000), 256);
        assert_eq!(plan(1990, 1_000_000, 5000, 2000), 10);
        assert_eq!(plan(1000, 900, 5000, 2000), -100);
    }

    #[test]
    fn the_guest_keeps_its_reserve() {
        assert_eq!(plan(1000, 0, RESERVE, 2000), 0);
        assert_eq!(plan(1000, 0, RESERVE + 7, 2000), -7);
        assert_eq!(plan(1000, 0, 0, 2000), 0);
    }
}
