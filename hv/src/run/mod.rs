//! What CPUs do between entries: the running loop, what falls due meanwhile, and how a vcpu lets go of its CPU.

mod expire;
pub mod runstate;
pub mod switch;
pub mod wait;
