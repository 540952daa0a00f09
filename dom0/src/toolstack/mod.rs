//! What builds, shows and ends guests, and the prompt by which people ask for it.

pub mod autopsy;
pub mod build;
pub mod config;
pub mod ends;
pub mod lifecycle;
pub mod nodes;
pub mod room;
pub mod share;
pub mod shell;
pub mod suggest;
pub mod xl;
