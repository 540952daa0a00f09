//! Ways into this kernel and out of it: exceptions, event upcalls, user code, accesses that may fault.

#[cfg(target_os = "none")]
mod entry;
mod frame;
#[cfg(not(target_os = "none"))]
mod host;
#[cfg(target_os = "none")]
mod user;

#[cfg(target_os = "none")]
pub(crate) use entry::{
    exception_entry, install, probe_read, probe_write, register_callback, register_event_entry, register_syscall_entry,
};
pub use frame::{Fault, Frame};
#[cfg(not(target_os = "none"))]
pub(crate) use host::{probe_read, probe_write, run_user};
#[cfg(target_os = "none")]
pub(crate) use user::run as run_user;
