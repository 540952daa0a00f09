//! Puts what is done against speculative execution into the ways in and out of ring 0: jumps over instructions that do
//! the same without it. Where nothing is to be done the ways stay as they were linked.

use super::super::running;
use core::ptr;
use core::sync::atomic::{AtomicU8, Ordering};
use oxen_hv::speculation::{Ibrs, Plan};

/// Instructions of five bytes or more, and where a jump that stands over them goes: distances, each from its own place
/// in memory.
#[repr(C)]
struct Site {
    place: i32,
    target: i32,
}

/// The bytes of a jump, the distance in its last four from what follows it.
const JUMP: u8 = 0xe9;
const JUMP_BYTES: usize = 5;

unsafe extern "C" {
    safe static defence_sites_start: Site;
    safe static defence_sites_end: Site;
    safe static inside_sites_start: Site;
    safe static inside_sites_end: Site;
    safe static buffer_sites_start: Site;
    safe static buffer_sites_end: Site;
}

/// Whether `SPEC_CTRL` changes on the ways in and out, and so may be the guest's inside.
pub(super) static IS_CONTROLLED: AtomicU8 = AtomicU8::new(0);

/// Has the ways do what the plan says.
///
/// # Safety
/// Once, on the boot CPU alone, while text is writable, before a guest runs; the CPU must have what the plan uses.
pub(crate) unsafe fn put_in(plan: &Plan) {
    if !plan.changes_ways() {
        return;
    }
    // SAFETY: the caller's word; the linker script puts the sites of a kind, and nothing else, between its two marks.
    unsafe {
        put_jumps(&raw const defence_sites_start, &raw const defence_sites_end);
        let is_controlled = plan.guests_control || plan.ibrs == Ibrs::OnEntry;
        IS_CONTROLLED.store(is_controlled.into(), Ordering::Relaxed);
        running::has_left_no_root();
        if is_controlled || plan.keeps_any_apart() {
            put_jumps(&raw const inside_sites_start, &raw const inside_sites_end);
        }
        if !plan.buffers {
            put_jumps(&raw const buffer_sites_start, &raw const buffer_sites_end);
        }
    }
}

/// Puts a jump over each of these sites.
///
/// # Safety
/// As for [`put_in`]; from `site` to `end` there are sites.
unsafe fn put_jumps(mut site: *const Site, end: *const Site) {
    while site < end {
        // SAFETY: a site is at least as long as a jump and is executed from its first instruction on; what it jumps to
        // does what it did.
        unsafe {
            let from = |distance: *const i32| distance.cast::<u8>().wrapping_offset(distance.read() as isize);
            let (place, target) = (from(&raw const (*site).place).cast_mut(), from(&raw const (*site).target));
            let distance = (target as usize).wrapping_sub(place as usize + JUMP_BYTES) as u32;
            let [a, b, c, d] = distance.to_le_bytes();
            ptr::copy_nonoverlapping([JUMP, a, b, c, d].as_ptr(), place, JUMP_BYTES);
            site = site.add(1);
        }
    }
}
