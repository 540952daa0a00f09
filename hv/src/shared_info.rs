//! The words that a domain and the hypervisor share: `shared_info`, and each vcpu's `vcpu_info` wherever it is.

use crate::{
    addr::PAGE_BYTES,
    mem::{Ram, RamFrame},
};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Bytes of a `vcpu_info`.
pub const VCPU_INFO_BYTES: usize = 64;

/// Where a vcpu's `vcpu_info` (64 bytes) is, as atomics. Kept by whoever delivers events.
#[derive(Clone, Copy, Debug)]
pub struct VcpuInfoPlace {
    /// `evtchn_upcall_pending` and `evtchn_upcall_mask`.
    flags: &'static [AtomicU8; 2],
    words: &'static [AtomicU64; VCPU_INFO_BYTES / 8],
}

impl VcpuInfoPlace {
    /// Where in this structure stands the address of the first byte, `evtchn_upcall_pending`.
    pub const PENDING_OFFSET: usize = core::mem::offset_of!(Self, flags);

    /// Whether 64 bytes at `offset` of a frame fit there and are aligned to a word.
    #[must_use]
    pub const fn fits(offset: usize) -> bool {
        offset.is_multiple_of(8) && offset <= PAGE_BYTES - VCPU_INFO_BYTES
    }

    /// The 64 bytes at `offset` of a frame, if they fit.
    #[must_use]
    pub fn new(memory: &impl Ram, frame: RamFrame, offset: usize) -> Option<Self> {
        if !Self::fits(offset) {
            return None;
        }
        let words = memory.words(frame).get(offset / 8..)?.first_chunk()?;
        let flags = memory.bytes(frame).get(offset..)?.first_chunk()?;
        Some(Self { flags, words })
    }

    /// `evtchn_upcall_pending`.
    #[inline]
    #[must_use]
    pub const fn upcall_pending(&self) -> &'static AtomicU8 {
        let [pending, _] = self.flags;
        pending
    }

    /// Whether `evtchn_upcall_mask` is set.
    #[inline]
    #[must_use]
    pub fn upcall_mask(&self) -> bool {
        let [_, mask] = self.flags;
        mask.load(Ordering::Relaxed) != 0
    }

    /// Sets `evtchn_upcall_mask`.
    #[inline]
    pub fn set_upcall_mask(&self, masked: bool) {
        let [_, mask] = self.flags;
        mask.store(masked.into(), Ordering::Release);
    }

    /// Whether an event waits and is not masked.
    #[inline]
    #[must_use]
    pub fn wants_upcall(&self) -> bool {
        self.upcall_pending().load(Ordering::Acquire) != 0 && !self.upcall_mask()
    }

    /// `arch.cr2`, the address of the last page fault.
    #[inline]
    #[must_use]
    pub fn cr2(&self) -> u64 {
        self.word(16).load(Ordering::Relaxed)
    }

    /// Sets `arch.cr2`.
    #[inline]
    pub fn set_cr2(&self, address: u64) {
        self.word(16).store(address, Ordering::Relaxed);
    }

    /// The word at byte `offset` of the structure: 8 is `evtchn_pending_sel`, 16 `arch.cr2`, 32 to 64 the time.
    #[inline]
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "the index is masked to the structure")]
    pub const fn word(&self, offset: usize) -> &'static AtomicU64 {
        &self.words[(offset / 8) & (VCPU_INFO_BYTES / 8 - 1)]
    }
}
