//! Paravirtual kernels as files, read as Xen's own builders read them (`libelf`, `xc_dom_bzimageloader`).
//!
//! [`payload`] unpacks what distributions ship: a bzImage, or a packed ELF file. [`Image`] is what the ELF headers and
//! Xen's notes say of a kernel, or the [`Refusal`]. [`Kernel`] joins both, so that a kernel goes piece by piece from
//! its file into a domain. The hypervisor builds dom0 by it, and dom0 every other guest. Nothing that a file holds
//! panics or reads outside of it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod headers;
mod image;
mod kernel;
mod notes;
pub mod payload;
mod refusal;
#[cfg(test)]
mod tests;

pub use image::{Image, Segment};
pub use kernel::Kernel;
pub use refusal::Refusal;
