//! What takes the hypervisor's trace down, as others know it.

use alloc::rc::Rc;
use core::cell::Cell;

use anyhow::Result;
use oxen_domu_lib::sync::Latch;

/// What was taken down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records that say something.
    pub records: u64,
    /// Those that found no room in their ring.
    pub lost: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// The task that takes the trace down.
#[derive(Debug, Default)]
pub struct Tracer {
    /// Whether it is to end.
    pub(super) ends: Cell<bool>,
    /// How it has ended.
    pub(super) ended: Latch<Rc<Result<Summary>>>,
}
