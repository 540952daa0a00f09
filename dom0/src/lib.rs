//! The privileged guest: toolstack, xenstore, backends, balloon controller.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod archive;
pub mod backend;
pub mod balloon;
pub mod bridge;
pub mod config;
pub mod device;
pub mod domain_info;
pub mod errno;
pub mod guest_text;
pub mod mapped;
pub mod network;
pub mod notes;
pub mod options;
pub mod purse;
pub mod saved;
pub mod store;
pub mod suggest;
pub mod terminal;
pub mod toolstack;
pub mod uplink;
