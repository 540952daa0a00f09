//! Sub-operations of the emergency console hypercall `console_io` (`xen.h`).

/// Write `count` bytes from the buffer.
pub const CONSOLEIO_WRITE: u32 = 0;
/// Read at most `count` bytes into the buffer; returns how many.
pub const CONSOLEIO_READ: u32 = 1;
