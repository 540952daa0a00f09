//! What takes bytes from outside, as functions that a fuzzer can call: each returns, or it has found something.
//!
//! `cargo xtask fuzz TARGET` looks for inputs with libFuzzer (`libfuzzer/`, nightly Rust); what it finds
//! worth keeping stands in `corpus/TARGET`, and `cargo test -p oxen-fuzz` runs all of that on stable
//! Rust, and as many mutations of it.

mod boot;
mod bytes;
mod devices;
mod guests;
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "it is a test: what does not hold ends it"
)]
mod hypercalls;
mod instructions;
mod saved;
mod store;

/// A function that takes any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, on the command line and in the corpus.
    pub name: &'static str,
    /// Takes an input.
    ///
    /// # Panics
    /// When the input breaks what must hold.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 16] = [
    Target { name: "kernel", run: guests::kernel },
    Target { name: "config", run: guests::config },
    Target { name: "archive", run: guests::archive },
    Target { name: "guest_text", run: guests::text },
    Target { name: "multiboot", run: boot::multiboot },
    Target { name: "acpi", run: boot::acpi },
    Target { name: "command_line", run: boot::command_line },
    Target { name: "decoder", run: instructions::decoder },
    Target { name: "store_wire", run: store::wire },
    Target { name: "store", run: store::requests },
    Target { name: "block", run: devices::block },
    Target { name: "transmit", run: devices::transmit },
    Target { name: "hypercalls", run: hypercalls::sequence },
    Target { name: "bridge", run: devices::bridge },
    Target { name: "saved", run: saved::stream },
    Target { name: "moved", run: saved::moved },
];

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
