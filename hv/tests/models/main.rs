//! The hypervisor's own code under loom (`cargo xtask test loom`): what several CPUs do at once, in every order that
//! matters and with every value that they may see.
//!
//! Each thread of a model is a CPU. What is not atomic a model's end brings back as it was.
#![cfg(loom)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

#[macro_use(thread_local)]
extern crate oxen_model as std;

mod events;
mod frames;
mod queues;
#[path = "../support/mod.rs"]
mod support;
