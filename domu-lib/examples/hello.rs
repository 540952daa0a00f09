//! A guest that says who it is and ends.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use oxen_domu_lib::{entry, hypercall, memory, println, start_info, task, time};

entry!(run);

fn run() {
    let (major, minor) = hypercall::xen_version();
    println!("hello from a guest on {} version {major}.{minor}", start_info::magic());
    println!("command line: {:?}", start_info::command_line());
    println!("{} pages, {} of them free", start_info::pages(), memory::pool::free_pages());
    task::run(async {
        let before = time::now();
        time::sleep(50 * time::MILLISECOND).await;
        println!("slept {} us", (time::now() - before) / 1000);
    });
}
