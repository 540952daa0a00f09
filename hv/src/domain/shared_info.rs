//! The words that a domain and the hypervisor share: `shared_info`, and each vcpu's `vcpu_info` wherever it is.

use crate::{
    addr::{Mfn, PAGE_BYTES, TABLE_ENTRIES},
    mem::Memory,
};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Bytes of a `vcpu_info`.
pub const VCPU_INFO_BYTES: usize = 64;

/// Where a vcpu's `vcpu_info` (64 bytes) is, as atomics. Kept by whoever delivers events.
#[derive(Clone, Copy, Debug)]
pub struct VcpuInfoPlace {
    words: &'static [AtomicU64; TABLE_ENTRIES],
    bytes: &'static [AtomicU8; PAGE_BYTES],
    first_byte: usize,
}

#[expect(clippy::indexing_slicing, reason = "indices are masked to the page")]
impl VcpuInfoPlace {
    /// The 64 bytes at `offset` of a frame, if they fit and are aligned to a word.
    #[must_use]
    pub fn new(memory: &impl Memory, mfn: Mfn, offset: usize) -> Option<Self> {
        if !offset.is_multiple_of(8) || offset > PAGE_BYTES - VCPU_INFO_BYTES {
            return None;
        }
        Some(Self { words: memory.words(mfn), bytes: memory.bytes(mfn), first_byte: offset })
    }

    /// `evtchn_upcall_pending`.
    #[inline]
    #[must_use]
    pub fn upcall_pending(&self) -> &'static AtomicU8 {
        &self.bytes[self.first_byte & (PAGE_BYTES - 1)]
    }

    /// Whether `evtchn_upcall_mask` is set.
    #[inline]
    #[must_use]
    pub fn upcall_mask(&self) -> bool {
        self.bytes[(self.first_byte + 1) & (PAGE_BYTES - 1)].load(Ordering::Relaxed) != 0
    }

    /// Sets `evtchn_upcall_mask`.
    #[inline]
    pub fn set_upcall_mask(&self, masked: bool) {
        self.bytes[(self.first_byte + 1) & (PAGE_BYTES - 1)].store(masked.into(), Ordering::Release);
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
    pub fn word(&self, offset: usize) -> &'static AtomicU64 {
        &self.words[((self.first_byte + offset) / 8) & (TABLE_ENTRIES - 1)]
    }
}
