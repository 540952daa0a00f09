//! The hypervisor's image: the boot story and the machine.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "x86/ is the only folder that touches the machine"))]

#[cfg(target_os = "none")]
mod x86;

/// Where the loader's world ends: on the boot CPU's stack, paging on, interrupts off.
#[cfg(target_os = "none")]
extern "sysv64" fn start(magic: u32, info: u32) -> ! {
    x86::setup::boot(magic, info)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("hv runs on bare metal: `cargo xtask run` builds and boots it");
}
