//! What `cargo xtask` and the QEMU tests share: building the images, describing a machine, running it, reading it.
//!
//! `workspace` knows the paths, `setup` what must be installed, `build` makes what stands in `target/oxen/`,
//! `qemu` turns a [`qemu::Machine`] into a command line, `session` runs it under deadlines, `emulator` knows what else
//! runs it. The other rooms are one verb each.
#![forbid(unsafe_code)]

pub mod archive;
pub mod arrows;
pub mod bench;
pub mod bochs;
pub mod book;
pub mod build;
pub mod check;
pub mod citations;
pub mod cli;
pub mod configs;
pub mod cpio;
pub mod crates;
pub mod debian;
pub mod demo;
pub mod dependencies;
pub mod disk;
pub mod dmesg;
pub mod doctor;
pub mod elf;
pub mod emulator;
pub mod exit;
pub mod faults;
pub mod figures;
pub mod fuzz;
pub mod gallery;
pub mod gdb;
pub mod grub;
pub mod guest;
pub mod hostile;
pub mod http;
pub mod image;
mod iso;
mod layers;
pub mod linux;
pub mod linux_dom0;
pub mod loc;
pub mod memory;
pub mod new_guest;
pub mod packages;
pub mod patience;
pub mod process;
pub mod programs;
pub mod qemu;
pub mod reproducible;
pub mod rootfs;
pub mod rules;
pub mod run;
pub mod run_args;
pub mod session;
pub mod setup;
pub mod source;
pub mod stock;
pub mod symbols;
pub mod test;
pub mod trace;
pub mod workspace;
pub mod xen;
