//! Memory of running guests: targets that people set, guests that follow them or do not.

pub mod controller;
pub mod policy;
