//! The two-level ABI: three levels of bits. A port has one in `evtchn_pending` and one in `evtchn_mask` of
//! `shared_info`; of 64 ports, one in `evtchn_pending_sel` of a vcpu's `vcpu_info`; of all, `evtchn_upcall_pending`.

use crate::{
    mem::{Ram, RamFrame},
    shared_info::VcpuInfoPlace,
};
use core::sync::atomic::{AtomicU64, Ordering};

/// The first word of `evtchn_pending` in `shared_info`.
const PENDING: usize = 2048 / 8;
/// The first word of `evtchn_mask`.
const MASK: usize = 2560 / 8;
/// The offset of `evtchn_pending_sel` in `vcpu_info`.
const SELECTOR: usize = 8;

/// The words of the pending and of the mask bits that hold a port's, and its bit there.
#[inline]
fn place(memory: &impl Ram, shared_info: RamFrame, port: u32) -> Option<(&'static AtomicU64, &'static AtomicU64, u64)> {
    let words = memory.words(shared_info);
    let group = port as usize / 64 % 64;
    Some((words.get(PENDING + group)?, words.get(MASK + group)?, 1 << (port % 64)))
}

/// Sets a port's pending bit. Returns whether the port is masked; nothing, if the bit was set already.
#[inline]
pub(crate) fn mark(memory: &impl Ram, shared_info: RamFrame, port: u32) -> Option<bool> {
    let (pending, mask, bit) = place(memory, shared_info, port)?;
    if test_and_set(pending, port) {
        return None;
    }
    Some(mask.load(Ordering::Acquire) & bit != 0)
}

/// Unmasks a port. Returns whether it was masked and is pending, so that its vcpu is to be notified.
pub(crate) fn unmask(memory: &impl Ram, shared_info: RamFrame, port: u32) -> bool {
    let Some((pending, mask, bit)) = place(memory, shared_info, port) else { return false };
    let was_masked = mask.fetch_and(!bit, Ordering::AcqRel) & bit != 0;
    was_masked && pending.load(Ordering::Acquire) & bit != 0
}

/// Whether a port is pending, and whether it is masked.
pub(crate) fn bits(memory: &impl Ram, shared_info: RamFrame, port: u32) -> (bool, bool) {
    let is_set = |word: &AtomicU64, bit: u64| word.load(Ordering::SeqCst) & bit != 0;
    place(memory, shared_info, port)
        .map_or((false, false), |(pending, mask, bit)| (is_set(pending, bit), is_set(mask, bit)))
}

/// Forgets an event.
pub(crate) fn clear_pending(memory: &impl Ram, shared_info: RamFrame, port: u32) {
    if let Some((pending, _, bit)) = place(memory, shared_info, port) {
        pending.fetch_and(!bit, Ordering::AcqRel);
    }
}

/// Marks the 64 ports of `port` in `vcpu_info`. Returns whether that was the first news since the vcpu last looked.
#[inline]
pub(crate) fn select(info: &VcpuInfoPlace, port: u32) -> bool {
    !test_and_set(info.word(SELECTOR), port / 64) && info.upcall_pending().swap(1, Ordering::AcqRel) == 0
}

/// A `vcpu_info` begins its life at a new place: everything is marked as pending, so that no event is lost on the way.
pub(crate) fn set_everything_pending(info: &VcpuInfoPlace) {
    info.word(SELECTOR).store(u64::MAX, Ordering::Release);
    info.upcall_pending().store(1, Ordering::Release);
}

#[inline]
fn test_and_set(word: &AtomicU64, bit: u32) -> bool {
    let bit = 1 << (bit % 64);
    word.fetch_or(bit, Ordering::AcqRel) & bit != 0
}
