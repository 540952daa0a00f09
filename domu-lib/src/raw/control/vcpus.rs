//! Calls about other domains' virtual processors.

use alloc::boxed::Box;

use oxen_abi::domctl::{
    DomctlGetvcpuinfo, DomctlSendtrigger, DomctlVcpuaffinity, DomctlVcpucontext, XEN_VCPUAFFINITY_FORCE,
    XEN_VCPUAFFINITY_HARD, XEN_VCPUAFFINITY_SOFT, XenctlBitmap,
};
use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::guest_context::VcpuGuestContext;
use zerocopy::FromZeros;

use super::domctl;

/// Gives a vcpu its registers and tables.
///
/// # Errors
/// What the hypervisor refuses: frames that are not tables, a bad state.
pub fn set_vcpu_context(domain: DomId, vcpu: u32, context: &VcpuGuestContext) -> Result<(), Errno> {
    let command = DomctlVcpucontext { vcpu, _pad0: 0, ctxt: core::ptr::from_ref(context) as u64 };
    domctl(domctl::XEN_DOMCTL_SETVCPUCONTEXT, domain, &command).map(|_| ())
}

/// A vcpu's registers and tables.
///
/// # Errors
/// `ESRCH` for no such vcpu.
pub fn vcpu_context(domain: DomId, vcpu: u32) -> Result<Box<VcpuGuestContext>, Errno> {
    let mut context = Box::new(VcpuGuestContext::new_zeroed());
    let command = DomctlVcpucontext { vcpu, _pad0: 0, ctxt: core::ptr::from_mut(&mut *context) as u64 };
    domctl(domctl::XEN_DOMCTL_GETVCPUCONTEXT, domain, &command)?;
    Ok(context)
}

/// What a vcpu does.
///
/// # Errors
/// `ESRCH` for no such vcpu.
pub fn vcpu_info(domain: DomId, vcpu: u32) -> Result<DomctlGetvcpuinfo, Errno> {
    let command = DomctlGetvcpuinfo { vcpu, ..DomctlGetvcpuinfo::new_zeroed() };
    Ok(domctl(domctl::XEN_DOMCTL_GETVCPUINFO, domain, &command)?.get())
}

/// A set of processors: the lowest numbers in the first word.
type Cpus = [u64; 4];

/// The bitmap that is in `cpus`, for as long as that lives.
fn bitmap(cpus: &mut Cpus) -> XenctlBitmap {
    XenctlBitmap { bitmap: cpus.as_mut_ptr() as u64, nr_bits: 64 * cpus.len() as u32, _pad0: 0 }
}

/// Sets where a vcpu may run (`hard`), and where it should (`soft`); `None` leaves that as it is. With `is_forced` a
/// pin that the guest made itself is lifted.
///
/// # Errors
/// `EINVAL` where none of the processors is there, `ESRCH`, `EBUSY` for a vcpu that is pinned.
pub fn set_vcpu_affinity(
    domain: DomId,
    vcpu: u32,
    hard: Option<Cpus>,
    soft: Option<Cpus>,
    is_forced: bool,
) -> Result<(), Errno> {
    let (mut hard_cpus, mut soft_cpus) = (hard.unwrap_or_default(), soft.unwrap_or_default());
    let flag = |is_on: bool, flag: u32| if is_on { flag } else { 0 };
    let flags = flag(hard.is_some(), XEN_VCPUAFFINITY_HARD)
        | flag(soft.is_some(), XEN_VCPUAFFINITY_SOFT)
        | flag(is_forced, XEN_VCPUAFFINITY_FORCE);
    let (cpumap_hard, cpumap_soft) = (bitmap(&mut hard_cpus), bitmap(&mut soft_cpus));
    let request = DomctlVcpuaffinity { vcpu, flags, cpumap_hard, cpumap_soft };
    domctl(domctl::XEN_DOMCTL_SETVCPUAFFINITY, domain, &request).map(|_| ())
}

/// Where a vcpu may run, and where it should.
///
/// # Errors
/// `ESRCH` for no such domain, `EINVAL` for no such vcpu.
pub fn vcpu_affinity(domain: DomId, vcpu: u32) -> Result<(Cpus, Cpus), Errno> {
    let (mut hard, mut soft) = (Cpus::default(), Cpus::default());
    let (cpumap_hard, cpumap_soft) = (bitmap(&mut hard), bitmap(&mut soft));
    let flags = XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT;
    domctl(domctl::XEN_DOMCTL_GETVCPUAFFINITY, domain, &DomctlVcpuaffinity { vcpu, flags, cpumap_hard, cpumap_soft })?;
    Ok((hard, soft))
}

/// Has a vcpu take an interrupt of a real machine (`XEN_DOMCTL_SENDTRIGGER_*`): of these, paravirtual guests know the
/// NMI, which is 0.
///
/// # Errors
/// `ESRCH` for no such domain or vcpu, `ENOSYS` and `EINVAL` for triggers that there are not.
pub fn send_trigger(domain: DomId, trigger: u32, vcpu: u32) -> Result<(), Errno> {
    domctl(domctl::XEN_DOMCTL_SENDTRIGGER, domain, &DomctlSendtrigger { trigger, vcpu }).map(|_| ())
}
