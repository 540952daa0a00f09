//! Structures about a domain's virtual processors: registers, affinity, share of time.

use super::XenctlBitmap;

abi_consts! {
    /// Which map [`DomctlVcpuaffinity`] sets or gets.
    u32:
    XEN_VCPUAFFINITY_HARD = 1 << 0,
    XEN_VCPUAFFINITY_SOFT = 1 << 1,
    XEN_VCPUAFFINITY_FORCE = 1 << 2,
}

abi_flags! {
    /// `flags` of [`DomctlVcpuaffinity`].
    pub struct AffinityFlags: u32 {
        HARD = XEN_VCPUAFFINITY_HARD,
        SOFT = XEN_VCPUAFFINITY_SOFT,
        FORCE = XEN_VCPUAFFINITY_FORCE,
    }
}

abi_consts! {
    /// A scheduler.
    u32:
    XEN_SCHEDULER_CREDIT = 5,
    XEN_SCHEDULER_CREDIT2 = 6,
    XEN_SCHEDULER_ARINC653 = 7,
    XEN_SCHEDULER_RTDS = 8,
    XEN_SCHEDULER_NULL = 9,
}

abi_consts! {
    /// What [`DomctlSchedulerOp`] does.
    u32:
    XEN_DOMCTL_SCHEDOP_PUTINFO = 0,
    XEN_DOMCTL_SCHEDOP_GETINFO = 1,
    XEN_DOMCTL_SCHEDOP_PUTVCPUINFO = 2,
    XEN_DOMCTL_SCHEDOP_GETVCPUINFO = 3,
}

abi_struct! {
    /// Set how many vcpus a domain has (`xen_domctl_max_vcpus`).
    pub struct DomctlMaxVcpus [4] {
        /// That many.
        pub max: u32,
    }
    /// Set or get a vcpu's registers (`xen_domctl_vcpucontext`).
    pub struct DomctlVcpucontext [16] {
        /// Which vcpu.
        pub vcpu: u32,
        /// Padding.
        pub _pad0: u32,
        /// Guest address of a `VcpuGuestContext`; 0 takes the vcpu down.
        pub ctxt: u64,
    }
    /// What is known of a vcpu (`xen_domctl_getvcpuinfo`).
    pub struct DomctlGetvcpuinfo [24] {
        /// IN: which vcpu.
        pub vcpu: u32,
        /// OUT: whether it is up.
        pub online: u8,
        /// OUT: whether it waits for an event.
        pub blocked: u8,
        /// OUT: whether it runs at this moment.
        pub running: u8,
        /// Padding.
        pub _pad0: u8,
        /// OUT: nanoseconds it has run.
        pub cpu_time: u64,
        /// OUT: processor it runs on.
        pub cpu: u32,
        /// Padding.
        pub _pad1: u32,
    }
    /// Set or get where a vcpu runs (`xen_domctl_vcpuaffinity`).
    pub struct DomctlVcpuaffinity [40] {
        /// Which vcpu.
        pub vcpu: u32,
        /// `XEN_VCPUAFFINITY_*`.
        pub flags: u32,
        /// Where it may run.
        pub cpumap_hard: XenctlBitmap,
        /// Where it should run.
        pub cpumap_soft: XenctlBitmap,
    }
    /// Share of time under the credit schedulers (`xen_domctl_sched_credit`, `xen_domctl_sched_credit2`).
    pub struct DomctlSchedCredit [4] {
        /// Relative to others'; 256 is usual.
        pub weight: u16,
        /// Percent of one processor at most; 0: no limit.
        pub cap: u16,
    }
    /// Set or get a domain's share of time (`xen_domctl_scheduler_op`).
    pub struct DomctlSchedulerOp [24] {
        /// `XEN_SCHEDULER_*`.
        pub sched_id: u32,
        /// `XEN_DOMCTL_SCHEDOP_*`.
        pub cmd: u32,
        /// The first member of the union, which the credit schedulers use.
        pub credit: DomctlSchedCredit,
        /// The rest of the union.
        pub _pad0: [u32; 3],
    }
    /// Set or get callbacks that are in no context (`xen_domctl_ext_vcpucontext`).
    pub struct DomctlExtVcpucontext [64] {
        /// Which vcpu.
        pub vcpu: u32,
        /// Bytes of this structure.
        pub size: u32,
        /// Entry for `syscall` from 32-bit user mode.
        pub syscall32_callback_eip: u64,
        /// Entry for `sysenter`.
        pub sysenter_callback_eip: u64,
        /// Its code selector.
        pub syscall32_callback_cs: u16,
        /// Its code selector.
        pub sysenter_callback_cs: u16,
        /// Whether it masks events.
        pub syscall32_disables_events: u8,
        /// Whether it masks events.
        pub sysenter_disables_events: u8,
        /// Padding.
        pub _pad0: u16,
        /// Machine checks: `MCG_CAP`, controls of two banks, extended control.
        pub machine_checks: [u64; 4],
    }
    /// Set or get extended registers (`xen_domctl_vcpuextstate`).
    pub struct DomctlVcpuextstate [32] {
        /// Which vcpu.
        pub vcpu: u32,
        /// Padding.
        pub _pad0: u32,
        /// The parts that there are, as bits of XCR0.
        pub xfeature_mask: u64,
        /// Bytes of the record.
        pub size: u64,
        /// Guest address of the record: XCR0, all that it ever was, the area of XSAVE; 0 asks for mask and size.
        pub buffer: u64,
    }
    /// A model-specific register of a vcpu (`xen_domctl_vcpu_msr`).
    pub struct DomctlVcpuMsr [16] {
        /// Which register.
        pub index: u32,
        /// Must be zero.
        pub reserved: u32,
        /// Its value.
        pub value: u64,
    }
    /// Set or get model-specific registers (`xen_domctl_vcpu_msrs`).
    pub struct DomctlVcpuMsrs [16] {
        /// Which vcpu.
        pub vcpu: u32,
        /// IN/OUT: how many.
        pub msr_count: u32,
        /// Guest address of [`DomctlVcpuMsr`]s; 0 asks how many there can be.
        pub msrs: u64,
    }
    /// Have a vcpu take an interrupt of a real machine (`xen_domctl_sendtrigger`).
    pub struct DomctlSendtrigger [8] {
        /// 0: NMI.
        pub trigger: u32,
        /// Which vcpu.
        pub vcpu: u32,
    }
}
