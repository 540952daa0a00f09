//! The privileged guest: toolstack, xenstore, backends, balloon controller.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
