//! A guest that gives frames back and, some seconds later, looks at what fresh ones hold: pages of the hypervisor's
//! own, of domains that came and went meanwhile, must not be among them.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use oxen_abi::hypercall::Hypercall;
use oxen_abi::{memory as abi, mmu};
use oxen_domu_lib::memory::{Mfn, Page, bits, pool};
use oxen_domu_lib::{println, time};

use crate::judge::call;

const SELF: u64 = 0x7ff0;
/// Pages that the guest keeps for itself.
const KEPT: usize = 600;
/// How long others may come and go.
const WAITING: u64 = 14 * time::SECOND;
/// Extents asked for at once.
const ROUND: u64 = 128;
/// Places in the guest's memory that nothing has.
const FREE_PFNS: u64 = 0x10_0000;

/// An operation on a list of extents, which the hypervisor writes to; how many were done.
fn memory(command: u32, list: &mut [u64], order: u64) -> u64 {
    let asked = [list.as_mut_ptr() as u64, list.len() as u64, order, SELF];
    call(Hypercall::MemoryOp, [command.into(), asked.as_ptr() as u64]).max(0).unsigned_abs()
}

/// Gives frames back; how many the hypervisor took.
fn give(list: &mut [u64]) -> u64 {
    list.chunks_mut(256).map(|part| memory(abi::XENMEM_DECREASE_RESERVATION, part, 0)).sum()
}

/// Does it, and says what it found.
pub(crate) fn look() {
    let began = time::now();
    let mut frames: Vec<u64> = Vec::new();
    let Some(view) = Page::zeroed() else { return println!("probe: no page to look through") };
    for _ in 0..pool::free_pages().saturating_sub(KEPT) {
        let Some(page) = Page::zeroed() else { break };
        frames.push(page.mfn().raw());
        // The page's address is the guest's, what stood behind it is given away.
        call(Hypercall::UpdateVaMapping, [page.leak().address(), 0, mmu::UVMF_INVLPG]);
    }
    frames.sort_unstable();
    // Pairs whose neighbours stay here: they join to blocks of two frames and no more.
    let has = |frame: u64| frames.binary_search(&frame).is_ok();
    let is_first = |frame: &u64| frame.is_multiple_of(4) && (1..4).all(|i| has(frame + i));
    let mut pairs: Vec<u64> = frames.iter().copied().filter(is_first).flat_map(|first| [first + 1, first]).collect();
    let early_part = pairs.len() * 2 / 3;
    let (early, late) = pairs.split_at_mut(early_part);
    let mut given = give(early);
    memory(abi::XENMEM_POPULATE_PHYSMAP, &mut [2 * FREE_PFNS], 0);
    given += give(late);
    println!("probe: gave {given} frames back");
    while time::now() - began < WAITING {
        call(Hypercall::SchedOp, [0, 0]);
    }
    let (mut looked, mut found) = (0, 0);
    for _ in 0..given / 2 / ROUND {
        let mut list: Vec<u64> = (0..ROUND).map(|i| FREE_PFNS + 2 * i).collect();
        let got = memory(abi::XENMEM_POPULATE_PHYSMAP, &mut list, 1);
        for first in list.iter().take(got as usize) {
            for frame in [*first, first + 1] {
                let seen = call(
                    Hypercall::UpdateVaMapping,
                    [view.address(), Mfn::new(frame).entry(bits::READ_ONLY), mmu::UVMF_INVLPG],
                );
                if seen == 0 {
                    looked += 1;
                    found += u32::from(view.words64().iter().any(|word| word.load(Ordering::SeqCst) != 0));
                }
            }
        }
        if got < ROUND {
            break;
        }
    }
    call(Hypercall::UpdateVaMapping, [view.address(), view.mfn().entry(bits::READ_ONLY), mmu::UVMF_INVLPG]);
    println!("probe: looked at {looked} fresh frames, {found} were not empty");
}
