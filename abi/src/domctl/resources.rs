//! Structures about what a domain may use: memory, processors' policy, ports, interrupts, device memory.

use super::XenctlBitmap;

abi_struct! {
    /// Limit a domain's memory (`xen_domctl_max_mem`).
    pub struct DomctlMaxMem [8] {
        /// In KiB.
        pub max_memkb: u64,
    }
    /// Prefer memory nodes (`xen_domctl_nodeaffinity`).
    pub struct DomctlNodeaffinity [16] {
        /// The nodes.
        pub nodemap: XenctlBitmap,
    }
    /// Allow or deny an interrupt (`xen_domctl_irq_permission`).
    pub struct DomctlIrqPermission [8] {
        /// The pirq.
        pub pirq: u32,
        /// Not 0: allow.
        pub allow_access: u8,
        /// Padding.
        pub pad: [u8; 3],
    }
    /// Allow or deny device memory (`xen_domctl_iomem_permission`).
    pub struct DomctlIomemPermission [24] {
        /// First frame.
        pub first_mfn: u64,
        /// Frames, at least one.
        pub nr_mfns: u64,
        /// Not 0: allow.
        pub allow_access: u8,
        /// Padding.
        pub _pad0: [u8; 7],
    }
    /// Allow or deny I/O ports (`xen_domctl_ioport_permission`).
    pub struct DomctlIoportPermission [12] {
        /// First port.
        pub first_port: u32,
        /// Ports.
        pub nr_ports: u32,
        /// Not 0: allow.
        pub allow_access: u8,
        /// Padding.
        pub _pad0: [u8; 3],
    }
    /// Read or set what a domain sees of the processor (`xen_domctl_cpu_policy`).
    pub struct DomctlCpuPolicy [40] {
        /// IN/OUT: entries in `leaves`.
        pub nr_leaves: u32,
        /// IN/OUT: entries in `msrs`.
        pub nr_msrs: u32,
        /// Guest address of [`CpuidLeaf`]s.
        pub leaves: u64,
        /// Guest address of [`MsrEntry`]s.
        pub msrs: u64,
        /// OUT: the leaf that was refused, or [`XEN_CPUID_INPUT_UNUSED`].
        pub err_leaf: u32,
        /// OUT: the subleaf that was refused.
        pub err_subleaf: u32,
        /// OUT: the register that was refused.
        pub err_msr: u32,
        /// Padding.
        pub _pad0: u32,
    }
    /// One leaf of `cpuid` (`xen_cpuid_leaf`, `arch-x86/xen.h`).
    pub struct CpuidLeaf [24] {
        /// The leaf.
        pub leaf: u32,
        /// The subleaf, or [`XEN_CPUID_NO_SUBLEAF`].
        pub subleaf: u32,
        /// EAX.
        pub a: u32,
        /// EBX.
        pub b: u32,
        /// ECX.
        pub c: u32,
        /// EDX.
        pub d: u32,
    }
    /// One model-specific register (`xen_msr_entry`, `arch-x86/xen.h`).
    pub struct MsrEntry [16] {
        /// Its number.
        pub idx: u32,
        /// Must be zero.
        pub flags: u32,
        /// Its value.
        pub val: u64,
    }
}

/// `subleaf` of a leaf that has none.
pub const XEN_CPUID_NO_SUBLEAF: u32 = u32::MAX;
/// `err_leaf`, `err_subleaf` and `err_msr` when nothing was refused.
pub const XEN_CPUID_INPUT_UNUSED: u32 = u32::MAX;

abi_struct! {
    /// Show a device's memory to a guest (`xen_domctl_memory_mapping`).
    pub struct DomctlMemoryMapping [32] {
        /// The guest's first page.
        pub first_gfn: u64,
        /// The machine's first page.
        pub first_mfn: u64,
        /// How many.
        pub nr_mfns: u64,
        /// Not 0: add.
        pub add_mapping: u32,
        /// Padding.
        pub padding: u32,
    }
    /// Let a guest see NUMA nodes (`xen_domctl_vnuma`).
    pub struct DomctlVnuma [48] {
        /// How many.
        pub nr_vnodes: u32,
        /// Ranges of memory.
        pub nr_vmemranges: u32,
        /// Vcpus: as many as the domain can have.
        pub nr_vcpus: u32,
        /// Must be zero.
        pub pad: u32,
        /// How far each node is from each, row by row: `u32`s.
        pub vdistance: u64,
        /// The node of each vcpu: `u32`s.
        pub vcpu_to_vnode: u64,
        /// The machine's node behind each: `u32`s.
        pub vnode_to_pnode: u64,
        /// The ranges ([`crate::memory::Vmemrange`]).
        pub vmemrange: u64,
    }
    /// Watch what a guest does (`xen_domctl_monitor_op`).
    pub struct DomctlMonitorOp [24] {
        /// What is done.
        pub op: u32,
        /// Which event, or a bitmap of them.
        pub event: u32,
        /// As `event` tells.
        pub u: [u64; 2],
    }
    /// Manage a ring for memory events (`xen_domctl_vm_event_op`).
    pub struct DomctlVmEventOp [12] {
        /// What is done.
        pub op: u32,
        /// Which ring.
        pub mode: u32,
        /// OUT: a port or a version.
        pub value: u32,
    }
}
