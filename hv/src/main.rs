//! The hypervisor's image: the boot story and the machine.
#![cfg_attr(target_os = "none", no_std, no_main)]
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("hv runs on bare metal: `cargo xtask run` builds and boots it");
}
