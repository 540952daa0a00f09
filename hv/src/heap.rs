//! The one use of a heap: domains and vcpus, each in whole frames of its own, refused before they are made.
//!
//! Everything else lives in fixed collections. [`share`] and [`own`] are the only doors: they ask the machine for room
//! first, so running out of memory is `-ENOMEM` at a known line and never an abort.

use alloc::{boxed::Box, sync::Arc};
use core::alloc::Layout;
use oxen_abi::errno::Errno;

/// What the heap asks of the machine.
pub trait Reserve {
    /// Sets room aside, so that the next allocation of this size on this CPU cannot fail.
    ///
    /// # Errors
    /// `NoMem` when there is none.
    fn reserve(&self, bytes: usize) -> Result<(), Errno>;
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
