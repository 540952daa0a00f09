//! The privileged guest's image.
#![cfg_attr(target_os = "none", no_std, no_main)]
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("dom0 runs as a paravirtual guest: `cargo xtask run` builds and boots it");
}
