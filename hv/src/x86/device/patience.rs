//! How long a CPU may be in the hypervisor before the watchdog ends the machine.

use core::sync::atomic::{AtomicU64, Ordering};

/// In ticks of the TSC; 0: no CPU is watched.
static PATIENCE: AtomicU64 = AtomicU64::new(0);

/// Begins to watch.
pub(crate) fn set(ticks: u64) {
    PATIENCE.store(ticks, Ordering::Relaxed);
}

/// How many ticks a CPU has; 0: as long as it likes.
pub(crate) fn get() -> u64 {
    PATIENCE.load(Ordering::Relaxed)
}

/// Ends it: what comes may take its time, as it is the machine's end.
pub(crate) fn end() {
    set(0);
}
