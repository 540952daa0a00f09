//! Memory seen as atomic words.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use super::view;
use crate::pages::PAGE_SIZE;

/// What a window may be used for. Writing through one that is only to be read ends the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and writing.
    ReadWrite,
    /// Reading.
    ReadOnly,
}

/// Memory seen as atomic words: pages of our own, of others, or of a device.
///
/// # Safety
/// The pages stay mapped, writable unless said otherwise, for as long as the value lives, and hold no Rust value.
pub unsafe trait Words {
    /// The address of the first byte.
    fn address(&self) -> u64;
    /// How many pages there are.
    fn pages(&self) -> usize;

    /// As words of 64 bits.
    fn words64(&self) -> &[AtomicU64] {
        // SAFETY: implementors own the addresses and keep them mapped for as long as they live.
        unsafe { view::words(self.address(), self.pages() * PAGE_SIZE / 8) }
    }

    /// As words of 32 bits.
    fn words32(&self) -> &[AtomicU32] {
        let words = self.words64();
        // SAFETY: the same memory in halves.
        unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2) }
    }

    /// As words of 16 bits.
    fn words16(&self) -> &[AtomicU16] {
        let words = self.words64();
        // SAFETY: the same memory in quarters.
        unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 4) }
    }

    /// As bytes.
    fn bytes(&self) -> &[AtomicU8] {
        let words = self.words64();
        // SAFETY: the same memory in bytes.
        unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 8) }
    }

    /// The words of one page.
    fn page(&self, index: usize) -> &[AtomicU32; 1024] {
        assert!(index < self.pages());
        let address = self.address() + (index * PAGE_SIZE) as u64;
        // SAFETY: as for `words64`, within the range.
        unsafe { &*(address as *const _) }
    }
}
