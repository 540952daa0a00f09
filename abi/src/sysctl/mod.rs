//! What the control domain does to the machine (`sysctl.h`, interface version 0x15).

mod power;
mod scheduling;
mod working_set;

pub use power::*;
pub use scheduling::*;
pub use working_set::*;

use crate::domid::DomId;
use zerocopy::{Immutable, IntoBytes};

/// The one version of [`Sysctl`] the hypervisor speaks.
pub const XEN_SYSCTL_INTERFACE_VERSION: u32 = 0x15;

abi_consts! {
    /// A command of `sysctl`.
    u32:
    /// Read the hypervisor's log: [`SysctlReadconsole`].
    XEN_SYSCTL_READCONSOLE = 1,
    /// Control the trace buffers: [`SysctlTbufOp`].
    XEN_SYSCTL_TBUF_OP = 2,
    /// Processors, memory and capabilities of the machine: [`SysctlPhysinfo`].
    XEN_SYSCTL_PHYSINFO = 3,
    /// Which scheduler there is: [`SysctlSchedId`].
    XEN_SYSCTL_SCHED_ID = 4,
    /// Read performance counters.
    XEN_SYSCTL_PERFC_OP = 5,
    /// What is known of several domains: [`SysctlGetdomaininfolist`].
    XEN_SYSCTL_GETDOMAININFOLIST = 6,
    /// Press debug keys: [`SysctlDebugKeys`].
    XEN_SYSCTL_DEBUG_KEYS = 7,
    /// For how long each processor was idle: [`SysctlGetcpuinfo`].
    XEN_SYSCTL_GETCPUINFO = 8,
    /// How much memory is free: [`SysctlAvailheap`].
    XEN_SYSCTL_AVAILHEAP = 9,
    /// How processors sleep, and their frequencies: [`SysctlGetPmstat`].
    XEN_SYSCTL_GET_PMSTAT = 10,
    /// Take a processor up or down: [`SysctlCpuHotplug`].
    XEN_SYSCTL_CPU_HOTPLUG = 11,
    /// Set how processors sleep, and their frequencies: [`SysctlPmOp`].
    XEN_SYSCTL_PM_OP = 12,
    /// Take bad pages out of use: [`SysctlPageOfflineOp`].
    XEN_SYSCTL_PAGE_OFFLINE_OP = 14,
    /// Read how locks were used.
    XEN_SYSCTL_LOCKPROF_OP = 15,
    /// Core, socket and node of each processor: [`SysctlCputopoinfo`].
    XEN_SYSCTL_CPUTOPOINFO = 16,
    /// Memory and distances of nodes: [`SysctlNumainfo`].
    XEN_SYSCTL_NUMAINFO = 17,
    /// Make, end and fill pools of processors: [`SysctlCpupoolOp`].
    XEN_SYSCTL_CPUPOOL_OP = 18,
    /// Set or get a scheduler's knobs: [`SysctlSchedulerOp`].
    XEN_SYSCTL_SCHEDULER_OP = 19,
    /// Read code coverage.
    XEN_SYSCTL_COVERAGE_OP = 20,
    /// Monitor the use of caches.
    XEN_SYSCTL_PSR_CMT_OP = 21,
    /// The nodes of devices: [`SysctlPcitopoinfo`].
    XEN_SYSCTL_PCITOPOINFO = 22,
    /// Divide caches.
    XEN_SYSCTL_PSR_ALLOC = 23,
    /// What of CPUID can be hidden.
    XEN_SYSCTL_GET_CPU_LEVELLING_CAPS = 25,
    /// Features of the processor, by kind of guest.
    XEN_SYSCTL_GET_CPU_FEATURESET = 26,
    /// Patch the running hypervisor: [`SysctlLivepatchOp`].
    XEN_SYSCTL_LIVEPATCH_OP = 27,
    /// The whole of CPUID, by kind of guest.
    XEN_SYSCTL_GET_CPU_POLICY = 29,
}

abi_consts! {
    /// A capability of the machine.
    u32:
    XEN_SYSCTL_PHYSCAP_HVM = 1 << 0,
    XEN_SYSCTL_PHYSCAP_PV = 1 << 1,
    XEN_SYSCTL_PHYSCAP_DIRECTIO = 1 << 2,
    XEN_SYSCTL_PHYSCAP_HAP = 1 << 3,
    XEN_SYSCTL_PHYSCAP_SHADOW = 1 << 4,
    XEN_SYSCTL_PHYSCAP_IOMMU_HAP_PT_SHARE = 1 << 5,
    XEN_SYSCTL_PHYSCAP_VMTRACE = 1 << 6,
    XEN_SYSCTL_PHYSCAP_VPMU = 1 << 7,
    XEN_SYSCTL_PHYSCAP_GNTTAB_V1 = 1 << 8,
    XEN_SYSCTL_PHYSCAP_GNTTAB_V2 = 1 << 9,
}

abi_flags! {
    /// What the machine can do for domains.
    pub struct Capabilities: u32 {
        HVM = XEN_SYSCTL_PHYSCAP_HVM,
        PV = XEN_SYSCTL_PHYSCAP_PV,
        DIRECTIO = XEN_SYSCTL_PHYSCAP_DIRECTIO,
        HAP = XEN_SYSCTL_PHYSCAP_HAP,
        SHADOW = XEN_SYSCTL_PHYSCAP_SHADOW,
        IOMMU_HAP_PT_SHARE = XEN_SYSCTL_PHYSCAP_IOMMU_HAP_PT_SHARE,
        VMTRACE = XEN_SYSCTL_PHYSCAP_VMTRACE,
        VPMU = XEN_SYSCTL_PHYSCAP_VPMU,
        GNTTAB_V1 = XEN_SYSCTL_PHYSCAP_GNTTAB_V1,
        GNTTAB_V2 = XEN_SYSCTL_PHYSCAP_GNTTAB_V2,
    }
}

abi_consts! {
    /// Which set of features [`SysctlCpuFeatureset`] asks for.
    u32:
    XEN_SYSCTL_CPU_FEATURESET_RAW = 0,
    XEN_SYSCTL_CPU_FEATURESET_HOST = 1,
    XEN_SYSCTL_CPU_FEATURESET_PV = 2,
    XEN_SYSCTL_CPU_FEATURESET_HVM = 3,
    XEN_SYSCTL_CPU_FEATURESET_PV_MAX = 4,
    XEN_SYSCTL_CPU_FEATURESET_HVM_MAX = 5,
}

abi_consts! {
    /// Which policy [`SysctlCpuPolicy`] asks for.
    u32:
    XEN_SYSCTL_CPU_POLICY_RAW = 0,
    XEN_SYSCTL_CPU_POLICY_HOST = 1,
    XEN_SYSCTL_CPU_POLICY_PV_MAX = 2,
    XEN_SYSCTL_CPU_POLICY_HVM_MAX = 3,
    XEN_SYSCTL_CPU_POLICY_PV_DEFAULT = 4,
    XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT = 5,
}

abi_consts! {
    /// An entry of a topology that stands for nothing.
    u32:
    XEN_INVALID_CORE_ID = u32::MAX,
    XEN_INVALID_SOCKET_ID = u32::MAX,
    XEN_INVALID_NODE_ID = u32::MAX,
    XEN_INVALID_MEM_SZ = u32::MAX,
    XEN_INVALID_NODE_DIST = u32::MAX,
}

abi_struct! {
    /// The argument of `sysctl` (`xen_sysctl`).
    pub struct Sysctl [136] {
        /// `XEN_SYSCTL_*`: tells what `u` holds.
        pub cmd: u32,
        /// [`XEN_SYSCTL_INTERFACE_VERSION`].
        pub interface_version: u32,
        /// The command's structure, from the first byte on.
        pub u: [u8; 128],
    }
    /// Read the hypervisor's messages (`xen_sysctl_readconsole`).
    pub struct SysctlReadconsole [24] {
        /// IN: not 0: forget what was read.
        pub clear: u8,
        /// IN: not 0: go on from `index`.
        pub incremental: u8,
        /// Padding.
        pub pad0: u8,
        /// Padding.
        pub pad1: u8,
        /// IN: where to begin; OUT: where reading ended.
        pub index: u32,
        /// IN: guest address of the bytes.
        pub buffer: u64,
        /// IN: room in bytes; OUT: bytes read.
        pub count: u32,
        /// Padding.
        pub _pad0: u32,
    }
    /// The machine's size (`xen_sysctl_physinfo`).
    pub struct SysctlPhysinfo [112] {
        /// Threads of a core.
        pub threads_per_core: u32,
        /// Cores of a socket.
        pub cores_per_socket: u32,
        /// Processors that are up.
        pub nr_cpus: u32,
        /// Greatest possible processor number.
        pub max_cpu_id: u32,
        /// Memory nodes that are up.
        pub nr_nodes: u32,
        /// Greatest possible memory node number.
        pub max_node_id: u32,
        /// Frequency in kHz.
        pub cpu_khz: u32,
        /// [`Capabilities`].
        pub capabilities: u32,
        /// None is defined.
        pub arch_capabilities: u32,
        /// Padding.
        pub pad: u32,
        /// Pages there are.
        pub total_pages: u64,
        /// Pages nobody has.
        pub free_pages: u64,
        /// Pages to be cleaned.
        pub scrub_pages: u64,
        /// Pages claimed but not yet taken.
        pub outstanding_pages: u64,
        /// Greatest possible frame number.
        pub max_mfn: u64,
        /// The first words of the processor's features.
        pub hw_cap: [u32; 8],
    }
    /// Ask for the scheduler (`xen_sysctl_sched_id`).
    pub struct SysctlSchedId [4] {
        /// OUT: `XEN_SCHEDULER_*`.
        pub sched_id: u32,
    }
    /// Ask about all domains (`xen_sysctl_getdomaininfolist`).
    pub struct SysctlGetdomaininfolist [24] {
        /// IN: from which id on.
        pub first_domain: DomId,
        /// Padding.
        pub _pad0: u16,
        /// IN: how many at most.
        pub max_domains: u32,
        /// IN: guest address of [`crate::domctl::DomctlGetdomaininfo`]s.
        pub buffer: u64,
        /// OUT: how many.
        pub num_domains: u32,
        /// Padding.
        pub _pad1: u32,
    }
    /// Act as if keys were pressed on the hypervisor's console (`xen_sysctl_debug_keys`).
    pub struct SysctlDebugKeys [16] {
        /// Guest address of the characters.
        pub keys: u64,
        /// How many.
        pub nr_keys: u32,
        /// Padding.
        pub _pad0: u32,
    }
    /// What is known of a processor (`xen_sysctl_cpuinfo`).
    pub struct SysctlCpuinfo [8] {
        /// Nanoseconds it had nothing to do.
        pub idletime: u64,
    }
    /// Ask about all processors (`xen_sysctl_getcpuinfo`).
    pub struct SysctlGetcpuinfo [24] {
        /// IN: how many at most.
        pub max_cpus: u32,
        /// Padding.
        pub _pad0: u32,
        /// IN: guest address of [`SysctlCpuinfo`]s.
        pub info: u64,
        /// OUT: how many.
        pub nr_cpus: u32,
        /// Padding.
        pub _pad1: u32,
    }
    /// Ask for free memory (`xen_sysctl_availheap`).
    pub struct SysctlAvailheap [24] {
        /// IN: least bits of its addresses; 0: whichever.
        pub min_bitwidth: u32,
        /// IN: most bits of its addresses; 0: whichever.
        pub max_bitwidth: u32,
        /// IN: memory node; -1: all.
        pub node: i32,
        /// Padding.
        pub _pad0: u32,
        /// OUT: bytes.
        pub avail_bytes: u64,
    }
    /// Where a processor sits (`xen_sysctl_cputopo`).
    pub struct SysctlCputopo [12] {
        /// Core, or [`XEN_INVALID_CORE_ID`].
        pub core: u32,
        /// Socket.
        pub socket: u32,
        /// Memory node.
        pub node: u32,
    }
    /// Ask where processors sit (`xen_sysctl_cputopoinfo`).
    pub struct SysctlCputopoinfo [16] {
        /// IN: room; OUT: how many.
        pub num_cpus: u32,
        /// Padding.
        pub _pad0: u32,
        /// Guest address of [`SysctlCputopo`]s; 0 asks for the number alone.
        pub cputopo: u64,
    }
    /// A memory node's size (`xen_sysctl_meminfo`).
    pub struct SysctlMeminfo [16] {
        /// Bytes there are.
        pub memsize: u64,
        /// Bytes free.
        pub memfree: u64,
    }
    /// Ask about memory nodes (`xen_sysctl_numainfo`).
    pub struct SysctlNumainfo [24] {
        /// IN: room; OUT: how many.
        pub num_nodes: u32,
        /// Padding.
        pub _pad0: u32,
        /// Guest address of [`SysctlMeminfo`]s.
        pub meminfo: u64,
        /// Guest address of u32 distances, row by row.
        pub distance: u64,
    }
    /// Ask for features of the processor (`xen_sysctl_cpu_featureset`).
    pub struct SysctlCpuFeatureset [16] {
        /// IN: `XEN_SYSCTL_CPU_FEATURESET_*`.
        pub index: u32,
        /// IN: room; OUT: how many words.
        pub nr_features: u32,
        /// Guest address of u32 words; 0 asks for the number alone.
        pub features: u64,
    }
    /// Ask for what a kind of guest sees of the processor (`xen_sysctl_cpu_policy`).
    pub struct SysctlCpuPolicy [32] {
        /// IN: `XEN_SYSCTL_CPU_POLICY_*`.
        pub index: u32,
        /// IN/OUT: entries in `leaves`.
        pub nr_leaves: u32,
        /// IN/OUT: entries in `msrs`.
        pub nr_msrs: u32,
        /// Must be zero.
        pub _rsvd: u32,
        /// Guest address of [`crate::domctl::CpuidLeaf`]s; 0 asks for the number alone.
        pub leaves: u64,
        /// Guest address of [`crate::domctl::MsrEntry`]s.
        pub msrs: u64,
    }
}

impl Sysctl {
    /// A command with its structure.
    #[must_use]
    pub fn new<T: IntoBytes + Immutable>(cmd: u32, command: &T) -> Self {
        let mut call = Self { cmd, interface_version: XEN_SYSCTL_INTERFACE_VERSION, u: [0; 128] };
        call.set(command);
        call
    }
}

crate::command::impl_command!(Sysctl);
