//! How many mappings there are of what is not this domain's: while there is one, the domain cannot be saved.

use core::sync::atomic::{AtomicUsize, Ordering};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Stands for a mapping of what another domain or a device has.
#[derive(Debug)]
pub(crate) struct Foreign(());

impl Foreign {
    pub(crate) fn new() -> Self {
        COUNT.fetch_add(1, Ordering::Relaxed);
        Self(())
    }

    /// Something stays mapped for ever.
    pub(crate) fn abandon(self) {
        core::mem::forget(self);
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many there are.
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}
