//! I/O ports, named once and then safe to use.

use core::marker::PhantomData;
use x86_64::structures::port::{PortRead, PortWrite};

/// A width that the bus knows: 1, 2 or 4 bytes.
pub(crate) trait Width: Copy + PortRead + PortWrite {}
impl<T: Copy + PortRead + PortWrite> Width for T {}

/// A port whose device was vouched for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port<T> {
    number: u16,
    width: PhantomData<T>,
}

impl<T: Width> Port<T> {
    /// The port with this number.
    ///
    /// # Safety
    /// Nothing that is written there may make the device touch memory that anyone relies on.
    pub(crate) const unsafe fn new(number: u16) -> Self {
        Self { number, width: PhantomData }
    }

    /// Reads.
    #[inline]
    pub(crate) fn read(self) -> T {
        // SAFETY: vouched for in `new`.
        unsafe { T::read_from_port(self.number) }
    }

    /// Writes.
    #[inline]
    pub(crate) fn write(self, value: T) {
        // SAFETY: vouched for in `new`.
        unsafe { T::write_to_port(self.number, value) }
    }
}

/// Reads 1, 2 or 4 bytes from a port that a guest named.
pub(crate) fn input(port: u16, bytes: u8) -> u32 {
    // SAFETY: the library lets only the domain that drives the machine reach ports, and not those that we drive.
    unsafe {
        match bytes {
            1 => u8::read_from_port(port).into(),
            2 => u16::read_from_port(port).into(),
            _ => u32::read_from_port(port),
        }
    }
}

/// Writes 1, 2 or 4 bytes to a port that a guest named.
pub(crate) fn output(port: u16, bytes: u8, value: u32) {
    // SAFETY: as in `input`.
    unsafe {
        match bytes {
            1 => u8::write_to_port(port, value as u8),
            2 => u16::write_to_port(port, value as u16),
            _ => u32::write_to_port(port, value),
        }
    }
}
