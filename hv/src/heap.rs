//! The one use of a heap: domains, vcpus and what each CPU keeps of them, refused before they are made.
//!
//! Everything else lives in fixed collections. [`share`], [`own`] and [`row`] are the only doors: they ask the machine
//! for room first, so running out of memory is `-ENOMEM` at a known line and never an abort. Before the first guest
//! runs there is one more user: what unpacks dom0's kernel, which takes as it likes and leaves nothing behind.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::alloc::Layout;
use oxen_abi::errno::Errno;

/// What the heap asks of the machine.
pub trait Reserve {
    /// Sets room aside, so that the next allocation of this size on this CPU cannot fail.
    ///
    /// # Errors
    /// `NoMem` when there is none.
    fn reserve(&self, bytes: usize) -> Result<(), Errno>;

    /// Whether frames are refused although there are some: tests try every refusal.
    #[inline]
    fn refuses_frames(&self) -> bool {
        false
    }
}

/// A counted object in frames of its own.
///
/// # Errors
/// `NoMem` when the frames are not there.
pub fn share<T>(machine: &impl Reserve, value: T) -> Result<Arc<T>, Errno> {
    machine.reserve(Layout::new::<T>().size() + 2 * size_of::<usize>() + align_of::<T>())?;
    Ok(Arc::new(value))
}

/// A singly owned object in frames of its own.
///
/// # Errors
/// `NoMem` when the frames are not there.
pub fn own<T>(machine: &impl Reserve, value: T) -> Result<Box<T>, Errno> {
    machine.reserve(Layout::new::<T>().size())?;
    Ok(Box::new(value))
}

/// A fixed row of objects in frames of its own, built in place.
///
/// # Errors
/// `NoMem` when the frames are not there.
pub fn row<T>(machine: &impl Reserve, count: usize, make: impl FnMut(usize) -> T) -> Result<Box<[T]>, Errno> {
    machine.reserve(count.checked_mul(size_of::<T>()).ok_or(Errno::NoMem)?)?;
    let mut items = Vec::with_capacity(count);
    items.extend((0..count).map(make));
    Ok(items.into_boxed_slice())
}
