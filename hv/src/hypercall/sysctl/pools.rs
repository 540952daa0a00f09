//! Pools of processors, and the scheduler's knobs in each.

use crate::hypercall::number::{domid, uint};
use crate::{
    caller::Caller,
    machine::Machine,
    reply::Control,
    sched::run_queue::{RATE_LIMIT, SLICE},
};
use oxen_abi::{
    domctl::XEN_SCHEDULER_CREDIT,
    errno::Errno,
    sysctl::{
        Sysctl, SysctlCpupoolOp, SysctlCreditSchedule, SysctlSchedulerOp, XEN_SYSCTL_CPUPOOL_OP_ADDCPU,
        XEN_SYSCTL_CPUPOOL_OP_CREATE, XEN_SYSCTL_CPUPOOL_OP_DESTROY, XEN_SYSCTL_CPUPOOL_OP_FREEINFO,
        XEN_SYSCTL_CPUPOOL_OP_INFO, XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, XEN_SYSCTL_CPUPOOL_OP_RMCPU,
        XEN_SYSCTL_CPUPOOL_PAR_ANY, XEN_SYSCTL_SCHEDOP_GETINFO, XEN_SYSCTL_SCHEDOP_PUTINFO,
    },
};

impl<M: Machine> Caller<'_, M> {
    /// Makes, changes and describes pools. Each has the credit scheduler.
    pub(super) fn cpupool_op(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        let request: SysctlCpupoolOp = op.get();
        let hv = self.hv;
        let pool = request.cpupool_id;
        let unless_any = |number| if number == XEN_SYSCTL_CPUPOOL_PAR_ANY { None } else { Some(number) };
        match request.op {
            XEN_SYSCTL_CPUPOOL_OP_CREATE => {
                if request.sched_id != XEN_SCHEDULER_CREDIT {
                    return Err(Errno::NoEnt);
                }
                let cpupool_id = hv.pools.lock().create(unless_any(pool))?;
                op.set(&SysctlCpupoolOp { cpupool_id, ..request });
                Ok(())
            }
            XEN_SYSCTL_CPUPOOL_OP_DESTROY => hv.destroy_pool(pool),
            XEN_SYSCTL_CPUPOOL_OP_INFO => {
                let found = hv.pools.lock().next_from(pool).ok_or(Errno::NoEnt)?;
                self.write_cpu_bitmap(&request.cpumap, found.cpus & hv.online_mask())?;
                let n_dom = hv.domains_of_pool(found.id);
                op.set(&SysctlCpupoolOp { cpupool_id: found.id, sched_id: XEN_SCHEDULER_CREDIT, n_dom, ..request });
                Ok(())
            }
            XEN_SYSCTL_CPUPOOL_OP_ADDCPU => hv.add_cpu_to_pool(pool, unless_any(request.cpu)),
            XEN_SYSCTL_CPUPOOL_OP_RMCPU => hv.remove_cpu_from_pool(pool, unless_any(request.cpu)),
            XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN => self.move_domain_to_pool(request.domid, pool),
            XEN_SYSCTL_CPUPOOL_OP_FREEINFO => {
                let free = hv.pools.lock().free() & hv.online_mask();
                self.write_cpu_bitmap(&request.cpumap, free)
            }
            _ => Err(Errno::NoSys),
        }
    }

    fn move_domain_to_pool(&self, domain: u32, pool: u32) -> Result<(), Errno> {
        let domain = self.hv.domains.get(domid(domain.into())).ok_or(Errno::Srch)?;
        if domain.id == self.domain.id {
            return Err(Errno::Perm);
        }
        self.hv.move_domain_to_pool(&domain, pool)
    }

    /// The credit scheduler's knobs are fixed, and told; what is set to something else is refused.
    pub(super) fn sysctl_scheduler_op(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        let request: SysctlSchedulerOp = op.get();
        let sched_credit = SysctlCreditSchedule {
            tslice_ms: uint(SLICE / 1_000_000),
            ratelimit_us: uint(RATE_LIMIT / 1_000),
            vcpu_migr_delay_us: 0,
        };
        if !matches!(request.cmd, XEN_SYSCTL_SCHEDOP_GETINFO | XEN_SYSCTL_SCHEDOP_PUTINFO) {
            return Err(Errno::Inval);
        }
        self.hv.pools.lock().get(request.cpupool_id).ok_or(Errno::Srch)?;
        let is_set_as_it_is = request.cmd == XEN_SYSCTL_SCHEDOP_PUTINFO && request.sched_credit == sched_credit;
        if request.sched_id != XEN_SCHEDULER_CREDIT || (request.cmd != XEN_SYSCTL_SCHEDOP_GETINFO && !is_set_as_it_is) {
            return Err(Errno::Inval);
        }
        op.set(&SysctlSchedulerOp { sched_credit, ..request });
        Ok(())
    }
}
