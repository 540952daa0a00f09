//! The only room of the runtime that may say `unsafe`: entry and exception code, hypercall stubs, page tables,
//! and views of memory. Everything it hands out is safe to use.
#![expect(unsafe_code, reason = "the machine's edge of the runtime: assembly, page tables and views of shared pages")]

#[cfg(target_os = "none")]
mod boot;
pub mod bytes;
pub mod call;
pub mod control;
#[cfg(target_os = "none")]
mod entry;
pub mod frame;
pub mod grant;
#[cfg(target_os = "none")]
pub(crate) mod heap;
#[cfg(not(target_os = "none"))]
pub(crate) mod host;
pub(crate) mod hypercall;
pub(crate) mod local;
pub mod machine;
pub mod mapping;
#[cfg(target_os = "none")]
pub mod measure;
pub mod page;
pub mod refusal;
pub(crate) mod reservation;
pub(crate) mod shared;
pub mod space;
pub mod tables;
#[cfg(target_os = "none")]
pub(crate) mod trap;
#[cfg(not(target_os = "none"))]
pub(crate) use host as trap;
#[cfg(target_os = "none")]
pub(crate) mod user;
#[cfg(not(target_os = "none"))]
pub(crate) use host as user;
pub(crate) mod view;
