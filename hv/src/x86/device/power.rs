//! Stopping the machine.

use super::super::port::Port;

/// QEMU's `isa-debug-exit`, where it is configured: the process ends with `value * 2 + 1`.
const DEBUG_EXIT: u16 = 0xf4;

/// Ends QEMU with a status if it listens; does nothing elsewhere.
pub(crate) fn debug_exit(value: u32) {
    // SAFETY: on a PC nothing answers at this port; in QEMU writing it ends the machine.
    unsafe { Port::<u32>::new(DEBUG_EXIT) }.write(value);
}

/// Halts this CPU for good.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: stopping with interrupts off loses nothing that is not already lost.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
