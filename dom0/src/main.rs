//! The privileged guest's image: starts store, backends and prompt, then runs their tasks for good.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use oxen_dom0::archive::Archive;
use oxen_dom0::balloon::{controller::Controller, coordinator::Coordinator};
use oxen_dom0::bridge::Bridge;
use oxen_dom0::device::{Disks, interrupt::Lines};
use oxen_dom0::options::Options;
use oxen_dom0::store::server::StoreHandle;
use oxen_dom0::terminal::Terminal;
use oxen_dom0::toolstack::{ends, guest::Guests, lifecycle, nodes, shell, system::System};
use oxen_dom0::uplink;
use oxen_domu_lib::sync::Waiters;
use oxen_domu_lib::{control, entry, memory, println, start_info, task, time};

entry!(run);

fn run() {
    // Port access is for drivers and for ending QEMU; a hypervisor that emulates it needs no level.
    let _ = control::set_iopl(3);
    task::on_long_piece(|domain, nanoseconds| {
        let milliseconds = nanoseconds / time::MILLISECOND;
        println!("dom0: work for domain {domain} let nothing else run for {milliseconds} ms");
    });
    let lines = Lines::default();
    let store = StoreHandle::new();
    let system = Rc::new(System {
        balloon: Controller::new(store.clone()),
        coordinator: Coordinator::default(),
        tracer: RefCell::default(),
        store,
        archive: Archive::new(start_info::module().unwrap_or_default()),
        options: Options::parse(&start_info::command_line()),
        terminal: Terminal::new(),
        guests: Guests::default(),
        bridge: Bridge::new(time::now, memory::pool::free_pages() * memory::PAGE_SIZE / 8),
        disks: Disks::find(&lines),
        ends: Waiters::new(),
        failed: Cell::new(false),
    });
    if let Err(why) = nodes::publish_dom0(&system.store) {
        println!("xenstore: {why}");
    }
    uplink::start(&system.bridge, &lines);
    task::spawn(ends::watch(system.clone()));
    task::spawn(lifecycle::watch_targets(system.clone()));
    println!("oxen dom0 ready");
    task::run(shell::run(system));
}
