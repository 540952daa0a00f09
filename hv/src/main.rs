//! The hypervisor's image: the boot story and the machine.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "x86/ is the only folder that touches the machine"))]

#[cfg(target_os = "none")]
mod x86;

/// Where the loader's world ends: on the boot CPU's stack, paging on, interrupts off.
#[cfg(target_os = "none")]
extern "sysv64" fn start(magic: u32, info: u32) -> ! {
    x86::device::serial::early();
    log!("Oxen {} hello {magic:#x} {info:#x}", env!("CARGO_PKG_VERSION"));
    unsafe {
        x86::entry::descriptors::early();
        let f = x86::cpu::Features::detect();
        log!("{f:x?}");
        if f.smap {
            x86::memory::smap::enable();
        }
        x86::cpu::set_up(&f);
        x86::memory::tables::protect_image();
        x86::entry::descriptors::enter_window();
        let apic = x86::device::apic::Apic::find(&f).unwrap();
        x86::device::ioapic::silence_legacy_controllers();
        apic.enable();
        log!("{:?} id {}", x86::device::clock::calibrate(apic), apic.id());
        log!("{}", x86::device::clock::wall_clock());
        let io = x86::device::ioapic::IoApic::new(0xfec00000, 0);
        log!("{io:?}");
        log!("{:x?}", x86::memory::tables::hypervisor_slots());
        apic.arm(1000000, 0);
        x86::cpu::wait_for_interrupt();
    }
    panic!("test")
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("hv runs on bare metal: `cargo xtask run` builds and boots it");
}
