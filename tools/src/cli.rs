//! The command line of `cargo xtask`, which the book's commands are held against as well.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{bench, book, fuzz, gallery, gdb, hostile, memory, run, test, trace};

/// Build, run, test and measure Oxen
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What `cargo xtask` does.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Install what is missing: the bare-metal target, QEMU
    Setup,
    /// Build hypervisor, dom0, guests and ramdisk into target/oxen
    Build,
    /// Boot Oxen in QEMU: at a terminal to dom0's prompt, otherwise the demo or --script
    Run(Box<run::Args>),
    /// Boot as `run` does, and show what the hypervisor does meanwhile: hypercalls, traps, events, who runs where
    Trace(Box<trace::Args>),
    /// Test on this machine and in QEMU; the last line counts
    Test(test::Args),
    /// Check formatting, clippy, links of the documentation, the book, dependencies and the house rules
    Check,
    /// Make the book from docs/book: pictures, hypercall reference, HTML into target/oxen/book
    Book(book::Args),
    /// Build everything here and in another folder, and compare the bytes: long
    Reproducible,
    /// Count lines, unsafe lines and the largest files
    Loc,
    /// Say what is here, what is missing, and which faults this QEMU has
    Doctor,
    /// Measure the primitives in instructions, beside Xen's figures
    Bench(bench::Args),
    /// Let guests want memory and a policy share it out, in virtual time: a table, CSV and a picture of it
    Memory(memory::Args),
    /// Look for inputs that break a part; or ask real Xen and Oxen the same things, drawn from
    /// seeds, and compare the answers
    Fuzz(fuzz::Args),
    /// Try random operations on the hypervisor's lib, the laws checked all along: as long as one likes
    Hostile(hostile::Args),
    /// Boot the kernels of distributions as guests, and compare their logs with those on real Xen
    Gallery(gallery::Args),
    /// Boot a machine that waits for gdb
    Gdb(gdb::Args),
    /// Lay out a guest crate that builds and boots
    NewGuest {
        /// The crate's name, or a path that ends in it: any folder will do
        name: PathBuf,
        /// The folder in which its folder is made
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        r#in: PathBuf,
    },
    /// Package the crates for guests' authors as for a registry, and build each from its package: nothing is published
    Package,
    /// Make an ISO image that GRUB boots
    Image {
        /// Commands for dom0, parted by semicolons
        #[arg(long, value_name = "COMMANDS")]
        script: Option<String>,
    },
}
