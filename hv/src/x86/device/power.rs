//! Stopping the machine.

use super::super::{cpu, port::Port};
use super::{patience, serial};
use crate::log;
use oxen_hv::firmware::acpi::PowerOff;

/// QEMU's `isa-debug-exit`, where it is configured: the process ends with `value * 2 + 1`.
const DEBUG_EXIT: u16 = 0xf4;

/// How long a person has to read how dom0 ended, as on Xen.
const SECONDS_TO_READ: u64 = 5;

/// How often a port is written, at a microsecond or more each, before a machine counts as one that does not switch off.
const PATIENCE: u32 = 1_000_000;

/// Ends QEMU with a status if it listens; does nothing elsewhere.
pub(crate) fn debug_exit(value: u32) {
    // SAFETY: on a PC nothing answers at this port; in QEMU writing it ends the machine.
    unsafe { Port::<u32>::new(DEBUG_EXIT) }.write(value);
}

/// Switches the machine off as ACPI says (4.8.3.2): the sleep type of S5, then the enable bit.
pub(crate) fn off(how: Option<PowerOff>) -> ! {
    patience::end();
    const SLEEP_ENABLE: u16 = 1 << 13;
    serial::console().finish();
    if let Some(PowerOff { control_a, control_b, sleep_types: [type_a, type_b] }) = how {
        for (port, sleep_type) in [(control_a, type_a), (control_b, type_b)].into_iter().filter(|&(port, _)| port != 0)
        {
            // SAFETY: the firmware's tables name the port; what runs is over.
            unsafe { Port::<u16>::new(port) }.write(u16::from(sleep_type) << 10 | SLEEP_ENABLE);
        }
    }
    // Emulators switch off a little after they were asked to, and the exit device would overtake that.
    for _ in 0..PATIENCE {
        // SAFETY: the port of the firmware's progress codes is there to be written.
        unsafe { Port::<u8>::new(0x80) }.write(0);
    }
    debug_exit(0);
    halt()
}

/// Starts the machine anew: by the keyboard controller, as every PC knows it.
pub(crate) fn reboot() -> ! {
    patience::end();
    serial::console().finish();
    // SAFETY: what runs is over.
    unsafe { Port::<u8>::new(0x64) }.write(0xfe);
    halt()
}

/// Starts the machine anew when a person could have read why; `frequency` is the TSC's, in Hz.
pub(crate) fn reboot_when_read(frequency: u64) -> ! {
    patience::end();
    log!("The machine starts again in {SECONDS_TO_READ} seconds (noreboot keeps it)");
    let end = cpu::ticks() + SECONDS_TO_READ * frequency;
    while cpu::ticks() < end {
        core::hint::spin_loop();
    }
    reboot()
}

/// Halts this CPU for good.
pub(crate) fn halt() -> ! {
    patience::end();
    loop {
        // SAFETY: stopping with interrupts off loses nothing that is not already lost.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
