//! Pools of processors and the scheduler's knobs (`sysctl.h`).

use crate::domctl::XenctlBitmap;

abi_consts! {
    /// What [`SysctlCpupoolOp`] does.
    u32:
    XEN_SYSCTL_CPUPOOL_OP_CREATE = 1,
    XEN_SYSCTL_CPUPOOL_OP_DESTROY = 2,
    XEN_SYSCTL_CPUPOOL_OP_INFO = 3,
    XEN_SYSCTL_CPUPOOL_OP_ADDCPU = 4,
    XEN_SYSCTL_CPUPOOL_OP_RMCPU = 5,
    XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN = 6,
    XEN_SYSCTL_CPUPOOL_OP_FREEINFO = 7,
}
/// `cpupool_id` or `cpu`: whichever.
pub const XEN_SYSCTL_CPUPOOL_PAR_ANY: u32 = u32::MAX;

abi_consts! {
    /// What [`SysctlSchedulerOp`] does.
    u32:
    XEN_SYSCTL_SCHEDOP_PUTINFO = 0,
    XEN_SYSCTL_SCHEDOP_GETINFO = 1,
}

abi_consts! {
    /// A bound of [`SysctlCreditSchedule`].
    u32:
    XEN_SYSCTL_SCHED_RATELIMIT_MAX = 500_000,
    XEN_SYSCTL_SCHED_RATELIMIT_MIN = 100,
    XEN_SYSCTL_CSCHED_TSLICE_MAX = 1000,
    XEN_SYSCTL_CSCHED_TSLICE_MIN = 1,
    XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US = 100_000,
}

abi_struct! {
    /// Manage pools of processors (`xen_sysctl_cpupool_op`).
    pub struct SysctlCpupoolOp [40] {
        /// `XEN_SYSCTL_CPUPOOL_OP_*`.
        pub op: u32,
        /// Which pool; `INFO` answers the next one there is.
        pub cpupool_id: u32,
        /// Its scheduler.
        pub sched_id: u32,
        /// Domain to move.
        pub domid: u32,
        /// Processor to add or remove.
        pub cpu: u32,
        /// OUT: domains in the pool.
        pub n_dom: u32,
        /// OUT: its processors.
        pub cpumap: XenctlBitmap,
    }
    /// Knobs of the credit scheduler (`xen_sysctl_credit_schedule`).
    pub struct SysctlCreditSchedule [12] {
        /// Milliseconds a vcpu runs at a stretch.
        pub tslice_ms: u32,
        /// Microseconds it runs undisturbed.
        pub ratelimit_us: u32,
        /// Microseconds it counts as warm in its processor's cache.
        pub vcpu_migr_delay_us: u32,
    }
    /// Set or get knobs of a scheduler (`xen_sysctl_scheduler_op`).
    pub struct SysctlSchedulerOp [32] {
        /// Which pool.
        pub cpupool_id: u32,
        /// `XEN_SCHEDULER_*`.
        pub sched_id: u32,
        /// `XEN_SYSCTL_SCHEDOP_*`.
        pub cmd: u32,
        /// Padding.
        pub _pad0: u32,
        /// The member of the union that the credit scheduler uses.
        pub sched_credit: SysctlCreditSchedule,
        /// The rest of the union.
        pub _pad1: u32,
    }
}
