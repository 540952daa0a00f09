//! `sysctl`: what the control domain asks of the whole system.

mod host;
mod machine;
pub(super) mod policy;
mod pools;
mod power;
mod tracing;
mod working_sets;

use super::number::{self, index, uint};
use crate::{
    caller::Caller,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Control, Reply, Stop},
};
use oxen_abi::{
    domctl::{DomctlGetdomaininfo, XEN_SCHEDULER_CREDIT},
    errno::Errno,
    sysctl::{
        OXEN_SYSCTL_WORKING_SETS, Sysctl, SysctlDebugKeys, SysctlGetdomaininfolist, SysctlReadconsole, SysctlSchedId,
        XEN_SYSCTL_AVAILHEAP, XEN_SYSCTL_COVERAGE_OP, XEN_SYSCTL_CPU_HOTPLUG, XEN_SYSCTL_CPUPOOL_OP,
        XEN_SYSCTL_CPUTOPOINFO, XEN_SYSCTL_DEBUG_KEYS, XEN_SYSCTL_GET_CPU_FEATURESET,
        XEN_SYSCTL_GET_CPU_LEVELLING_CAPS, XEN_SYSCTL_GET_CPU_POLICY, XEN_SYSCTL_GET_PMSTAT, XEN_SYSCTL_GETCPUINFO,
        XEN_SYSCTL_GETDOMAININFOLIST, XEN_SYSCTL_INTERFACE_VERSION, XEN_SYSCTL_LIVEPATCH_OP, XEN_SYSCTL_NUMAINFO,
        XEN_SYSCTL_PAGE_OFFLINE_OP, XEN_SYSCTL_PCITOPOINFO, XEN_SYSCTL_PHYSINFO, XEN_SYSCTL_PM_OP,
        XEN_SYSCTL_PSR_ALLOC, XEN_SYSCTL_PSR_CMT_OP, XEN_SYSCTL_READCONSOLE, XEN_SYSCTL_SCHED_ID,
        XEN_SYSCTL_SCHEDULER_OP, XEN_SYSCTL_TBUF_OP,
    },
};

/// Keys that one call can press.
const MAX_KEYS: u32 = 32;

impl<M: Machine> Caller<'_, M> {
    /// `sysctl(request)`.
    ///
    /// # Errors
    /// `Fault` for an unreadable request, `Acces` for another version of the interface, `Perm` for everybody but the
    /// control domain, `NoSys` for what is not built, and the commands' own.
    #[inline]
    pub fn sysctl(&mut self, args: &mut Args) -> Reply {
        let request = GuestPtr::<Sysctl>::one(args[0])?;
        let mut op = request.read(self.hv.machine(), 0)?;
        if op.interface_version != XEN_SYSCTL_INTERFACE_VERSION {
            return Err(Errno::Acces.into());
        }
        let control = self.control()?;
        let done = self.answer_sysctl(control, &mut op);
        // What is gone on with has in the request how far it has come.
        if matches!(done, Ok(()) | Err(Stop::Unfinished)) {
            request.write(self.hv.machine(), 0, &op)?;
        }
        done.map(|()| 0)
    }

    /// Fills in what is answered in the request itself.
    fn answer_sysctl(&self, control: Control, op: &mut Sysctl) -> Result<(), Stop> {
        match op.cmd {
            XEN_SYSCTL_READCONSOLE => self.read_console_ring(control, op)?,
            XEN_SYSCTL_DEBUG_KEYS => self.press_debug_keys(control, op.get())?,
            XEN_SYSCTL_GETDOMAININFOLIST => self.list_domains(control, op)?,
            XEN_SYSCTL_TBUF_OP => self.trace_buffer_op(control, op)?,
            XEN_SYSCTL_GET_PMSTAT => self.get_power_statistics(control, op)?,
            XEN_SYSCTL_CPU_HOTPLUG => self.cpu_hotplug(control, op.get())?,
            XEN_SYSCTL_PM_OP => self.power_management_op(control, op)?,
            XEN_SYSCTL_PAGE_OFFLINE_OP => self.offline_pages(control, op.get())?,
            XEN_SYSCTL_PCITOPOINFO => self.get_device_nodes(control, op)?,
            XEN_SYSCTL_LIVEPATCH_OP => self.livepatch_op(control, op)?,
            XEN_SYSCTL_PSR_CMT_OP => return Err(host::allocation(true, op.get()).into()),
            XEN_SYSCTL_PSR_ALLOC => return Err(host::allocation(false, op.get()).into()),
            XEN_SYSCTL_COVERAGE_OP => return Err(Errno::OpNotSupp.into()),
            // No leaf of CPUID can be changed for who asks the CPU itself.
            XEN_SYSCTL_GET_CPU_LEVELLING_CAPS => op.set(&0_u32),
            XEN_SYSCTL_SCHED_ID => op.set(&SysctlSchedId { sched_id: XEN_SCHEDULER_CREDIT }),
            XEN_SYSCTL_SCHEDULER_OP => self.sysctl_scheduler_op(control, op)?,
            XEN_SYSCTL_CPUPOOL_OP => self.cpupool_op(control, op)?,
            XEN_SYSCTL_PHYSINFO => op.set(&self.get_physical_info(control)),
            XEN_SYSCTL_GETCPUINFO => self.get_idle_times(control, op)?,
            XEN_SYSCTL_AVAILHEAP => self.get_free_memory(control, op)?,
            XEN_SYSCTL_CPUTOPOINFO => self.get_processor_topology(control, op)?,
            XEN_SYSCTL_NUMAINFO => self.get_node_info(control, op)?,
            XEN_SYSCTL_GET_CPU_POLICY => self.get_policy_leaves(control, op)?,
            XEN_SYSCTL_GET_CPU_FEATURESET => self.get_featureset(control, op)?,
            OXEN_SYSCTL_WORKING_SETS => {
                let mut sets = op.get();
                let done = self.watch_working_sets(control, &mut sets);
                op.set(&sets);
                done?;
            }
            _ => return Err(Errno::NoSys.into()),
        }
        Ok(())
    }

    /// Copies the log out in small pieces.
    fn read_console_ring(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        let request: SysctlReadconsole = op.get();
        let console = &self.hv.console;
        let buffer = GuestPtr::<u8>::new(request.buffer, request.count.into())?;
        let mut next = if request.incremental != 0 { request.index.into() } else { 0 };
        let mut done = 0_u32;
        let mut piece = [0; 256];
        while done < request.count {
            let room = piece.len().min(index(request.count.wrapping_sub(done)));
            let Some(piece) = piece.get_mut(..room) else { break };
            let (count, end) = console.read_log(next, piece);
            let Some(filled) = piece.get(..count).filter(|p| !p.is_empty()) else { break };
            buffer.write_many(self.hv.machine(), done.into(), filled)?;
            next = end;
            done = done.wrapping_add(number::count(count));
        }
        if request.clear != 0 {
            console.clear_log();
        }
        op.set(&SysctlReadconsole { index: uint(next), count: done, ..request });
        Ok(())
    }

    fn press_debug_keys(&self, _: Control, request: SysctlDebugKeys) -> Result<(), Errno> {
        let count = request.nr_keys.min(MAX_KEYS);
        let keys = GuestPtr::<u8>::new(request.keys, count.into())?;
        for index in 0..count.into() {
            self.hv.handle_key(keys.read(self.hv.machine(), index)?);
        }
        Ok(())
    }

    fn list_domains(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        let request: SysctlGetdomaininfolist = op.get();
        let hv = self.hv;
        hv.reap_dead_domains();
        let list = GuestPtr::<DomctlGetdomaininfo>::new(request.buffer, request.max_domains.into())?;
        let mut count = 0_u32;
        for domain in hv.domains.from(request.first_domain).take(number::index(request.max_domains)) {
            list.write(hv.machine(), count.into(), &hv.domain_info(&domain))?;
            count = count.wrapping_add(1);
        }
        op.set(&SysctlGetdomaininfolist { num_domains: count, ..request });
        Ok(())
    }
}
