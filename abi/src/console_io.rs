//! Sub-operations of the emergency console hypercall `console_io` (`xen.h`).

abi_consts! {
    /// A command of `console_io`.
    u32:
    /// Write `count` bytes from the buffer.
    CONSOLEIO_WRITE = 0,
    /// Read at most `count` bytes into the buffer; the result is how many.
    CONSOLEIO_READ = 1,
}
