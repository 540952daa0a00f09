//! The 16550 serial port.

use super::super::port::Port;
use core::fmt::{self, Write};
use core::ops::RangeInclusive;

/// Line status: the transmitter can take bytes.
const TRANSMIT_EMPTY: u8 = 0x20;
/// Line status: the transmitter has sent all that it was given.
const TRANSMITTER_IDLE: u8 = 0x40;
/// Bytes that the transmitter takes at once.
const FIFO_DEPTH: usize = 16;
/// Looks at the line status before a byte is given up: a port that is not there must not hang us.
const PATIENCE: u32 = 100_000;
/// Line status: a byte came in.
const RECEIVED: u8 = 0x01;
/// The greatest speed in baud.
const FASTEST: u32 = 115_200;
/// The port that speaks before the command line is read.
const COM1: Uart = Uart(0x3f8);

/// A 16550 at its first port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uart(u16);

impl Uart {
    fn register(self, offset: u16) -> Port<u8> {
        // SAFETY: a UART's registers do not reach memory.
        unsafe { Port::new(self.0 + offset) }
    }

    /// Sets the line to 8 bits, no parity, one stop bit, at a speed in baud. What it was given before is sent first.
    pub(crate) fn set_up(self, baud: u32) {
        self.finish();
        let divisor = u16::try_from(FASTEST / baud.max(1)).unwrap_or(u16::MAX).max(1);
        let [low, high] = divisor.to_le_bytes();
        self.register(1).write(0); // no interrupts
        self.register(3).write(0x80); // divisor latch
        self.register(0).write(low);
        self.register(1).write(high);
        self.register(3).write(0x03); // 8n1
        self.register(2).write(0x07); // FIFOs on and empty
        self.register(4).write(0x0b); // DTR, RTS, interrupt line on
    }

    /// Its ports.
    pub(crate) const fn ports(self) -> RangeInclusive<u16> {
        self.0..=self.0.saturating_add(7)
    }

    /// Raises the interrupt line for every byte that comes in.
    pub(crate) fn interrupt_on_input(self) {
        self.register(1).write(1);
    }

    /// Takes a byte that came in.
    pub(crate) fn receive(self) -> Option<u8> {
        (self.register(5).read() & RECEIVED != 0).then(|| self.register(0).read())
    }

    /// Waits for a bit of the line status.
    fn wait_for(self, bit: u8) {
        for _ in 0..PATIENCE {
            if self.register(5).read() & bit != 0 {
                break;
            }
        }
    }

    /// Waits until all that was given is on the line, for whoever is about to reset the port or to take its power.
    pub(crate) fn finish(self) {
        self.wait_for(TRANSMITTER_IDLE);
    }

    /// Sends bytes, as fast as the line takes them.
    pub(crate) fn send(self, bytes: &[u8]) {
        for burst in bytes.chunks(FIFO_DEPTH) {
            self.wait_for(TRANSMIT_EMPTY);
            for &byte in burst {
                self.register(0).write(byte);
            }
        }
    }
}

/// Sets the first serial port up, so that the boot can speak before the command line is read.
pub(crate) fn early() {
    COM1.set_up(FASTEST);
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            self.send(line.trim_end_matches('\n').as_bytes());
            if line.ends_with('\n') {
                self.send(b"\r\n");
            }
        }
        Ok(())
    }
}

/// Where the hypervisor's own words go: the first serial port.
pub(crate) fn console() -> Uart {
    COM1
}

/// Prints a line on the serial console.
#[macro_export]
macro_rules! log {
    ($($part:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::x86::device::serial::console(), $($part)*);
    }};
}
