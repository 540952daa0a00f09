//! `cargo xtask`: build, run, test and measure Oxen.
fn main() {}
