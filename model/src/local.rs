//! What each thread has for itself. Loom's threads are one of the system's.

use crate::run::thread;
use std::cell::{Cell, RefCell};
use std::thread::LocalKey;

/// The values of all threads, by their numbers.
#[derive(Debug)]
pub struct Row<T: 'static> {
    first: fn() -> T,
    values: RefCell<Vec<(usize, &'static T)>>,
}

impl<T> Row<T> {
    /// No thread has used it.
    #[must_use]
    pub const fn new(first: fn() -> T) -> Self {
        Self { first, values: RefCell::new(Vec::new()) }
    }

    /// The value of the thread that asks, which it keeps from one run to the next.
    fn own(&self) -> &'static T {
        let number = thread();
        let known = self.values.borrow().iter().find(|(of, _)| *of == number).map(|(_, value)| *value);
        known.unwrap_or_else(|| {
            let value = Box::leak(Box::new((self.first)()));
            self.values.borrow_mut().push((number, value));
            value
        })
    }
}

/// As `std`'s `LocalKey`, as far as it is used here.
#[derive(Debug)]
pub struct Local<T: 'static>(pub &'static LocalKey<Row<T>>);

impl<T> Local<T> {
    /// As in `std`.
    pub fn with<R>(&self, work: impl FnOnce(&'static T) -> R) -> R {
        work(self.0.with(Row::own))
    }
}

impl<T: Copy> Local<Cell<T>> {
    /// As in `std`.
    pub fn get(&self) -> T {
        self.with(Cell::get)
    }
}

impl<T> Local<Cell<T>> {
    /// As in `std`.
    pub fn set(&self, value: T) {
        self.with(|cell| cell.set(value));
    }
}

impl<T> Local<RefCell<T>> {
    /// As in `std`.
    pub fn with_borrow<R>(&self, work: impl FnOnce(&T) -> R) -> R {
        self.with(|cell| work(&cell.borrow()))
    }

    /// As in `std`.
    pub fn set(&self, value: T) {
        drop(self.with(|cell| cell.replace(value)));
    }
}

/// As in `std`, for loom's threads.
#[macro_export]
macro_rules! thread_local {
    ($($(#[$meta:meta])* $vis:vis static $name:ident: $type:ty = $first:expr;)*) => {$(
        $(#[$meta])*
        $vis static $name: $crate::Local<$type> = {
            $crate::system_local! { static ROW: $crate::Row<$type> = const { $crate::Row::new(|| $first) } }
            $crate::Local(&ROW)
        };
    )*};
}
