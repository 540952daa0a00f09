//! A set of flags that several CPUs change.

use bitflags::Flags;
use core::{
    marker::PhantomData,
    sync::atomic::{AtomicU32, Ordering},
};

/// An atomic word of the flags `F`.
#[derive(Debug)]
#[repr(transparent)]
pub struct AtomicFlags<F>(AtomicU32, PhantomData<F>);

impl<F> AtomicFlags<F> {
    /// No flag is set.
    #[must_use]
    pub const fn empty() -> Self {
        Self(AtomicU32::new(0), PhantomData)
    }
}

impl<F: Flags<Bits = u32>> AtomicFlags<F> {
    /// These flags.
    #[must_use]
    pub fn new(flags: F) -> Self {
        Self(AtomicU32::new(flags.bits()), PhantomData)
    }

    /// The flags at this moment.
    #[inline]
    #[must_use]
    pub fn load(&self, order: Ordering) -> F {
        F::from_bits_retain(self.0.load(order))
    }

    /// Sets these flags, and no others.
    #[inline]
    pub fn store(&self, flags: F, order: Ordering) {
        self.0.store(flags.bits(), order);
    }

    /// Sets flags. Returns what there was.
    #[inline]
    pub fn insert(&self, flags: F, order: Ordering) -> F {
        F::from_bits_retain(self.0.fetch_or(flags.bits(), order))
    }

    /// Clears flags. Returns what there was.
    #[inline]
    pub fn remove(&self, flags: F, order: Ordering) -> F {
        F::from_bits_retain(self.0.fetch_and(!flags.bits(), order))
    }

    /// Clears all flags. Returns what there was.
    #[inline]
    pub fn take(&self, order: Ordering) -> F {
        F::from_bits_retain(self.0.swap(0, order))
    }
}
