//! What the control domain may: calls about other domains, about the machine, about physical interrupts.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::{control, println};
//!
//! if let Ok(machine) = control::physical_info() {
//!     println!("{} MiB free", machine.free_pages >> 8);
//! }
//! for domain in control::domains(64).unwrap_or_default() {
//!     println!("{} has {} pages", domain.domain, domain.tot_pages);
//! }
//! ```

use alloc::vec::Vec;

use oxen_abi::domctl::{self, Domctl, DomctlCreatedomain, DomctlGetdomaininfo};
use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::{event_channel, grant_table, memory, mmu, sysctl, version};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::hypercall::{call1, call2, call3};
use super::memory::view;
use crate::pages::{Mfn, Pfn};

mod devices;
mod saving;
mod shadows;
mod tracing;
mod vcpus;

pub use devices::{end_of_interrupt, map_interrupt_line, map_message, set_iopl, unmap_interrupt};
pub use saving::{
    CpuPolicy, cpu_policy, extended_context, extended_state, page_types, pin_tables, resume_domain, set_cpu_policy,
    set_extended_context, set_extended_state, set_tsc_info, set_vcpu_registers, tsc_info, vcpu_registers,
};
pub use shadows::{add_to_physmap, log_dirty, read_dirty, translate};
pub use tracing::{make_trace_buffers, trace, trace_info};
pub use vcpus::{send_trigger, set_vcpu_affinity, set_vcpu_context, vcpu_affinity, vcpu_context, vcpu_info};

/// Issues a command that reads and fills no memory but its structure and buffers that the caller keeps alive.
fn domctl<T: IntoBytes + Immutable>(cmd: u32, domain: DomId, command: &T) -> Result<Domctl, Errno> {
    let mut request = Domctl::new(cmd, domain, command);
    loop {
        // SAFETY: the commands issued here fill the structure, and buffers whose addresses come from live slices.
        match Errno::check(unsafe { call1::<{ Hypercall::Domctl as u32 }>((&raw mut request) as u64) }) {
            Ok(_) => return Ok(request),
            // Long work that wants to be asked again.
            Err(Errno::Again) => {
                // There is no way for this to fail.
                let _ = super::hypercall::call::sched_yield();
            }
            Err(errno) => return Err(errno),
        }
    }
}

fn plain_domctl(cmd: u32, domain: DomId) -> Result<(), Errno> {
    domctl(cmd, domain, &[0u8; 0]).map(|_| ())
}

fn sysctl<T: IntoBytes + Immutable + FromBytes>(cmd: u32, command: &T) -> Result<T, Errno> {
    let mut request = sysctl::Sysctl::new(cmd, command);
    // SAFETY: as for `domctl`.
    Errno::check(unsafe { call1::<{ Hypercall::Sysctl as u32 }>((&raw mut request) as u64) })?;
    Ok(request.get())
}

/// Makes a domain without memory or running vcpus; the hypervisor chooses its number.
///
/// # Errors
/// `EINVAL` for a request that makes no sense, `ENOMEM`, `EPERM` for all but the control domain.
pub fn create_domain(request: &DomctlCreatedomain) -> Result<DomId, Errno> {
    domctl(domctl::XEN_DOMCTL_CREATEDOMAIN, DomId(0), request).map(|answer| answer.domain)
}

/// Ends a domain and gives back what it has. Pages that others have mapped stay until they let go.
///
/// # Errors
/// `ESRCH` for no such domain.
pub fn destroy_domain(domain: DomId) -> Result<(), Errno> {
    plain_domctl(domctl::XEN_DOMCTL_DESTROYDOMAIN, domain)
}

/// Stops a domain's vcpus.
///
/// # Errors
/// `ESRCH` for no such domain.
pub fn pause_domain(domain: DomId) -> Result<(), Errno> {
    plain_domctl(domctl::XEN_DOMCTL_PAUSEDOMAIN, domain)
}

/// Lets a domain's vcpus run.
///
/// # Errors
/// `ESRCH` for no such domain, `EINVAL` for one that is not complete.
pub fn unpause_domain(domain: DomId) -> Result<(), Errno> {
    plain_domctl(domctl::XEN_DOMCTL_UNPAUSEDOMAIN, domain)
}

/// What the hypervisor knows of the first domain numbered `domain` or above.
///
/// # Errors
/// `ESRCH` where there is none.
pub fn domain_info(domain: DomId) -> Result<DomctlGetdomaininfo, Errno> {
    let zero = DomctlGetdomaininfo::new_zeroed();
    let answer = domctl(domctl::XEN_DOMCTL_GETDOMAININFO, domain, &zero)?;
    Ok(answer.get())
}

/// Limits a domain's memory to `kib`.
///
/// # Errors
/// `ESRCH` for no such domain.
pub fn set_max_memory(domain: DomId, kib: u64) -> Result<(), Errno> {
    domctl(domctl::XEN_DOMCTL_MAX_MEM, domain, &domctl::DomctlMaxMem { max_memkb: kib }).map(|_| ())
}

/// Makes a domain's vcpus, none of them up.
///
/// # Errors
/// `ESRCH` for no such domain, `EINVAL` where it has vcpus already or was created for fewer, `ENOMEM`.
pub fn set_max_vcpus(domain: DomId, count: u32) -> Result<(), Errno> {
    domctl(domctl::XEN_DOMCTL_MAX_VCPUS, domain, &domctl::DomctlMaxVcpus { max: count }).map(|_| ())
}

/// Chooses how a domain has its time stamp counter, by a `TSC_MODE_*`; an emulated one begins at zero, at the
/// machine's own rate.
///
/// # Errors
/// `ESRCH` for no such domain, `EINVAL` for no such mode.
pub fn set_tsc_mode(domain: DomId, tsc_mode: u32) -> Result<(), Errno> {
    set_tsc_info(domain, &domctl::DomctlTscInfo { tsc_mode, ..domctl::DomctlTscInfo::new_zeroed() })
}

/// Fills a page of a domain with the hypercalls' code.
///
/// # Errors
/// What the hypervisor refuses: a frame that is not that domain's.
pub fn fill_hypercall_page(domain: DomId, frame: Mfn) -> Result<(), Errno> {
    domctl(domctl::XEN_DOMCTL_HYPERCALL_INIT, domain, &domctl::DomctlHypercallInit { gmfn: frame.raw() }).map(|_| ())
}

/// Sets or reads a domain's share under the credit schedulers.
///
/// # Errors
/// What the hypervisor refuses: another scheduler.
pub fn scheduler_op(domain: DomId, command: &domctl::DomctlSchedulerOp) -> Result<domctl::DomctlSchedulerOp, Errno> {
    Ok(domctl(domctl::XEN_DOMCTL_SCHEDULER_OP, domain, command)?.get())
}

/// The machine's size.
///
/// # Errors
/// `EPERM` where this domain may not ask.
pub fn physical_info() -> Result<sysctl::SysctlPhysinfo, Errno> {
    sysctl(sysctl::XEN_SYSCTL_PHYSINFO, &sysctl::SysctlPhysinfo::new_zeroed())
}

/// Which scheduler is at work.
///
/// # Errors
/// `EPERM` where this domain may not ask.
pub fn scheduler() -> Result<u32, Errno> {
    sysctl(sysctl::XEN_SYSCTL_SCHED_ID, &sysctl::SysctlSchedId { sched_id: 0 }).map(|answer| answer.sched_id)
}

/// All domains from number 0 on, at most `most`.
///
/// # Errors
/// `EPERM` where this domain may not ask.
pub fn domains(most: usize) -> Result<Vec<DomctlGetdomaininfo>, Errno> {
    let mut list: Vec<DomctlGetdomaininfo> = Vec::new();
    list.resize_with(most, FromZeros::new_zeroed);
    let command = sysctl::SysctlGetdomaininfolist {
        first_domain: DomId(0),
        _pad0: 0,
        max_domains: u32::try_from(most).unwrap_or(u32::MAX),
        buffer: list.as_mut_ptr() as u64,
        num_domains: 0,
        _pad1: 0,
    };
    let answer = sysctl(sysctl::XEN_SYSCTL_GETDOMAININFOLIST, &command)?;
    list.truncate(answer.num_domains as usize);
    Ok(list)
}

/// Ends a period in which some pages of each domain were watched and begins the next, with about `samples` pages of
/// each, or none. Returns what was seen of up to `most` domains.
///
/// # Errors
/// `ENOSYS` or `EOPNOTSUPP` from a hypervisor that does not know it, as Xen; `EPERM` where this domain may not ask.
pub fn turn_working_sets(samples: u32, most: usize) -> Result<Vec<sysctl::WorkingSet>, Errno> {
    let mut list: Vec<sysctl::WorkingSet> = Vec::new();
    list.resize_with(most, FromZeros::new_zeroed);
    let command = sysctl::SysctlWorkingSets {
        samples,
        max_domains: u32::try_from(most).unwrap_or(u32::MAX),
        next: 0,
        buffer: list.as_mut_ptr() as u64,
    };
    let answer = sysctl(sysctl::OXEN_SYSCTL_WORKING_SETS, &command)?;
    list.truncate(answer.max_domains as usize);
    Ok(list)
}

/// The hypervisor's own messages, as far as they are kept.
///
/// # Errors
/// `EPERM` where this domain may not read them.
pub fn read_messages(clear: bool) -> Result<Vec<u8>, Errno> {
    let mut text = alloc::vec![0; 64 << 10];
    let command = sysctl::SysctlReadconsole {
        clear: clear.into(),
        buffer: text.as_mut_ptr() as u64,
        count: u32::try_from(text.len()).unwrap_or(u32::MAX),
        ..FromZeros::new_zeroed()
    };
    let answer = sysctl(sysctl::XEN_SYSCTL_READCONSOLE, &command)?;
    text.truncate(answer.count as usize);
    Ok(text)
}

/// Presses keys on the hypervisor's console.
///
/// # Errors
/// `EPERM` where this domain may not.
pub fn debug_keys(keys: &[u8]) -> Result<(), Errno> {
    let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let command = sysctl::SysctlDebugKeys { keys: keys.as_ptr() as u64, nr_keys: count, _pad0: 0 };
    sysctl(sysctl::XEN_SYSCTL_DEBUG_KEYS, &command).map(|_| ())
}

/// Gives a domain fresh frames behind `pages`; the frame behind each.
///
/// # Errors
/// How many were given, where it is not all of them.
pub fn populate_physmap(domain: DomId, pages: &[Pfn]) -> Result<Vec<Mfn>, usize> {
    let wanted = pages.len();
    // The call puts the frames in the places of the pages.
    let mut frames: Vec<Mfn> = pages.iter().map(|page| Mfn::new(page.raw())).collect();
    let request = memory::MemoryReservation {
        extent_start: frames.as_mut_ptr() as u64,
        nr_extents: wanted as u64,
        extent_order: 0,
        mem_flags: 0,
        domid: domain,
        _pad: [0; 3],
    };
    match memory_op(memory::XENMEM_POPULATE_PHYSMAP, &request) {
        Ok(done) if done as usize == wanted => Ok(frames),
        Ok(done) => Err(done as usize),
        Err(_) => Err(0),
    }
}

/// Takes frames from a domain that it has, and that nothing of its own refers to.
///
/// # Errors
/// How many were taken before one that could not be.
pub fn take_back(domain: DomId, frames: &[Mfn]) -> Result<(), usize> {
    let list: Vec<u64> = frames.iter().map(|frame| frame.raw()).collect();
    let request = memory::MemoryReservation {
        extent_start: list.as_ptr() as u64,
        nr_extents: list.len() as u64,
        extent_order: 0,
        mem_flags: 0,
        domid: domain,
        _pad: [0; 3],
    };
    match memory_op(memory::XENMEM_DECREASE_RESERVATION, &request) {
        Ok(done) if done as usize == list.len() => Ok(()),
        Ok(done) => Err(done as usize),
        Err(_) => Err(0),
    }
}

/// Tells a domain's kernel what memory it has: one range of RAM from 0 on.
///
/// # Errors
/// `ESRCH` for no such domain, `EPERM` for all but the control domain.
pub fn set_memory_map(domain: DomId, bytes: u64) -> Result<(), Errno> {
    let entry = memory::E820Entry { addr: 0, size: bytes, r#type: memory::E820_RAM };
    let request = memory::ForeignMemoryMap {
        domid: domain,
        _pad: [0; 3],
        map: memory::MemoryMap { nr_entries: 1, _pad: 0, buffer: (&raw const entry) as u64 },
    };
    memory_op(memory::XENMEM_SET_MEMORY_MAP, &request).map(|_| ())
}

fn memory_op<T>(command: u32, request: &T) -> Result<u64, Errno> {
    // SAFETY: the commands used here read their structure and read or fill the list in it, which the caller owns.
    Errno::check(unsafe {
        call2::<{ Hypercall::MemoryOp as u32 }>(command.into(), core::ptr::from_ref(request) as u64)
    })
}

/// Makes a frame of `domain` the root of page tables, for good.
///
/// # Errors
/// What the hypervisor refuses: entries that may not be.
pub fn pin_root(domain: DomId, root: Mfn) -> Result<(), Errno> {
    pin_tables(domain, &[(mmu::MMUEXT_PIN_L4_TABLE, root)])
}

/// Where a frame is in its owner's memory, whoever that is, by the machine-to-phys table: a claim, to be
/// compared with its p2m.
#[must_use]
pub fn place_of(frame: Mfn) -> Option<Pfn> {
    view::machine_to_phys(frame)
}

/// The number of frames that the machine-to-phys table covers.
#[must_use]
pub fn machine_frames() -> u64 {
    view::machine_frames()
}

/// Opens a port of `domain` that dom0 may bind to.
///
/// # Errors
/// What the hypervisor refuses: no port left.
pub fn open_port(domain: DomId) -> Result<u32, Errno> {
    let mut request = event_channel::EvtchnAllocUnbound { dom: domain, remote_dom: DomId::DOM0, port: 0 };
    super::hypercall::call::event_op::alloc_unbound(&mut request)?;
    Ok(request.port)
}

/// The first frame of a domain's grant table.
///
/// # Errors
/// `EINVAL` where the hypervisor answers a grant status other than success.
pub fn grant_table_frame(domain: DomId) -> Result<Mfn, Errno> {
    let mut frame = 0u64;
    let mut request = grant_table::GnttabSetupTable {
        dom: domain,
        _pad0: 0,
        nr_frames: 1,
        status: 0,
        _pad1: [0; 3],
        frame_list: (&raw mut frame) as u64,
    };
    // SAFETY: the call fills the structure and the one frame number.
    Errno::check(unsafe {
        call3::<{ Hypercall::GrantTableOp as u32 }>(
            grant_table::GNTTABOP_SETUP_TABLE.into(),
            (&raw mut request) as u64,
            1,
        )
    })?;
    if request.status == grant_table::GNTST_OKAY { Ok(Mfn::new(frame)) } else { Err(Errno::Inval) }
}

/// A text that the hypervisor tells of itself: one of `XENVER_EXTRAVERSION`, `_CAPABILITIES`, `_CHANGESET`,
/// `_COMMANDLINE`.
///
/// # Errors
/// `EINVAL` for any other command, and what the hypervisor refuses.
pub fn version_text(command: u32) -> Result<alloc::string::String, Errno> {
    let room = match command {
        version::XENVER_EXTRAVERSION => version::XEN_EXTRAVERSION_LEN,
        version::XENVER_CAPABILITIES => version::XEN_CAPABILITIES_INFO_LEN,
        version::XENVER_CHANGESET => version::XEN_CHANGESET_INFO_LEN,
        version::XENVER_COMMANDLINE => version::XEN_COMMANDLINE_LEN,
        _ => return Err(Errno::Inval),
    };
    let mut text = alloc::vec![0u8; room];
    // SAFETY: the command fills as many bytes as the header says, which is the buffer's size.
    Errno::check(unsafe { call2::<{ Hypercall::XenVersion as u32 }>(command.into(), text.as_mut_ptr() as u64) })?;
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    text.truncate(end);
    Ok(alloc::string::String::from_utf8_lossy(&text).into())
}
