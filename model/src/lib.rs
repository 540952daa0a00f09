//! What stands in `core`'s place where the product's own code runs under loom (`cargo xtask test loom`): all of `std`,
//! with atomics of which every interleaving is tried, and every value that a load may see.
//!
//! A crate that says `#[cfg(loom)] extern crate oxen_model as core;` is compiled against these without another change.
//! Outside of `check` they are plain. Inside, each run begins with what they were before it; what is not atomic, the
//! model's end brings back.
//!
//! An operation that reads and writes is a barrier, as it is on the one processor that we run on (Intel SDM vol. 3A,
//! 9.2.3.9: locked instructions). Loads and stores have the order that they ask for, whatever x86 adds.
#![cfg(loom)]
#![forbid(unsafe_code)]

mod atomics;
mod local;
mod run;

pub use local::{Local, Row};
pub use run::{check, wait};
#[doc(hidden)]
pub use std::thread_local as system_local;
pub use std::*;

/// As in `core`, but for waiting: it lets other threads go on.
pub mod hint {
    pub use crate::run::wait as spin_loop;
    pub use std::hint::*;
}

/// As in `core`, but for the atomics.
pub mod sync {
    pub use std::sync::*;

    /// Atomics whose interleavings are tried.
    pub mod atomic {
        pub use crate::atomics::{
            AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, fence,
        };
        pub use std::sync::atomic::{Ordering, compiler_fence};
    }
}
