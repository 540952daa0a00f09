//! A guest that finds the hypervisor's slots again behind a linear entry of its root, and
//! has the hypervisor read there.

use oxen_abi::hypercall::Hypercall;
use oxen_abi::memory::XENMEM_CURRENT_RESERVATION;
use oxen_domu_lib::memory::Page;
use oxen_domu_lib::println;

use crate::judge::call;
use crate::raw::{self, trapped};

const SELF: u64 = 0x7ff0;
const READ_ONLY: u64 = 1 | 1 << 2;
/// A slot of the root that this guest does not use.
const SLOT: u64 = 5;
const FAULT: i64 = -14;

const fn far(slots: [u64; 4]) -> u64 {
    slots[0] << 39 | slots[1] << 30 | slots[2] << 21 | slots[3] << 12
}

/// Asks, and tells what it was answered.
pub(super) fn look() {
    let Some(page) = Page::zeroed() else { return };
    let root = raw::cr3() >> 12 << 12;
    let update = |value: u64| {
        page.words64().iter().zip([root | (SLOT * 8), value]).for_each(|(place, word)| {
            place.store(word, core::sync::atomic::Ordering::SeqCst);
        });
        call(Hypercall::MmuUpdate, [page.address(), 1, 0, SELF])
    };
    let made = update(root | READ_ONLY);
    let entry = if made == 0 { trapped::peek(far([SLOT; 4]) + SLOT * 8) } else { 0 };
    println!("probe: linear entry {made}, reads itself: {}", entry & !0x60 == root | READ_ONLY);
    let places =
        [[SLOT, 256, 0, 0], [SLOT, 262, 0, 0], [SLOT, 261, 0, 0], [SLOT, SLOT, 262, 0], [SLOT, SLOT, SLOT, 262]];
    let ask = |address: u64| call(Hypercall::MemoryOp, [XENMEM_CURRENT_RESERVATION.into(), address]);
    let refused = places.iter().filter(|place| ask(far(**place)) == FAULT).count();
    println!("probe: linear reads refused: {refused} of {}", places.len());
    let other = page.address() + 64;
    page.words64().iter().skip(8).zip([SELF]).for_each(|(place, word)| {
        place.store(word, core::sync::atomic::Ordering::SeqCst);
    });
    println!("probe: linear beside: {}, gone {}", ask(other) > 0, update(0));
}
