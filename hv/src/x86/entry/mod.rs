//! Ways into the hypervisor: from the boot loader, from guests, from the CPU's own faults.

mod boot;
pub(crate) mod descriptors;
mod exception;
mod fixup;
mod stubs;
mod syscall;
