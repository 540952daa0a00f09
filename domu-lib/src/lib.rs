//! Runtime and frontends for paravirtual guests on Xen and Oxen.
//!
//! A guest is a binary without `std` and without `main`:
//!
//! ```
//! #![cfg_attr(target_os = "none", no_std, no_main)]
//! #![forbid(unsafe_code)]
//!
//! oxen_domu_lib::entry!(run);
//!
//! fn run() {
//!     oxen_domu_lib::println!("hello");
//! }
//! ```
//!
//! When `run` returns the domain powers off; a panic or an exception without a handler reports a crash.
//!
//! # Linking
//!
//! A guest is built for `x86_64-unknown-none` as code at a fixed address. This crate brings the linker script; the
//! guest's own `.cargo/config.toml` asks for it:
//!
//! ```toml
//! [build]
//! target = "x86_64-unknown-none"
//!
//! [target.x86_64-unknown-none]
//! rustflags = ["-C", "relocation-model=pic", "-C", "link-arg=-no-pie", "-C", "link-arg=-Tguest.ld"]
//! ```
//!
//! On the host the crate compiles too, for tests: every hypercall answers `ENOSYS` there.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(not(target_os = "none"), expect(dead_code, reason = "the host has no use for what boots a guest"))]

extern crate alloc;

pub mod at_end;
#[cfg_attr(not(any(target_os = "none", test)), expect(dead_code, reason = "the host's own panics have names"))]
mod calls;
pub mod console;
pub mod event;
pub mod frontend;
pub mod grant;
pub mod handshake;
#[cfg(feature = "ip")]
pub mod ip;
mod lives;
pub mod memory;
pub mod packet;
mod pages;
#[cfg(target_os = "none")]
mod panic;
#[expect(unreachable_pub, reason = "what is public in there is handed out by the rooms that it belongs to")]
mod raw;
pub mod sched;
pub mod start_info;
pub mod store;
pub mod suspend;
pub mod sync;
pub mod task;
pub mod time;

pub use oxen_abi as abi;
pub use oxen_abi::domid::DomId;
pub use oxen_abi::errno::Errno;
pub use oxen_ring as ring;
pub use raw::control;
pub use raw::hypercall::call as hypercall;
pub use raw::machine;
#[cfg(target_os = "none")]
pub use raw::measure;
pub use raw::refusal;

/// Makes `$main` (a `fn()`) what the guest runs once the runtime stands.
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "Rust" fn oxen_guest_main() {
            let main: fn() = $main;
            main();
        }
    };
}

/// On the host there is nothing to run on: the program says so.
#[cfg(not(target_os = "none"))]
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        fn main() {
            let _: fn() = $main;
            ::std::println!("a guest: build it for x86_64-unknown-none and boot it in a domain");
        }
    };
}
