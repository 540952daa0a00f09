//! The privileged guest's image: starts store, backends and prompt, then runs their tasks for good.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use oxen_dom0::archive::Archive;
use oxen_dom0::balloon::{controller::Controller, coordinator::Coordinator};
use oxen_dom0::bridge::{Bridge, Mac};
use oxen_dom0::device::{Disks, interrupt::Lines};
use oxen_dom0::network::{Network, settings::Settings};
use oxen_dom0::notes::Notes;
use oxen_dom0::options::Options;
use oxen_dom0::store::server::StoreHandle;
use oxen_dom0::terminal::Terminal;
use oxen_dom0::toolstack::{ends, guest::Guests, lifecycle, nodes, shell, system::System, trace};
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
    let options = Options::parse(&start_info::command_line());
    let bridge = Bridge::new(time::now, memory::pool::free_pages() * memory::PAGE_SIZE / 8);
    let card = uplink::start(&bridge, &lines);
    let system = Rc::new(System {
        balloon: Controller::new(store.clone()),
        coordinator: Coordinator::default(),
        tracer: RefCell::default(),
        notes: Rc::new(Notes::new(oxen_domu_lib::machine::tsc)),
        store,
        archive: Archive::new(start_info::module().unwrap_or_default()),
        network: place_in(&bridge, card, &options),
        options,
        terminal: Terminal::new(),
        guests: Guests::default(),
        bridge,
        disks: Disks::find(&lines),
        ends: Waiters::new(),
        failed: Cell::new(false),
    });
    if let Err(why) = nodes::publish_dom0(&system.store) {
        println!("xenstore: {why}");
    }
    task::spawn(ends::watch(system.clone()));
    task::spawn(lifecycle::watch_targets(system.clone()));
    if let Some((disk, events)) = &system.options.trace
        && let Err(why) = trace::events(events).and_then(|mask| trace::begin(&system, disk, mask, trace::PAGES))
    {
        println!("nothing is traced: {why:#}");
    }
    println!("oxen dom0 ready");
    task::run(shell::run(system));
}

/// dom0's own place in the network, if the command line asks for one, with the card's hardware address.
fn place_in(bridge: &Bridge, card: Option<Mac>, options: &Options) -> Option<Network> {
    match Settings::read(options) {
        Ok(settings) => Some(Network::start(bridge, card.unwrap_or_else(lifecycle::random_mac), settings?)),
        Err(why) => {
            println!("dom0 has no address: {why:#}");
            None
        }
    }
}
