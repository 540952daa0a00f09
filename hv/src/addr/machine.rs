//! Frames of the machine, and addresses in them.

use super::{PAGE_SHIFT, PAGE_SIZE};
use static_assertions::assert_not_impl_any;
use zerocopy::FromBytes;

/// A machine frame number. Holding one says nothing about what the frame is: the frame table does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Mfn(u32);

impl Mfn {
    /// The frame with this number, if the number is one that any machine we run on could have (16 TiB).
    #[inline]
    #[must_use]
    pub const fn new(raw: u64) -> Option<Self> {
        if raw < u32::MAX as u64 { Some(Self(raw as u32)) } else { None }
    }

    /// The frame with the lower 32 bits of a number that was judged when it was kept.
    #[inline]
    #[must_use]
    pub const fn truncated(raw: u64) -> Self {
        Self(raw as u32)
    }

    /// The frame that holds `address`.
    #[inline]
    #[must_use]
    pub const fn containing(address: MachineAddr) -> Option<Self> {
        Self::new(address.0 >> PAGE_SHIFT)
    }

    /// The number, as the ABI passes it.
    #[inline]
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0 as u64
    }

    /// The number, as an index into the frame table.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The frame's first byte.
    #[inline]
    #[must_use]
    pub const fn address(self) -> MachineAddr {
        MachineAddr((self.0 as u64) << PAGE_SHIFT)
    }

    /// The frame `count` further on.
    #[inline]
    #[must_use]
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.raw().checked_add(count) {
            Some(raw) => Self::new(raw),
            None => None,
        }
    }
}

impl core::fmt::Debug for Mfn {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "mfn {:#x}", self.0)
    }
}

/// A machine (physical) byte address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct MachineAddr(u64);

impl MachineAddr {
    /// The byte at this address.
    #[inline]
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number.
    #[inline]
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The address inside its page.
    #[inline]
    #[must_use]
    pub const fn offset(self) -> usize {
        (self.0 & (PAGE_SIZE - 1)) as usize
    }
}

impl core::fmt::Debug for MachineAddr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "machine {:#x}", self.0)
    }
}

// A number becomes a frame only where a machine could have one.
assert_not_impl_any!(Mfn: FromBytes, Default);
