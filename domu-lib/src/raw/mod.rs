//! The only room of the runtime that may say `unsafe`: entry and exception code, hypercalls, page tables, and views of
//! memory. Everything it hands out is safe to use.
//!
//! Lowest first: `local`, `machine`, `hypercall` and `shared` (the shared information page) know nothing of each other;
//! `trap` is the way in and out of this kernel; `memory` edits page tables; `control` and `refusal` are calls that some
//! guests need; `backtrace` reads stack and code at the end. `suspend`, the way into another domain, stands above
//! `start_info`; `boot`, the start of day, and `measure` stand above the whole runtime.
#![expect(unsafe_code, reason = "the machine's edge of the runtime: assembly, page tables and views of shared pages")]

#[cfg(target_os = "none")]
pub(crate) mod backtrace;
#[cfg(target_os = "none")]
mod boot;
pub mod control;
pub mod hypercall;
pub(crate) mod local;
pub mod machine;
#[cfg(target_os = "none")]
pub mod measure;
pub mod memory;
pub mod refusal;
pub(crate) mod shared;
pub(crate) mod suspend;
pub mod trap;
