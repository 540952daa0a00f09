//! The one way to a guest's memory: an address is a claim, judged on the exact range, copied once, judged on the copy.

use super::GuestMemory;
use crate::addr::{GuestAddr, GuestRange};
use core::marker::PhantomData;
use oxen_abi::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An array in the guest's memory whose whole range lies where guests may have memory.
#[derive(Debug)]
pub struct GuestPtr<T> {
    range: GuestRange,
    element: PhantomData<T>,
}

impl<T> Clone for GuestPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for GuestPtr<T> {}

impl<T: FromBytes + IntoBytes + Immutable> GuestPtr<T> {
    const STRIDE: u64 = size_of::<T>() as u64;

    /// `count` elements at the address that a guest named.
    ///
    /// # Errors
    /// `Fault` if any byte of them would be outside of the guest's part of the address space.
    #[inline]
    pub fn new(handle: u64, count: u64) -> Result<Self, Errno> {
        let bytes = count.checked_mul(Self::STRIDE).ok_or(Errno::Fault)?;
        let range = GuestAddr::new(handle).range(bytes).ok_or(Errno::Fault)?;
        Ok(Self { range, element: PhantomData })
    }

    /// One element.
    ///
    /// # Errors
    /// As [`Self::new`].
    #[inline]
    pub fn one(handle: u64) -> Result<Self, Errno> {
        Self::new(handle, 1)
    }

    /// How many elements there are.
    #[inline]
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.range.bytes() / Self::STRIDE
    }

    /// Where element `index` is, if `count` elements from there are in the range.
    #[inline]
    fn place(&self, index: u64, count: u64) -> Result<GuestRange, Errno> {
        let offset = index.checked_mul(Self::STRIDE).ok_or(Errno::Fault)?;
        self.range.part(offset, count.saturating_mul(Self::STRIDE)).ok_or(Errno::Fault)
    }

    /// Copies an element in.
    ///
    /// # Errors
    /// `Fault` if it is not mapped, or beyond the count.
    #[inline]
    pub fn read(&self, memory: &impl GuestMemory, index: u64) -> Result<T, Errno> {
        let mut copy = T::new_zeroed();
        memory.read_guest(self.place(index, 1)?, copy.as_mut_bytes()).map_err(|_| Errno::Fault)?;
        Ok(copy)
    }

    /// Copies several elements in, beginning with `index`.
    ///
    /// # Errors
    /// As [`Self::read`]; what `to` holds then is unspecified.
    #[inline]
    pub fn read_many(&self, memory: &impl GuestMemory, index: u64, to: &mut [T]) -> Result<(), Errno> {
        memory.read_guest(self.place(index, to.len() as u64)?, to.as_mut_bytes()).map_err(|_| Errno::Fault)
    }

    /// Copies an element out.
    ///
    /// # Errors
    /// `Fault` if it is not mapped writable, or beyond the count.
    #[inline]
    pub fn write(&self, memory: &impl GuestMemory, index: u64, value: &T) -> Result<(), Errno> {
        memory.write_guest(self.place(index, 1)?, value.as_bytes()).map_err(|_| Errno::Fault)
    }

    /// Copies several elements out, beginning at `index`.
    ///
    /// # Errors
    /// As [`Self::write`]; the elements before the fault have been written.
    #[inline]
    pub fn write_many(&self, memory: &impl GuestMemory, index: u64, values: &[T]) -> Result<(), Errno> {
        memory.write_guest(self.place(index, values.len() as u64)?, values.as_bytes()).map_err(|_| Errno::Fault)
    }
}

impl<const N: usize> GuestPtr<[u64; N]> {
    /// Copies a few words in, in a straight line: for requests on hot paths.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline(always)]
    pub fn read_words(&self, memory: &impl GuestMemory, index: u64) -> Result<[u64; N], Errno> {
        let offset = index.checked_mul(Self::STRIDE).ok_or(Errno::Fault)?;
        memory.read_guest_words(self.range.words(offset).ok_or(Errno::Fault)?).map_err(|_| Errno::Fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    #[test]
    fn the_exact_range_is_judged() {
        assert!(GuestPtr::<u64>::new(layout::LOWER_HALF_END - 16, 2).is_ok());
        assert!(GuestPtr::<u64>::new(layout::LOWER_HALF_END - 16, 3).is_err());
        assert!(GuestPtr::<u64>::new(layout::HYPERVISOR_END - 8, 2).is_err());
        assert!(GuestPtr::<u64>::new(0, u64::MAX / 4).is_err());
        let two = GuestPtr::<u64>::new(0x1000, 2).unwrap();
        assert!(two.place(1, 1).is_ok());
        assert_eq!(two.place(1, 2), Err(Errno::Fault));
        assert_eq!(two.place(u64::MAX, 1), Err(Errno::Fault));
    }
}
