//! The hypervisor's image: the boot story and the machine.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "x86/ is the only folder that touches the machine"))]

#[cfg(target_os = "none")]
mod x86;

/// Where the loader's world ends: on the boot CPU's stack, paging on, interrupts off. It is entered once.
#[cfg(target_os = "none")]
extern "sysv64" fn start(magic: u32, info: u32) -> ! {
    use x86::setup;
    setup::speak();
    setup::catch_faults();
    let handed_over = setup::read_handoff(magic, info);
    let options = setup::read_options(&handed_over);
    let (features, defences) = setup::set_up_cpu(&options);
    let acpi = setup::read_acpi(&handed_over);
    let (memory, space, frames) = setup::divide_memory(&handed_over);
    let machine = setup::find_machine(features, &acpi, &options, space);
    let hv = setup::make_hypervisor(machine, frames, &memory, &handed_over, &acpi, &options, &defences.plan);
    setup::announce(hv, &handed_over, &options, &defences.found);
    let cpu = setup::open_boot_cpu(hv);
    setup::start_other_cpus(hv);
    setup::begin_trace(hv, &options);
    setup::build_dom0(hv, &handed_over, &options);
    setup::watch(hv, &options);
    setup::run(cpu)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("hv runs on bare metal: `cargo xtask run` builds and boots it");
}
