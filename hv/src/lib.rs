//! The hypervisor without its machine: safe code that runs on bare metal and under `cargo test` alike.
//!
//! The binary (`main.rs`, `x86/`) calls in and implements the small traits that this library declares;
//! [`machine::Machine`] is their sum. Arrows run one way, from the right to the left, and rooms of one layer do not
//! know each other (`cargo xtask check`):
//!
//! ```text
//! words     atomic_flags config features hardware layout lock ports reply | addr cpu_model heap
//! leaves    console pci rights shootdown speculation trace | firmware
//! subjects  mem | shared_info | event grant sched | domain
//! all       machine per_cpu | hypervisor | caller
//! stories   cpu processor stubs | channel | granted | lifecycle | keys run
//! doors     hypercall trap | boot
//! ```
//!
//! A *subject* is what there is: data and the rules of their own, of one domain at a time. A *story* is what happens
//! between several: its steps are methods of [`Hypervisor`] and [`caller::Caller`], and it knows the subjects.
//!
//! The laws that hold everywhere:
//!
//! 1. A frame has one type at a time while it is in use. No frame is writable by a guest while it is a page table or a
//!    descriptor page.
//! 2. Every present entry of a validated table refers to a frame that the domain owns, was granted, or may map by
//!    privilege, and holds a reference for as long as it is there. What an entry may contain is a whitelist per level.
//!    A guest whose frames are translated has no validated tables: the same holds of the entries of its p2m, and a CPU
//!    walks nothing but shadows of what these hold.
//! 3. A frame is given out only without references, after every TLB that could know it was flushed, and is scrubbed
//!    before another domain sees it, or the hypervisor. What it was is forgotten by such a flush alone. A new type is
//!    published first, then flushed, then validated.
//! 4. Guest memory is reached only by judged addresses (`GuestPtr`, `GuestRange`): judged on the exact range, copied in
//!    once, judged on the copy. RAM is accessed by a proof that it is RAM (`RamFrame`).
//! 5. Every hypercall takes bounded time between preemption points, whatever its arguments; no recursion.
//! 6. Nothing a guest passes can panic the hypervisor.
//! 7. A destroyed domain gives everything back.
//! 8. A guest learns nothing of another.
//! 9. A refused operation has changed nothing: checks before gets, what is taken is given back by the value that holds
//!    it (`Held`, `Withdrawn`, `Taken`), commit last.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(loom)]
extern crate oxen_model as core;

pub mod addr;
pub mod atomic_flags;
pub mod boot;
pub mod caller;
pub mod channel;
pub mod config;
pub mod console;
pub mod cpu;
pub mod cpu_model;
pub mod domain;
pub mod event;
pub mod features;
pub mod firmware;
pub mod grant;
pub mod granted;
pub mod hardware;
pub mod heap;
pub mod hypercall;
pub mod hypervisor;
pub mod keys;
pub mod layout;
pub mod lifecycle;
pub mod lock;
pub mod machine;
pub mod mem;
pub mod pci;
pub mod per_cpu;
pub mod ports;
pub mod processor;
pub mod reply;
pub mod rights;
pub mod run;
pub mod sched;
pub mod shared_info;
pub mod shootdown;
pub mod speculation;
pub mod stubs;
pub mod trace;
pub mod trap;

pub use hypervisor::Hypervisor;
