//! What the hypervisor keeps shadows for: frames that are translated for a domain, and the log of what it writes to.

use super::{domctl, memory_op};
use crate::pages::Pfn;
use oxen_abi::{domctl as abi, domid::DomId, errno::Errno, memory};
use zerocopy::FromZeros;

/// Has the frames of a domain that has none yet be translated for it, with so many MiB for what that takes.
///
/// # Errors
/// `ESRCH` for no such domain, `EINVAL` for one that has frames, and where the hypervisor translates for no such guest,
/// `ENOMEM`.
pub fn translate(domain: DomId, mib: u32) -> Result<(), Errno> {
    let set = abi::XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION;
    let memory = abi::DomctlShadowOp { op: set, mb: mib, ..abi::DomctlShadowOp::new_zeroed() };
    domctl(abi::XEN_DOMCTL_SHADOW_OP, domain, &memory)?;
    let mode = abi::OXEN_DOMCTL_SHADOW_ENABLE_TRANSLATED;
    let op = abi::XEN_DOMCTL_SHADOW_OP_ENABLE;
    let request = abi::DomctlShadowOp { op, mode, ..abi::DomctlShadowOp::new_zeroed() };
    domctl(abi::XEN_DOMCTL_SHADOW_OP, domain, &request).map(|_| ())
}

/// Puts a frame that the hypervisor has for a domain (`XENMAPSPACE_*`, by its index) at a page of that domain's, whose
/// frames are translated.
///
/// # Errors
/// `ESRCH` for no such domain, `EACCES` for one of another kind, `EINVAL` for no such frame, `ENOMEM`.
pub fn add_to_physmap(domain: DomId, space: u32, index: u64, page: Pfn) -> Result<(), Errno> {
    let request = memory::AddToPhysmap { domid: domain, size: 0, space, idx: index, gpfn: page.raw() };
    memory_op(memory::XENMEM_ADD_TO_PHYSMAP, &request).map(|_| ())
}

/// Begins to log which pages of a domain are written to, or ends it (`XEN_DOMCTL_shadow_op`).
///
/// # Errors
/// `ESRCH` for no such domain, `EINVAL` where it is logged already, `ENOMEM`.
pub fn log_dirty(domain: DomId, is_on: bool) -> Result<(), Errno> {
    let op = if is_on { abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY } else { abi::XEN_DOMCTL_SHADOW_OP_OFF };
    let request = abi::DomctlShadowOp { op, ..abi::DomctlShadowOp::new_zeroed() };
    domctl(abi::XEN_DOMCTL_SHADOW_OP, domain, &request).map(|_| ())
}

/// Reads the log of the pages that `bitmap` has room for, 64 in a word, and begins it anew if it is to be cleaned.
///
/// # Errors
/// `ESRCH` for no such domain, `ENOMEM` if the log is not complete.
pub fn read_dirty(domain: DomId, is_cleaned: bool, bitmap: &mut [u64]) -> Result<abi::DomctlShadowOpStats, Errno> {
    let request = abi::DomctlShadowOp {
        op: if is_cleaned { abi::XEN_DOMCTL_SHADOW_OP_CLEAN } else { abi::XEN_DOMCTL_SHADOW_OP_PEEK },
        dirty_bitmap: bitmap.as_mut_ptr() as u64,
        pages: 64 * bitmap.len() as u64,
        ..abi::DomctlShadowOp::new_zeroed()
    };
    let answer: abi::DomctlShadowOp = domctl(abi::XEN_DOMCTL_SHADOW_OP, domain, &request)?.get();
    Ok(answer.stats)
}
