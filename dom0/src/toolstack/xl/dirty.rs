//! What the hypervisor notes of a guest's writes, held against what has changed in its memory.

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use oxen_abi::domid::DomId;
use oxen_domu_lib::memory::{
    Mfn, Pfn,
    map::{Access, Mapping, Words},
};
use oxen_domu_lib::{control, println, time};

use super::{Call, Outcome, guest};
use crate::errno::Named;

/// A page of the guest's: its frame, its place in the guest's memory, and a sum of what stood in it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Page {
    frame: Mfn,
    place: Pfn,
    sum: u64,
}

/// `log-dirty`: in each round the guest runs for a second; then it is paused, its log is read and cleaned, and every
/// page that has changed must be in it.
pub(super) async fn log_dirty(call: Call) -> Outcome {
    let (system, [name, rounds]) = call.exactly("log-dirty")?;
    let guest = guest(&system, &name)?;
    let Some(rounds) = rounds.parse().ok().filter(|rounds| (1..=1000).contains(rounds)) else {
        bail!("`{rounds}` is no number of rounds, 1 to 1000");
    };
    let domain = guest.domain.get();
    control::log_dirty(domain, true).map_err(Named).context("its writes cannot be logged")?;
    let outcome = all_rounds(domain, rounds).await;
    control::log_dirty(domain, false).map_err(Named).context("the log cannot be ended")?;
    outcome
}

async fn all_rounds(domain: DomId, rounds: u32) -> Result<()> {
    let (mut pages, _) = paused(domain, || Ok((pages_of(domain, control::machine_frames())?, read(domain, 0)?)))?;
    let frames = control::machine_frames();
    let mut missing = 0;
    for round in 1..=rounds {
        time::sleep(time::SECOND).await;
        let end = pages.iter().map(|page| page.place.raw() + 1).max().unwrap_or(0);
        let (now, (log, faults)) = paused(domain, || {
            let log = read(domain, end)?;
            Ok((pages_of(domain, frames)?, log))
        })?;
        let is_noted = |page: &&Page| {
            let word = usize::try_from(page.place.raw() / 64).ok().and_then(|at| log.get(at));
            word.is_some_and(|word| word >> (page.place.raw() % 64) & 1 != 0)
        };
        let is_same = |page: &&Page| {
            let at = pages.binary_search_by_key(&page.frame, |known| known.frame);
            at.is_ok_and(|at| pages.get(at) == Some(page))
        };
        let changed: Vec<&Page> = now.iter().filter(|page| !is_same(page)).collect();
        let lost = changed.iter().filter(|page| !is_noted(page)).count();
        let noted = now.iter().filter(is_noted).count();
        println!(
            "round {round}: {} pages, {} changed, {noted} in the log, {lost} of the changed not, {faults} faults",
            now.len(),
            changed.len()
        );
        missing += lost;
        pages = now;
    }
    ensure!(missing == 0, "{missing} pages changed without being in the log");
    Ok(())
}

/// Does something while the guest stands still; so does everybody else here, for nothing is waited for.
pub(super) fn paused<R>(domain: DomId, act: impl FnOnce() -> Result<R>) -> Result<R> {
    control::pause_domain(domain).map_err(Named).context("it cannot be paused")?;
    let outcome = act();
    control::unpause_domain(domain).map_err(Named).context("it cannot go on")?;
    outcome
}

/// Reads and cleans the log of the first `end` pages; how many faults it took.
fn read(domain: DomId, end: u64) -> Result<(Vec<u64>, u32)> {
    let mut log = vec![0; usize::try_from(end.div_ceil(64))?];
    let stats = control::read_dirty(domain, true, &mut log).map_err(Named).context("the log cannot be read")?;
    Ok((log, stats.fault_count))
}

/// All pages of the guest that have a place in its memory, by frame.
fn pages_of(domain: DomId, frames: u64) -> Result<Vec<Page>> {
    let mut pages = Vec::new();
    for frame in (0..frames).map(Mfn::new) {
        let Some(place) = control::place_of(frame).filter(|place| place.raw() >> 40 == 0) else { continue };
        // What is not the guest's cannot be mapped as its page.
        let Ok(seen) = Mapping::of(domain, &[frame], Access::ReadOnly) else { continue };
        let words = seen.words64().iter().map(|word| word.load(Ordering::Relaxed));
        let sum = words.fold(0, |sum: u64, word| (sum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        pages.push(Page { frame, place, sum });
    }
    Ok(pages)
}
