//! I/O ports, named once and then safe to use.

use core::arch::asm;
use core::marker::PhantomData;

/// A width that the bus knows: 1, 2 or 4 bytes.
pub(crate) trait Width: Copy {
    /// Reads from a port.
    ///
    /// # Safety
    /// The device behind the port must not touch memory that anyone relies on.
    unsafe fn input(port: u16) -> Self;
    /// Writes to a port.
    ///
    /// # Safety
    /// As [`Width::input`].
    unsafe fn output(port: u16, value: Self);
}

macro_rules! width {
    ($type:ty, $register:tt) => {
        impl Width for $type {
            #[inline]
            unsafe fn input(port: u16) -> Self {
                let value;
                // SAFETY: the caller answers for the device; the instruction itself touches one register.
                unsafe { asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value, options(nostack, preserves_flags)) }
                value
            }
            #[inline]
            unsafe fn output(port: u16, value: Self) {
                // SAFETY: the caller answers for the device; the instruction itself changes no memory.
                unsafe { asm!(concat!("out dx, ", $register), in("dx") port, in($register) value, options(nostack, preserves_flags)) }
            }
        }
    };
}
width!(u8, "al");
width!(u16, "ax");
width!(u32, "eax");

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
        unsafe { T::input(self.number) }
    }

    /// Writes.
    #[inline]
    pub(crate) fn write(self, value: T) {
        // SAFETY: vouched for in `new`.
        unsafe { T::output(self.number, value) }
    }
}

/// Reads 1, 2 or 4 bytes from a port that a guest named.
pub(crate) fn input(port: u16, bytes: u8) -> u32 {
    // SAFETY: the library lets only the domain that drives the machine reach ports, and not those that we drive.
    unsafe {
        match bytes {
            1 => u8::input(port).into(),
            2 => u16::input(port).into(),
            _ => u32::input(port),
        }
    }
}

/// Writes 1, 2 or 4 bytes to a port that a guest named.
pub(crate) fn output(port: u16, bytes: u8, value: u32) {
    // SAFETY: as in `input`.
    unsafe {
        match bytes {
            1 => u8::output(port, value as u8),
            2 => u16::output(port, value as u16),
            _ => u32::output(port, value),
        }
    }
}
