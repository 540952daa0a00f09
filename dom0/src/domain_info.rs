//! What the hypervisor says about domains.

use alloc::vec::Vec;

use oxen_abi::domctl::{DomctlGetdomaininfo, InfoFlags, XEN_DOMINF_SHUTDOWNMASK, XEN_DOMINF_SHUTDOWNSHIFT};
use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_domu_lib::control;

/// Domains that are asked about at a time.
const MAX_DOMAINS: usize = 1024;

/// What the hypervisor says about a domain, if it is there.
pub fn of(domain: DomId) -> Option<DomctlGetdomaininfo> {
    control::domain_info(domain).ok().filter(|info| info.domain == domain)
}

/// All domains.
///
/// # Errors
/// `EPERM` for all but the control domain.
pub fn all() -> Result<Vec<DomctlGetdomaininfo>, Errno> {
    control::domains(MAX_DOMAINS)
}

/// What a domain does. The shutdown code is not among it.
pub const fn flags(info: &DomctlGetdomaininfo) -> InfoFlags {
    InfoFlags::from_bits_truncate(info.flags)
}

/// The reason in a domain's flags (`SHUTDOWN_*`), if it has stopped.
pub fn shutdown_code(info: &DomctlGetdomaininfo) -> Option<u32> {
    let stopped = flags(info).contains(InfoFlags::SHUTDOWN);
    stopped.then_some(info.flags >> XEN_DOMINF_SHUTDOWNSHIFT & XEN_DOMINF_SHUTDOWNMASK)
}
