//! The console: the serial line, and the ring that keeps what went there.

/// The serial line, asked of the machine.
pub trait Serial {
    /// Sends bytes, waiting for the line where it must.
    fn send(&self, bytes: &[u8]);
    /// Takes a byte that came in.
    fn receive(&self) -> Option<u8>;
}
