//! From the command line to the first instruction of dom0.

pub mod cmdline;
pub mod dom0;
pub mod speculation;
mod words;
