//! The privileged guest's image.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

oxen_domu_lib::entry!(run);

fn run() {
    oxen_domu_lib::println!("oxen dom0: {} pages", oxen_domu_lib::start_info::pages());
}
