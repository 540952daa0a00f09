//! RAM, frame by frame, and the proof that a frame is RAM.

use super::frame_table::FrameTable;
use crate::addr::{Mfn, PAGE_BYTES, TABLE_ENTRIES};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use static_assertions::{assert_eq_size, assert_not_impl_any};
use zerocopy::FromBytes;

/// A frame of RAM: the proof without which none is accessed. What is RAM when the machine starts stays RAM, so the
/// proof does not age; whose the frame is, and what it is used as, is another question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct RamFrame(Mfn);

impl RamFrame {
    /// A frame on which somebody has a count, or which a validated table refers to: only RAM has counts.
    #[inline(always)]
    #[must_use]
    pub(in crate::mem) const fn counted(mfn: Mfn) -> Self {
        Self(mfn)
    }

    /// Its number.
    #[inline]
    #[must_use]
    pub const fn mfn(self) -> Mfn {
        self.0
    }
}

impl core::fmt::Debug for RamFrame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<RamFrame> for Mfn {
    fn from(frame: RamFrame) -> Self {
        frame.0
    }
}

assert_not_impl_any!(RamFrame: FromBytes, Default, From<Mfn>);
assert_eq_size!(RamFrame, Mfn);

impl FrameTable {
    /// The frame, if there is RAM behind the number.
    #[inline]
    #[must_use]
    pub fn ram_frame(&self, mfn: Mfn) -> Option<RamFrame> {
        if self.is_ram(mfn) { Some(RamFrame(mfn)) } else { None }
    }
}

/// The RAM of the machine, seen frame by frame. Guests write it at any moment, so it is only ever seen as atomics.
pub trait Ram {
    /// The frame as words.
    fn words(&self, frame: RamFrame) -> &'static [AtomicU64; TABLE_ENTRIES];
    /// The frame as words of 32 bits.
    fn halves(&self, frame: RamFrame) -> &'static [AtomicU32; 2 * TABLE_ENTRIES];
    /// The frame as bytes.
    fn bytes(&self, frame: RamFrame) -> &'static [AtomicU8; PAGE_BYTES];

    /// Fills a frame with zeros.
    fn clear(&self, frame: RamFrame) {
        for word in self.words(frame) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Copies one frame to another.
    fn copy(&self, from: RamFrame, to: RamFrame) {
        for (source, target) in self.words(from).iter().zip(self.words(to)) {
            target.store(source.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Copies bytes from one frame to another, or inside one; what would be beyond the end of either is left out.
    fn copy_bytes(&self, from: RamFrame, first: usize, to: RamFrame, target: usize, bytes: usize) {
        let source = self.bytes(from).iter().skip(first);
        for (target, source) in self.bytes(to).iter().skip(target).zip(source).take(bytes) {
            target.store(source.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}
