//! A guest that asks the hypervisor everything, rightly and wrongly, and judges the answers.
//!
//! `end=panic`, `end=wild` and `end=spin` make it end badly instead, `end=never` lets it take of the store
//! what it can get and keep it, and `do=NAME` makes it do something else ([`hostile`]). `family=NAME` on its command
//! line chooses what is asked; without it all is. Each answer makes a line
//! `probe: ok NAME` or `probe: FAILED NAME: …`, the last line is `probe: done, N ok, N failed`. The answers expected
//! are those of Xen 4.17, on which this guest runs as well.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod family;
mod fuzz;
mod greed;
mod hostile;
mod judge;
mod raw;

use judge::Probe;
use oxen_domu_lib::{entry, println, start_info};

entry!(run);

// Its name stands in what a panic prints.
#[inline(never)]
fn run() {
    let deed = start_info::option("do");
    if let Some(what) = &deed {
        hostile::run(what);
    }
    match start_info::option("end").as_deref() {
        Some("panic") => end_in_panic(),
        Some("never") => return greed::take_the_store(),
        Some("wild") => raw::jump(raw::WILD),
        Some("spin") => loop {
            core::hint::spin_loop();
        },
        _ => {}
    }
    if deed.is_some() {
        return;
    }
    if let Some(first) = start_info::option("fuzz") {
        return fuzz::run(first.parse().unwrap_or(0));
    }
    let wanted = start_info::option("family");
    let Some(mut probe) = Probe::new() else {
        println!("probe: no memory to work with");
        return;
    };
    for (name, ask) in family::ALL {
        if wanted.as_deref().is_none_or(|wanted| wanted == name) {
            probe.family = name;
            ask(&mut probe);
        }
    }
    println!("probe: done, {} ok, {} failed", probe.ok, probe.failed);
}

#[expect(clippy::panic, reason = "what happens then is the question")]
fn end_in_panic() {
    panic!("probe: panics, as it was told to");
}
