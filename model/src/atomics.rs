//! The atomics.

use crate::run::{Part, Phase, join, locked, phase, point};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};

/// A fence between other operations.
pub fn fence(order: Ordering) {
    match phase() {
        Phase::Outside => std::sync::atomic::fence(order),
        Phase::Search => {}
        Phase::Trial => loom::sync::atomic::fence(order),
    }
}

/// An operation that reads and writes: on x86, a barrier.
fn barrier() {
    loom::sync::atomic::fence(Ordering::SeqCst);
}

macro_rules! atomics {
    ($($name:ident: $value:ty, $module:ident;)*) => {$(
        mod $module {
            use super::*;

            /// Its value, plain and loom's.
            pub(super) struct Cell {
                pub(super) plain: std::sync::atomic::$name,
                pub(super) trial: Mutex<Option<Arc<loom::sync::atomic::$name>>>,
                /// What it was before the runs.
                pub(super) start: Mutex<Option<$value>>,
            }

            impl Cell {
                pub(super) fn new(value: $value) -> Self {
                    let plain = std::sync::atomic::$name::new(value);
                    Self { plain, trial: Mutex::new(None), start: Mutex::new(None) }
                }
            }

            impl Part for Cell {
                fn begin(&self, is_trial: bool) {
                    let Some(start) = *locked(&self.start) else { return };
                    self.plain.store(start, Ordering::SeqCst);
                    *locked(&self.trial) = is_trial.then(|| Arc::new(loom::sync::atomic::$name::new(start)));
                }

                fn end(&self) {
                    self.begin(false);
                    *locked(&self.start) = None;
                }
            }
        }

        /// As in `core`.
        pub struct $name {
            first: $value,
            cell: OnceLock<Arc<$module::Cell>>,
        }

        impl $name {
            /// As in `core`.
            pub const fn new(first: $value) -> Self {
                Self { first, cell: OnceLock::new() }
            }

            /// Runs an operation on what the atomic is in this phase.
            #[track_caller]
            fn with<R>(
                &self,
                plain: impl FnOnce(&std::sync::atomic::$name) -> R,
                trial: impl FnOnce(&loom::sync::atomic::$name) -> R,
            ) -> R {
                let cell = self.cell.get_or_init(|| Arc::new($module::Cell::new(self.first)));
                let phase = phase();
                if phase == Phase::Outside {
                    return plain(&cell.plain);
                }
                let is_new = locked(&cell.start).is_none();
                if is_new {
                    *locked(&cell.start) = Some(cell.plain.load(Ordering::SeqCst));
                    join(cell.clone());
                }
                let live = locked(&cell.trial).clone();
                match live {
                    Some(live) => trial(&live),
                    None => {
                        point();
                        plain(&cell.plain)
                    }
                }
            }

            /// The same for what reads and writes.
            #[track_caller]
            fn update<R>(
                &self,
                plain: impl FnOnce(&std::sync::atomic::$name) -> R,
                trial: impl FnOnce(&loom::sync::atomic::$name) -> R,
            ) -> R {
                self.with(plain, |live| {
                    barrier();
                    let result = trial(live);
                    barrier();
                    result
                })
            }

            /// As in `core`.
            #[track_caller]
            pub fn load(&self, order: Ordering) -> $value {
                self.with(|plain| plain.load(order), |live| live.load(order))
            }

            /// As in `core`.
            #[track_caller]
            pub fn store(&self, value: $value, order: Ordering) {
                if order == Ordering::SeqCst {
                    return self.update(|plain| plain.store(value, order), |live| live.store(value, order));
                }
                self.with(|plain| plain.store(value, order), |live| live.store(value, order));
            }

            /// As in `core`.
            #[track_caller]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                self.update(|plain| plain.swap(value, order), |live| live.swap(value, order))
            }

            /// As in `core`.
            ///
            /// # Errors
            /// What it is instead.
            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.update(
                    |plain| plain.compare_exchange(current, new, success, failure),
                    |live| live.compare_exchange(current, new, success, failure),
                )
            }

            /// As in `core`; on x86 it fails for no other reason than the strong one.
            ///
            /// # Errors
            /// What it is instead.
            #[track_caller]
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            /// As in `core`.
            ///
            /// # Errors
            /// What it is, if `update` wants no change.
            #[track_caller]
            pub fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                mut update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut seen = self.load(fetch);
                while let Some(next) = update(seen) {
                    match self.compare_exchange(seen, next, set, fetch) {
                        Ok(old) => return Ok(old),
                        Err(now) => seen = now,
                    }
                }
                Err(seen)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

macro_rules! operations {
    ($($name:ident: $value:ty, [$($operation:ident)*];)*) => {$(
        impl $name {$(
            /// As in `core`.
            #[track_caller]
            pub fn $operation(&self, value: $value, order: Ordering) -> $value {
                self.update(|plain| plain.$operation(value, order), |live| live.$operation(value, order))
            }
        )*}

        impl Default for $name {
            fn default() -> Self {
                Self::new(<$value>::default())
            }
        }

        impl From<$value> for $name {
            fn from(value: $value) -> Self {
                Self::new(value)
            }
        }
    )*};
}

atomics! {
    AtomicBool: bool, boolean;
    AtomicU8: u8, u8_cell;
    AtomicU16: u16, u16_cell;
    AtomicU32: u32, u32_cell;
    AtomicU64: u64, u64_cell;
    AtomicUsize: usize, usize_cell;
    AtomicI64: i64, i64_cell;
}

operations! {
    AtomicBool: bool, [fetch_and fetch_or fetch_xor];
    AtomicU8: u8, [fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min];
    AtomicU16: u16, [fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min];
    AtomicU32: u32, [fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min];
    AtomicU64: u64, [fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min];
    AtomicUsize: usize, [fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min];
    AtomicI64: i64, [fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min];
}
