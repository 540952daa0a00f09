//! The hypervisor without its machine: safe code that runs on bare metal and under `cargo test` alike.
#![no_std]
#![forbid(unsafe_code)]
