//! Calls with which a stopped domain is read whole, and another one filled like it.

use alloc::{boxed::Box, vec, vec::Vec};

use oxen_abi::domctl::{
    CpuidLeaf, DomctlCpuPolicy, DomctlExtVcpucontext, DomctlGetpageframeinfo3, DomctlTscInfo, DomctlVcpuMsr,
    DomctlVcpuMsrs, DomctlVcpuextstate, MsrEntry, XEN_DOMCTL_GET_CPU_POLICY, XEN_DOMCTL_GET_EXT_VCPUCONTEXT,
    XEN_DOMCTL_GET_VCPU_MSRS, XEN_DOMCTL_GETPAGEFRAMEINFO3, XEN_DOMCTL_GETTSCINFO, XEN_DOMCTL_GETVCPUEXTSTATE,
    XEN_DOMCTL_RESUMEDOMAIN, XEN_DOMCTL_SET_CPU_POLICY, XEN_DOMCTL_SET_EXT_VCPUCONTEXT, XEN_DOMCTL_SET_VCPU_MSRS,
    XEN_DOMCTL_SETTSCINFO, XEN_DOMCTL_SETVCPUEXTSTATE,
};
use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::mmu::MmuextOp;
use zerocopy::{FromZeros, IntoBytes};

use super::{domctl, plain_domctl};
use crate::pages::Mfn;
use crate::raw::memory::tables;

/// The kinds of a domain's frames, as `XEN_DOMCTL_PFINFO_*`.
///
/// # Errors
/// `ESRCH` for no such domain.
pub fn page_types(domain: DomId, frames: &[Mfn]) -> Result<Vec<u64>, Errno> {
    // The call puts the kinds in the places of the frames.
    let mut words: Vec<u64> = frames.iter().map(|frame| frame.raw()).collect();
    let command = DomctlGetpageframeinfo3 { num: words.len() as u64, array: words.as_mut_ptr() as u64 };
    domctl(XEN_DOMCTL_GETPAGEFRAMEINFO3, domain, &command).map(|_| words)
}

/// Makes frames of a domain page tables for good: each with its command, an `MMUEXT_PIN_*`.
///
/// # Errors
/// What the hypervisor refuses: entries that may not be.
pub fn pin_tables(domain: DomId, tables: &[(u32, Mfn)]) -> Result<(), Errno> {
    let ops: Vec<MmuextOp> =
        tables.iter().map(|&(cmd, frame)| MmuextOp { cmd, _pad: 0, arg1: frame.raw(), arg2: 0 }).collect();
    // SAFETY: the tables are another domain's.
    unsafe { tables::mmuext_op(&ops, domain) }.map_err(|(_, errno)| errno)
}

/// Lets a domain that has suspended itself go on.
///
/// # Errors
/// `ESRCH` for no such domain.
pub fn resume_domain(domain: DomId) -> Result<(), Errno> {
    plain_domctl(XEN_DOMCTL_RESUMEDOMAIN, domain)
}

/// A vcpu's callbacks that are in no context.
///
/// # Errors
/// `ESRCH` for no such domain, `EINVAL` for no such vcpu.
pub fn extended_context(domain: DomId, vcpu: u32) -> Result<DomctlExtVcpucontext, Errno> {
    let size = size_of::<DomctlExtVcpucontext>() as u32;
    let command = DomctlExtVcpucontext { vcpu, size, ..FromZeros::new_zeroed() };
    Ok(domctl(XEN_DOMCTL_GET_EXT_VCPUCONTEXT, domain, &command)?.get())
}

/// Sets them.
///
/// # Errors
/// As [`extended_context`]; `EINVAL` for addresses that no guest may have.
pub fn set_extended_context(domain: DomId, context: &DomctlExtVcpucontext) -> Result<(), Errno> {
    domctl(XEN_DOMCTL_SET_EXT_VCPUCONTEXT, domain, context).map(|_| ())
}

/// A vcpu's extended registers: XCR0, all that it ever was, and an area of XSAVE. Empty where it has none.
///
/// # Errors
/// `ESRCH` for no such domain, `EINVAL` for no such vcpu.
pub fn extended_state(domain: DomId, vcpu: u32) -> Result<Vec<u8>, Errno> {
    let command = DomctlVcpuextstate { vcpu, ..FromZeros::new_zeroed() };
    let told: DomctlVcpuextstate = domctl(XEN_DOMCTL_GETVCPUEXTSTATE, domain, &command)?.get();
    let DomctlVcpuextstate { size, .. } = told;
    let mut state = vec![0; usize::try_from(size).map_err(|_| Errno::NoBufs)?];
    if !state.is_empty() {
        let command = DomctlVcpuextstate { buffer: state.as_mut_ptr() as u64, ..told };
        domctl(XEN_DOMCTL_GETVCPUEXTSTATE, domain, &command)?;
    }
    Ok(state)
}

/// Sets them.
///
/// # Errors
/// As [`extended_state`]; `EINVAL` for registers that this machine or the domain does not have.
pub fn set_extended_state(domain: DomId, vcpu: u32, state: &[u8]) -> Result<(), Errno> {
    let (size, buffer) = (state.len() as u64, state.as_ptr() as u64);
    let command = DomctlVcpuextstate { vcpu, size, buffer, ..FromZeros::new_zeroed() };
    domctl(XEN_DOMCTL_SETVCPUEXTSTATE, domain, &command).map(|_| ())
}

/// A vcpu's model-specific registers that are not zero.
///
/// # Errors
/// `ESRCH` for no such domain, `EINVAL` for no such vcpu.
pub fn vcpu_registers(domain: DomId, vcpu: u32) -> Result<Vec<DomctlVcpuMsr>, Errno> {
    let ask = |room: &mut [DomctlVcpuMsr]| {
        let msrs = if room.is_empty() { 0 } else { room.as_mut_ptr() as u64 };
        let command = DomctlVcpuMsrs { vcpu, msr_count: room.len() as u32, msrs };
        let answer: DomctlVcpuMsrs = domctl(XEN_DOMCTL_GET_VCPU_MSRS, domain, &command)?.get();
        Ok::<_, Errno>(answer.msr_count as usize)
    };
    let mut registers = vec![DomctlVcpuMsr::new_zeroed(); ask(&mut [])?];
    if !registers.is_empty() {
        let count = ask(&mut registers)?;
        registers.truncate(count);
    }
    Ok(registers)
}

/// Sets some of them.
///
/// # Errors
/// As [`vcpu_registers`]; `EINVAL` for registers that there are not.
pub fn set_vcpu_registers(domain: DomId, vcpu: u32, registers: &[DomctlVcpuMsr]) -> Result<(), Errno> {
    let (msr_count, msrs) = (registers.len() as u32, registers.as_ptr() as u64);
    domctl(XEN_DOMCTL_SET_VCPU_MSRS, domain, &DomctlVcpuMsrs { vcpu, msr_count, msrs }).map(|_| ())
}

/// How a domain has its time stamp counter, and for how long.
///
/// # Errors
/// `ESRCH` for no such domain.
pub fn tsc_info(domain: DomId) -> Result<DomctlTscInfo, Errno> {
    Ok(domctl(XEN_DOMCTL_GETTSCINFO, domain, &DomctlTscInfo::new_zeroed())?.get())
}

/// Sets that.
///
/// # Errors
/// `ESRCH` for no such domain, `EINVAL` for no such mode.
pub fn set_tsc_info(domain: DomId, info: &DomctlTscInfo) -> Result<(), Errno> {
    domctl(XEN_DOMCTL_SETTSCINFO, domain, info).map(|_| ())
}

/// What a domain sees of the processor: leaves of CPUID and model-specific registers, as bytes.
#[derive(Debug)]
pub struct CpuPolicy {
    /// [`CpuidLeaf`]s.
    pub leaves: Box<[u8]>,
    /// [`MsrEntry`]s.
    pub registers: Box<[u8]>,
}

/// What a domain sees of the processor.
///
/// # Errors
/// `ESRCH` for no such domain.
pub fn cpu_policy(domain: DomId) -> Result<CpuPolicy, Errno> {
    /// More of either than any processor has.
    const ROOM: usize = 512;
    let mut leaves = vec![CpuidLeaf::new_zeroed(); ROOM];
    let mut registers = vec![MsrEntry::new_zeroed(); ROOM];
    let command = DomctlCpuPolicy {
        nr_leaves: ROOM as u32,
        nr_msrs: ROOM as u32,
        leaves: leaves.as_mut_ptr() as u64,
        msrs: registers.as_mut_ptr() as u64,
        ..FromZeros::new_zeroed()
    };
    let told: DomctlCpuPolicy = domctl(XEN_DOMCTL_GET_CPU_POLICY, domain, &command)?.get();
    leaves.truncate(told.nr_leaves as usize);
    registers.truncate(told.nr_msrs as usize);
    Ok(CpuPolicy { leaves: leaves.as_bytes().into(), registers: registers.as_bytes().into() })
}

/// Sets that, before the domain runs. Bytes that are no whole entry are left out.
///
/// # Errors
/// `ESRCH` for no such domain, `EBUSY` for one that has run, `EINVAL` or `ENODEV` for what this machine cannot show.
pub fn set_cpu_policy(domain: DomId, policy: &CpuPolicy) -> Result<(), Errno> {
    let command = DomctlCpuPolicy {
        nr_leaves: (policy.leaves.len() / size_of::<CpuidLeaf>()) as u32,
        nr_msrs: (policy.registers.len() / size_of::<MsrEntry>()) as u32,
        leaves: policy.leaves.as_ptr() as u64,
        msrs: policy.registers.as_ptr() as u64,
        ..FromZeros::new_zeroed()
    };
    domctl(XEN_DOMCTL_SET_CPU_POLICY, domain, &command).map(|_| ())
}
