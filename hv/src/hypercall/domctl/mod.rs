//! `domctl`: what the control domain does to other domains.

mod absent;
mod affinity;
mod life;
mod policy;
mod rights;
mod state;
mod time;
mod vcpu;

use crate::{
    caller::Caller,
    domain::{Domain, vcpu::Vcpu},
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Control, Reply, Stop},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    domctl::{
        Domctl, XEN_DOMCTL_CREATEDOMAIN, XEN_DOMCTL_DESTROYDOMAIN, XEN_DOMCTL_GET_ADDRESS_SIZE,
        XEN_DOMCTL_GET_CPU_POLICY, XEN_DOMCTL_GET_EXT_VCPUCONTEXT, XEN_DOMCTL_GET_VCPU_MSRS, XEN_DOMCTL_GETDOMAININFO,
        XEN_DOMCTL_GETNODEAFFINITY, XEN_DOMCTL_GETPAGEFRAMEINFO3, XEN_DOMCTL_GETTSCINFO, XEN_DOMCTL_GETVCPUAFFINITY,
        XEN_DOMCTL_GETVCPUCONTEXT, XEN_DOMCTL_GETVCPUEXTSTATE, XEN_DOMCTL_GETVCPUINFO, XEN_DOMCTL_HYPERCALL_INIT,
        XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_IOMEM_PERMISSION, XEN_DOMCTL_IOPORT_PERMISSION,
        XEN_DOMCTL_IRQ_PERMISSION, XEN_DOMCTL_MAX_MEM, XEN_DOMCTL_MAX_VCPUS, XEN_DOMCTL_MEMORY_MAPPING,
        XEN_DOMCTL_MONITOR_OP, XEN_DOMCTL_PAUSEDOMAIN, XEN_DOMCTL_RESUMEDOMAIN, XEN_DOMCTL_SCHEDULER_OP,
        XEN_DOMCTL_SENDTRIGGER, XEN_DOMCTL_SET_ACCESS_REQUIRED, XEN_DOMCTL_SET_ADDRESS_SIZE, XEN_DOMCTL_SET_CPU_POLICY,
        XEN_DOMCTL_SET_EXT_VCPUCONTEXT, XEN_DOMCTL_SET_TARGET, XEN_DOMCTL_SET_VCPU_MSRS, XEN_DOMCTL_SET_VIRQ_HANDLER,
        XEN_DOMCTL_SETDEBUGGING, XEN_DOMCTL_SETDOMAINHANDLE, XEN_DOMCTL_SETNODEAFFINITY, XEN_DOMCTL_SETTIMEOFFSET,
        XEN_DOMCTL_SETTSCINFO, XEN_DOMCTL_SETVCPUAFFINITY, XEN_DOMCTL_SETVCPUCONTEXT, XEN_DOMCTL_SETVCPUEXTSTATE,
        XEN_DOMCTL_SUBSCRIBE, XEN_DOMCTL_UNPAUSEDOMAIN, XEN_DOMCTL_VM_EVENT_OP, XenctlBitmap,
    },
    domid::DomId,
    errno::Errno,
};

/// Whether the request is copied back to the caller, with what was answered in it.
enum Answer {
    /// Nothing is.
    Done,
    /// All of it is.
    CopyBack,
    /// All of it is, and the command has failed nevertheless.
    CopyBackAnd(Errno),
}

/// What a command answers.
type Outcome = Result<Answer, Stop>;

/// `domctl(request)`.
///
/// # Errors
/// `Fault` for an unreadable request, `Acces` for another version of the interface, `Srch` for a domain that there is not,
/// `Perm` for everybody but the control domain, `NoSys` for what there is not, and the commands' own.
#[inline]
pub fn domctl<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let request = GuestPtr::<Domctl>::one(args[0])?;
    let mut op = request.read(caller.hv.machine(), 0)?;
    if op.interface_version != XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Errno::Acces.into());
    }
    let done = match op.cmd {
        XEN_DOMCTL_CREATEDOMAIN => life::create(caller, caller.control()?, &mut op),
        XEN_DOMCTL_GETDOMAININFO => get_domain_info(caller, caller.control()?, &mut op),
        command if op.domain == DomId::IO && absent::is_about_device(command) => {
            caller.control()?;
            Err(absent::refusal(&op).into())
        }
        _ => {
            let domain = caller.hv.domains.get(op.domain).ok_or(Errno::Srch)?;
            let control = caller.control()?;
            on_domain(caller, control, &domain, &mut op)
        }
    };
    match done? {
        Answer::Done => {}
        Answer::CopyBack => request.write(caller.hv.machine(), 0, &op)?,
        Answer::CopyBackAnd(error) => {
            request.write(caller.hv.machine(), 0, &op)?;
            return Err(error.into());
        }
    }
    Ok(0)
}

fn on_domain<M: Machine>(
    caller: &mut Caller<'_, M>,
    control: Control,
    domain: &Arc<Domain>,
    op: &mut Domctl,
) -> Outcome {
    match op.cmd {
        XEN_DOMCTL_DESTROYDOMAIN => life::destroy(caller, control, domain),
        XEN_DOMCTL_PAUSEDOMAIN => life::pause(caller, control, domain),
        XEN_DOMCTL_UNPAUSEDOMAIN => life::unpause(caller, control, domain),
        XEN_DOMCTL_RESUMEDOMAIN => life::resume(caller, control, domain),
        XEN_DOMCTL_MAX_VCPUS => life::make_vcpus(caller, control, domain, op.get()),
        XEN_DOMCTL_MAX_MEM => life::limit_memory(control, domain, op.get()),
        XEN_DOMCTL_SETDOMAINHANDLE => life::set_handle(control, domain, op.get()),
        XEN_DOMCTL_SUBSCRIBE => life::subscribe(control, domain, op.get()),
        XEN_DOMCTL_SETTIMEOFFSET => time::set_offset(caller, control, domain, op.get()),
        XEN_DOMCTL_SETTSCINFO => time::set_tsc(caller, control, domain, op.get()),
        XEN_DOMCTL_GETTSCINFO => time::get_tsc(caller, control, domain, op),
        XEN_DOMCTL_SET_ADDRESS_SIZE => life::set_address_size(control, op.get()),
        XEN_DOMCTL_GET_ADDRESS_SIZE => life::get_address_size(control, op),
        XEN_DOMCTL_GET_CPU_POLICY => policy::get(caller, control, op),
        XEN_DOMCTL_SET_CPU_POLICY => policy::set(caller, control, domain, op),
        XEN_DOMCTL_HYPERCALL_INIT => life::fill_hypercall_page(caller, control, domain, op.get()),
        XEN_DOMCTL_GETPAGEFRAMEINFO3 => life::page_types(caller, control, domain, op.get()),
        _ => on_vcpus(caller, control, domain, op),
    }
}

/// What is about a domain's vcpus, its rights, and what is not built.
fn on_vcpus<M: Machine>(
    caller: &mut Caller<'_, M>,
    control: Control,
    domain: &Arc<Domain>,
    op: &mut Domctl,
) -> Outcome {
    match op.cmd {
        XEN_DOMCTL_SETVCPUCONTEXT => vcpu::set_context(caller, control, domain, op.get()),
        XEN_DOMCTL_GETVCPUCONTEXT => vcpu::get_context(caller, control, domain, op.get()),
        XEN_DOMCTL_GETVCPUINFO => vcpu::get_info(caller, control, domain, op),
        XEN_DOMCTL_SETVCPUAFFINITY => affinity::set(caller, control, domain, op.get()),
        XEN_DOMCTL_GETVCPUAFFINITY => affinity::get(caller, control, domain, op.get()),
        XEN_DOMCTL_SCHEDULER_OP => affinity::share(caller, control, domain, op),
        XEN_DOMCTL_SET_EXT_VCPUCONTEXT => state::set_callbacks(caller, control, domain, op.get()),
        XEN_DOMCTL_GET_EXT_VCPUCONTEXT => state::get_callbacks(caller, control, domain, op),
        XEN_DOMCTL_SETVCPUEXTSTATE => state::set_extended(caller, control, domain, op.get()),
        XEN_DOMCTL_GETVCPUEXTSTATE => state::get_extended(caller, control, domain, op),
        XEN_DOMCTL_SET_VCPU_MSRS => state::set_registers(caller, control, domain, op),
        XEN_DOMCTL_GET_VCPU_MSRS => state::get_registers(caller, control, domain, op),
        XEN_DOMCTL_SETNODEAFFINITY => rights::set_nodes(caller, control, domain, op.get()),
        XEN_DOMCTL_GETNODEAFFINITY => rights::get_nodes(caller, control, domain, op.get()),
        XEN_DOMCTL_IRQ_PERMISSION => rights::interrupt(caller, control, domain, op.get()),
        XEN_DOMCTL_IOMEM_PERMISSION => rights::memory(caller, control, domain, op.get()),
        XEN_DOMCTL_IOPORT_PERMISSION => rights::ports(caller, control, domain, op.get()),
        XEN_DOMCTL_MEMORY_MAPPING => absent::map_memory(caller, control, domain, op.get()),
        XEN_DOMCTL_SET_TARGET => absent::set_target(caller, control, DomId(op.get())),
        XEN_DOMCTL_SET_VIRQ_HANDLER => life::handle_virq(caller, control, domain, op.get()),
        XEN_DOMCTL_MONITOR_OP => absent::monitor(caller, control, domain, op),
        XEN_DOMCTL_VM_EVENT_OP => absent::vm_event(caller, control, domain, op),
        XEN_DOMCTL_SENDTRIGGER => absent::trigger(caller, control, domain, op.get()),
        XEN_DOMCTL_SET_ACCESS_REQUIRED => absent::require_listener(caller, control, domain),
        XEN_DOMCTL_SETDEBUGGING => absent::set_debugging(caller, control, domain, op.get()),
        _ => Err(absent::refusal(op).into()),
    }
}

/// Answers for the first domain whose id is not below the one asked for.
fn get_domain_info<M: Machine>(caller: &Caller<'_, M>, _: Control, op: &mut Domctl) -> Outcome {
    if !op.domain.is_real() {
        return Err(Errno::Inval.into());
    }
    let domain = caller.hv.domains.next_from(op.domain).ok_or(Errno::Srch)?;
    op.domain = domain.id;
    op.set(&caller.hv.domain_info(&domain));
    Ok(Answer::CopyBack)
}

/// Another domain than the caller's own: what cannot be done to the domain that does it.
fn other_than_self<M: Machine>(caller: &Caller<'_, M>, domain: &Domain) -> Result<(), Errno> {
    if domain.id == caller.domain.id { Err(Errno::Inval) } else { Ok(()) }
}

/// A vcpu of the domain.
fn find(domain: &Domain, id: u32) -> Result<&Arc<Vcpu>, Errno> {
    if id >= domain.max_vcpus.load(Ordering::Relaxed) {
        return Err(Errno::Inval);
    }
    domain.vcpu(id).ok_or(Errno::Srch)
}

/// Bits of a caller's bitmap, as far as it has any; the rest is zero.
pub(super) fn read_bitmap<M: Machine>(caller: &Caller<'_, M>, bitmap: &XenctlBitmap) -> Result<u64, Errno> {
    let bytes = bitmap.nr_bits.div_ceil(8).min(8);
    let mut word = [0; 8];
    if let Some(known) = word.get_mut(..bytes as usize) {
        GuestPtr::<u8>::new(bitmap.bitmap, bytes.into())?.read_many(caller.hv.machine(), 0, known)?;
    }
    let mask = 1_u64.checked_shl(bitmap.nr_bits).map_or(u64::MAX, |bit| bit - 1);
    Ok(u64::from_le_bytes(word) & mask)
}

/// Writes a caller's bitmap, all the bytes it has room for.
pub(super) fn write_bitmap<M: Machine>(caller: &Caller<'_, M>, bitmap: &XenctlBitmap, bits: u64) -> Result<(), Errno> {
    /// No caller needs room for more processors.
    const MAX_BYTES: u32 = 1024;
    let bytes = bitmap.nr_bits.div_ceil(8).min(MAX_BYTES);
    let map = GuestPtr::<u8>::new(bitmap.bitmap, bytes.into())?;
    let known = bits.to_le_bytes().into_iter().chain(core::iter::repeat(0));
    (0..u64::from(bytes)).zip(known).try_for_each(|(i, byte)| map.write(caller.hv.machine(), i, &byte))
}
