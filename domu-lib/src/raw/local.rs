//! Statics of the one thread of control that a guest has.

/// A value that only the guest's vcpu touches, or, on the host, one for each thread.
#[cfg(target_os = "none")]
#[derive(Debug)]
pub(crate) struct Local<T: 'static>(core::cell::LazyCell<T>);

// SAFETY: one vcpu runs the guest's Rust code, and the upcall handler, which may interrupt it, touches no such value.
#[cfg(target_os = "none")]
unsafe impl<T: 'static> Sync for Local<T> {}

#[cfg(target_os = "none")]
impl<T: 'static> Local<T> {
    /// A value made by `init` at its first use.
    pub(crate) const fn new(init: fn() -> T) -> Self {
        Self(core::cell::LazyCell::new(init))
    }

    /// Uses the value.
    pub(crate) fn with<R>(&'static self, use_it: impl FnOnce(&T) -> R) -> R {
        use_it(&self.0)
    }
}

/// Defines a static for the guest's one thread; on the host, where tests run in many, one for each.
#[cfg(target_os = "none")]
macro_rules! local {
    (static $name:ident: $type:ty = $init:expr) => {
        static $name: $crate::raw::local::Local<$type> = $crate::raw::local::Local::new(|| $init);
    };
}

/// One value for each thread, never dropped: values that are left in it would use others while it goes away.
#[cfg(not(target_os = "none"))]
pub(crate) struct Local<T: 'static>(pub(crate) &'static std::thread::LocalKey<&'static T>);

#[cfg(not(target_os = "none"))]
impl<T: 'static> Local<T> {
    /// Uses the value.
    pub(crate) fn with<R>(&'static self, use_it: impl FnOnce(&T) -> R) -> R {
        self.0.with(|value| use_it(value))
    }
}

#[cfg(not(target_os = "none"))]
macro_rules! local {
    (static $name:ident: $type:ty = $init:expr) => {
        static $name: $crate::raw::local::Local<$type> = {
    std::thread_local!(static VALUE: &'static $type = std::boxed::Box::leak(std::boxed::Box::new($init)));
            $crate::raw::local::Local(&VALUE)
        };
    };
}

pub(crate) use local;
