//! Being saved and restored: what a guest notices of it.
//!
//! The toolstack asks by `control/shutdown` ([`frontend::control`](crate::frontend::control) answers), and the guest
//! stops in the middle of a call. Behind it, it is either where it was, or in a new domain, perhaps on another machine:
//! it has been restored. Then the frontends connect anew by themselves and do again what was under way, store and
//! console go on, ports of virtual interrupts are bound again. What others had of this guest is gone: a
//! [`Port`](crate::event::Port) to another domain is closed, a [`Grant`](crate::grant::Grant) is offered to nobody
//! until it is offered again. [`time::now`](crate::time::now) goes on where it was, as if no time had passed;
//! [`time::wall`](crate::time::wall) tells what time it is now.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::{println, suspend};
//!
//! /// Says when this guest has become another domain.
//! async fn tell() {
//!     let mut count = suspend::restores();
//!     loop {
//!         suspend::restored(count).await;
//!         count = suspend::restores();
//!         println!("restored {count} times");
//!     }
//! }
//! ```

use alloc::vec::Vec;

use oxen_abi::errno::Errno;

pub use crate::lives::{restored, restores};
use crate::raw::memory::foreign;
use crate::raw::suspend;
pub(crate) use crate::raw::suspend::Outcome;
use crate::{console, event, grant, lives, start_info, time};

/// Why this guest cannot be saved now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unable {
    /// It has mapped what other domains or devices have, in so many places.
    Mappings(usize),
    /// The hypervisor said no.
    Hypervisor(Errno),
    /// The store does not answer what it was asked before, or a transaction does not end.
    Store,
}

impl core::error::Error for Unable {}

impl core::fmt::Display for Unable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Mappings(count) => write!(f, "it maps what other domains or devices have (mappings: {count})"),
            Self::Hypervisor(errno) => write!(f, "hypervisor: {errno}"),
            Self::Store => f.write_str("what the store was asked is not answered, or a transaction does not end"),
        }
    }
}

/// Suspends the domain, and does all behind it that needs nobody's answer. The store is quiet.
///
/// # Errors
/// [`Unable`]; nothing has changed then.
pub(crate) fn suspend_now() -> Result<Outcome, Unable> {
    if foreign::count() > 0 {
        return Err(Unable::Mappings(foreign::count()));
    }
    // What stands in the ring unread would be shown twice: by who has the ring now, and by who will have it.
    console::drain();
    let old = start_info::ports();
    let before = time::now();
    grant::unmap();
    let outcome = suspend::suspend().map_err(Unable::Hypervisor);
    lives::has_stopped();
    if outcome == Ok(Outcome::Restored) {
        time::go_on(before);
        event::start_anew(&old.into_iter().zip(start_info::ports()).collect::<Vec<_>>());
        console::start();
        lives::has_been_restored();
    }
    grant::map();
    outcome
}
