//! A guest that says who it is and what it has, and powers off; with `stay`, when the toolstack asks.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::string::String;

use oxen_abi::features;
use oxen_domu_lib::frontend::control;
use oxen_domu_lib::store::{Error, Store};
use oxen_domu_lib::{entry, hypercall, memory, println, start_info, task, time};

entry!(run);

/// Features that this guest knows by name.
const FEATURES: [(u32, &str); 9] = [
    (features::XENFEAT_AUTO_TRANSLATED_PHYSMAP, "auto_translated_physmap"),
    (features::XENFEAT_PAE_PGDIR_ABOVE_4GB, "pae_pgdir_above_4gb"),
    (features::XENFEAT_MMU_PT_UPDATE_PRESERVE_AD, "mmu_pt_update_preserve_ad"),
    (features::XENFEAT_HIGHMEM_ASSIST, "highmem_assist"),
    (features::XENFEAT_GNTTAB_MAP_AVAIL_BITS, "gnttab_map_avail_bits"),
    (features::XENFEAT_DOM0, "dom0"),
    (features::XENFEAT_MEMORY_OP_VNODE_SUPPORTED, "memory_op_vnode_supported"),
    (features::XENFEAT_LINUX_RSDP_UNRESTRICTED, "linux_rsdp_unrestricted"),
    (features::XENFEAT_DIRECT_MAPPED, "direct_mapped"),
];

fn run() {
    let (major, minor) = hypercall::xen_version();
    println!("hello from a guest on {} version {major}.{minor}", start_info::magic());
    println!("command line: {:?}", start_info::command_line());
    println!("{} pages, {} of them free", start_info::pages(), memory::pool::free_pages());
    match hypercall::features(0) {
        Ok(bits) => println!("features: {bits:#x} {}", names(bits)),
        Err(errno) => println!("features: {errno}"),
    }
    task::run(async {
        let store = Store::connect();
        match who_am_i(&store).await {
            Ok((name, domain)) => println!("the store calls this domain {name}, number {domain}"),
            Err(_) if start_info::is_initial_domain() => println!("this is the initial domain"),
            Err(error) => println!("{error}"),
        }
        let before = time::now();
        time::sleep(50 * time::MILLISECOND).await;
        println!("slept {} us", (time::now() - before) / 1000);
        if let (Ok(store), Some(_)) = (&store, start_info::option("stay")) {
            match control::shutdown_request(store).await {
                Ok(reason) => println!("asked to end: {reason:?}"),
                Err(error) => println!("{error}"),
            }
        }
    });
}

fn names(bits: u32) -> String {
    let known = FEATURES.iter().filter(|(bit, _)| bits >> bit & 1 == 1).map(|&(_, name)| name);
    known.collect::<alloc::vec::Vec<_>>().join(" ")
}

/// The domain's name and number, as the toolstack wrote them.
async fn who_am_i(store: &Result<Store, Error>) -> Result<(String, String), Error> {
    let store = store.as_ref().map_err(|error| *error)?;
    Ok((store.read("name").await?, store.read("domid").await?))
}
