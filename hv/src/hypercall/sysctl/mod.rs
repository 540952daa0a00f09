//! `sysctl`: what the control domain asks of the whole system.

mod machine;
mod policy;

use super::domctl::write_bitmap;
use crate::{
    caller::{Args, Caller, Control, Refusal, Reply},
    domain::{info, teardown},
    keys,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
};
use oxen_abi::{
    domctl::{DomctlGetdomaininfo, XEN_SCHEDULER_CREDIT},
    domid::DomId,
    errno::Errno,
    sysctl::{
        Sysctl, SysctlCpupoolOp, SysctlCreditSchedule, SysctlDebugKeys, SysctlGetdomaininfolist, SysctlReadconsole,
        SysctlSchedId, SysctlSchedulerOp, XEN_SYSCTL_AVAILHEAP, XEN_SYSCTL_CPUPOOL_OP, XEN_SYSCTL_CPUPOOL_OP_FREEINFO,
        XEN_SYSCTL_CPUPOOL_OP_INFO, XEN_SYSCTL_CPUPOOL_PAR_ANY, XEN_SYSCTL_CPUTOPOINFO, XEN_SYSCTL_DEBUG_KEYS,
        XEN_SYSCTL_GET_CPU_FEATURESET, XEN_SYSCTL_GET_CPU_POLICY, XEN_SYSCTL_GETCPUINFO, XEN_SYSCTL_GETDOMAININFOLIST,
        XEN_SYSCTL_INTERFACE_VERSION, XEN_SYSCTL_NUMAINFO, XEN_SYSCTL_PHYSINFO, XEN_SYSCTL_READCONSOLE,
        XEN_SYSCTL_SCHED_ID, XEN_SYSCTL_SCHEDOP_GETINFO, XEN_SYSCTL_SCHEDULER_OP,
    },
};

/// Keys that one call can press.
const MAX_KEYS: u32 = 32;

/// `sysctl(request)`.
///
/// # Errors
/// `Fault` for an unreadable request, `Acces` for another version of the interface, `Perm` for everybody but the control
/// domain, `NoSys` for what is not built, and the commands' own.
#[inline]
pub fn sysctl<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let request = GuestPtr::<Sysctl>::one(args[0])?;
    let mut op = request.read(&caller.hv.machine, 0)?;
    if op.interface_version != XEN_SYSCTL_INTERFACE_VERSION {
        return Err(Errno::Acces.into());
    }
    let control = caller.control()?;
    answer(caller, control, &mut op)?;
    request.write(&caller.hv.machine, 0, &op)?;
    Ok(0)
}

/// Fills in what is answered in the request itself.
fn answer<M: Machine>(caller: &Caller<'_, M>, control: Control, op: &mut Sysctl) -> Result<(), Refusal> {
    match op.cmd {
        XEN_SYSCTL_READCONSOLE => read_console(caller, control, op)?,
        XEN_SYSCTL_DEBUG_KEYS => press_keys(caller, control, op.get())?,
        XEN_SYSCTL_GETDOMAININFOLIST => list_domains(caller, control, op)?,
        XEN_SYSCTL_SCHED_ID => op.set(&SysctlSchedId { sched_id: XEN_SCHEDULER_CREDIT }),
        XEN_SYSCTL_SCHEDULER_OP => scheduler(control, op)?,
        XEN_SYSCTL_CPUPOOL_OP => pool(caller, control, op)?,
        XEN_SYSCTL_PHYSINFO => op.set(&machine::size(caller, control)),
        XEN_SYSCTL_GETCPUINFO => machine::idle_times(caller, control, op)?,
        XEN_SYSCTL_AVAILHEAP => machine::free_memory(caller, control, op)?,
        XEN_SYSCTL_CPUTOPOINFO => machine::processors(caller, control, op)?,
        XEN_SYSCTL_NUMAINFO => machine::nodes(caller, control, op)?,
        XEN_SYSCTL_GET_CPU_POLICY => policy::leaves(caller, control, op)?,
        XEN_SYSCTL_GET_CPU_FEATURESET => policy::features(caller, control, op)?,
        _ => return Err(Errno::NoSys.into()),
    }
    Ok(())
}

/// Copies the log out in small pieces.
fn read_console<M: Machine>(caller: &Caller<'_, M>, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
    let request: SysctlReadconsole = op.get();
    let console = &caller.hv.console;
    let buffer = GuestPtr::<u8>::new(request.buffer, request.count.into())?;
    let mut next = if request.incremental != 0 { request.index.into() } else { 0 };
    let mut done = 0_u32;
    let mut piece = [0; 256];
    while done < request.count {
        let room = piece.len().min((request.count - done) as usize);
        let Some(piece) = piece.get_mut(..room) else { break };
        let (count, end) = console.read_log(next, piece);
        let Some(filled) = piece.get(..count).filter(|p| !p.is_empty()) else { break };
        buffer.write_many(&caller.hv.machine, done.into(), filled)?;
        next = end;
        done += count as u32;
    }
    if request.clear != 0 {
        console.clear_log();
    }
    op.set(&SysctlReadconsole { index: next as u32, count: done, ..request });
    Ok(())
}

fn press_keys<M: Machine>(caller: &Caller<'_, M>, _: Control, request: SysctlDebugKeys) -> Result<(), Errno> {
    let count = request.nr_keys.min(MAX_KEYS);
    let keys = GuestPtr::<u8>::new(request.keys, count.into())?;
    for index in 0..count.into() {
        keys::handle(caller.hv, keys.read(&caller.hv.machine, index)?);
    }
    Ok(())
}

fn list_domains<M: Machine>(caller: &Caller<'_, M>, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
    let request: SysctlGetdomaininfolist = op.get();
    let hv = caller.hv;
    teardown::bury_the_dead(hv);
    let list = GuestPtr::<DomctlGetdomaininfo>::new(request.buffer, request.max_domains.into())?;
    let mut from = request.first_domain;
    let mut count = 0_u32;
    while count < request.max_domains {
        let Some(domain) = hv.domains.next_from(from) else { break };
        list.write(&hv.machine, count.into(), &info::of(hv, &domain))?;
        from = DomId(domain.id.0 + 1);
        count += 1;
    }
    op.set(&SysctlGetdomaininfolist { num_domains: count, ..request });
    Ok(())
}

/// The credit scheduler's knobs are fixed, and told.
fn scheduler(_: Control, op: &mut Sysctl) -> Result<(), Errno> {
    use crate::sched::run_queue::{RATE_LIMIT, SLICE};
    let request: SysctlSchedulerOp = op.get();
    if request.sched_id != XEN_SCHEDULER_CREDIT || request.cpupool_id != 0 {
        return Err(Errno::Inval);
    }
    if request.cmd != XEN_SYSCTL_SCHEDOP_GETINFO {
        return Err(Errno::OpNotSupp);
    }
    let sched_credit = SysctlCreditSchedule {
        tslice_ms: (SLICE / 1_000_000) as u32,
        ratelimit_us: (RATE_LIMIT / 1_000) as u32,
        vcpu_migr_delay_us: 0,
    };
    op.set(&SysctlSchedulerOp { sched_credit, ..request });
    Ok(())
}

/// There is one pool, with every processor and every domain.
fn pool<M: Machine>(caller: &Caller<'_, M>, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
    let request: SysctlCpupoolOp = op.get();
    let hv = caller.hv;
    match request.op {
        XEN_SYSCTL_CPUPOOL_OP_INFO => {
            if request.cpupool_id != 0 && request.cpupool_id != XEN_SYSCTL_CPUPOOL_PAR_ANY {
                return Err(Errno::NoEnt);
            }
            let processors = hv.online_cpus().fold(0, |mask, cpu| mask | 1 << cpu.0);
            write_bitmap(caller, &request.cpumap, processors)?;
            let n_dom = hv.domains.count() as u32;
            op.set(&SysctlCpupoolOp { cpupool_id: 0, sched_id: XEN_SCHEDULER_CREDIT, n_dom, ..request });
            Ok(())
        }
        XEN_SYSCTL_CPUPOOL_OP_FREEINFO => write_bitmap(caller, &request.cpumap, 0),
        _ => Err(Errno::OpNotSupp),
    }
}
