//! What builds, shows and ends guests, and the prompt by which people ask for it.

pub mod autopsy;
pub mod build;
pub mod ends;
pub mod guest;
pub mod lifecycle;
pub mod line;
pub mod nodes;
pub mod room;
pub mod save;
pub mod share;
pub mod shell;
pub mod stage;
pub mod system;
pub mod trace;
pub mod tracer;
pub mod xl;
