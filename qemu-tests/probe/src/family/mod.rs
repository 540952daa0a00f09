//! What is asked, by family of hypercalls.

mod control;
mod cpu;
mod cuts;
mod devices;
mod emulation;
mod events;
mod fifo;
mod grant_versions;
mod grants;
mod host;
mod memory;
mod mmu;
mod network;
mod registers;
mod schedule;
mod shadow;
mod stale;
mod tsc;
mod vcpus;
mod version;
mod widths;

use crate::judge::Probe;

/// The questions of a family.
type Questions = fn(&mut Probe);

/// Every family.
pub(crate) const ALL: [(&str, Questions); 20] = [
    ("version", version::ask),
    ("memory", memory::ask),
    ("mmu", mmu::ask),
    ("events", events::ask),
    ("grants", ask_grants),
    ("cpu", cpu::ask),
    ("schedule", schedule::ask),
    ("emulation", emulation::ask),
    ("control", control::ask),
    ("devices", devices::ask),
    ("network", network::ask),
    ("stale", stale::ask),
    ("cuts", cuts::ask),
    ("registers", registers::ask),
    ("widths", widths::ask),
    ("fifo", fifo::ask),
    ("host", host::ask),
    ("vcpus", vcpus::ask),
    ("tsc", tsc::ask),
    ("shadow", shadow::ask),
];

fn ask_grants(probe: &mut Probe) {
    if let Some(own) = grants::ask(probe) {
        grant_versions::ask(probe, own);
    }
}
