//! The hypervisor's own address space, and the ways into everybody else's memory.

pub(crate) mod apart;
pub(crate) mod guest;
pub(crate) mod heap;
pub(crate) mod smap;
pub(crate) mod space;
pub(crate) mod tables;
pub(crate) mod window;
