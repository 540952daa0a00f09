//! Memory of running guests: what policy gives to whom, targets, guests that follow them or do not.

pub mod controller;
pub mod coordinator;
pub mod estimate;
pub mod plan;
pub mod policy;
pub mod progress;
