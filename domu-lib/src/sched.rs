//! The vcpu's own time: giving it up, waiting for events, ending the domain.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::sched::{self, Reason};
//! use oxen_domu_lib::time;
//!
//! // A second without anything, then the end.
//! let _ = sched::poll(&[], time::now() + time::SECOND);
//! sched::shutdown(Reason::Poweroff);
//! ```

use oxen_abi::errno::Errno;
use oxen_abi::sched;

use crate::raw::hypercall::call as hypercall;

/// Why a domain ends, as its toolstack is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is done.
    Poweroff,
    /// It wants to start again.
    Reboot,
    /// It met an error that it cannot go on from.
    Crash,
}

/// Ends the domain.
pub fn shutdown(reason: Reason) -> ! {
    let code = match reason {
        Reason::Poweroff => sched::SHUTDOWN_POWEROFF,
        Reason::Reboot => sched::SHUTDOWN_REBOOT,
        Reason::Crash => sched::SHUTDOWN_CRASH,
    };
    crate::console::drain();
    loop {
        // A domain that goes on after this has not been stopped yet.
        let _ = hypercall::sched_shutdown(code);
        yield_now();
    }
}

/// Lets other vcpus run.
pub fn yield_now() {
    // There is no way for this to fail.
    let _ = hypercall::sched_yield();
}

/// Waits until one of `ports` is pending or the time `until` (as [`time::now`](crate::time::now) counts, 0 for never)
/// has come, without unmasking events.
///
/// # Errors
/// `EINVAL` for ports that are not there.
pub fn poll(ports: &[u32], until: u64) -> Result<(), Errno> {
    hypercall::sched_poll(ports, if until == 0 { 0 } else { crate::time::as_system(until) })
}
