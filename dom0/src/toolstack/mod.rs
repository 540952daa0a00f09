//! What builds, shows and ends guests, and the prompt by which people ask for it.

pub mod build;
pub mod config;
pub mod image;
pub mod payload;
pub mod shell;
pub mod suggest;
